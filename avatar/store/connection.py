"""The SDK's clients, the threads they run in, and the patience they are called with."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import TypeVar
from urllib.parse import urlsplit

import urllib3
from minio import Minio

from avatar.errors import NotConfigured
from avatar.settings import StoreSettings
from avatar.store.objects import CALL_ERRORS, explain, may_pass

T = TypeVar("T")

#: Seconds between the tries of a call that may be repeated.
PAUSES = (0.2, 0.8)
#: No try is begun later than this many seconds after the first: of short calls, of transfers.
PATIENCE, TRANSFER_PATIENCE = 10.0, 120.0
THREADS = 16
# Transfers get threads of their own: sixteen uploads must not keep a journal entry waiting.
TRANSFER_THREADS = 4


class Connection:
    """Two clients of one server: one for short calls, one for transfers; and one that only signs public URLs.

    Short calls wait `answer_seconds` for an answer. Making it does no I/O. Raises `NotConfigured` for missing or unusable settings.
    """

    def __init__(self, settings: StoreSettings, *, answer_seconds: float = 10.0) -> None:
        host, secure = parse_endpoint(settings.endpoint, settings.secure, "AVATAR_STORE__ENDPOINT")
        public = parse_endpoint(
            settings.public_endpoint or settings.endpoint,
            settings.secure if settings.public_endpoint else secure,
            "AVATAR_STORE__PUBLIC_ENDPOINT",
        )
        self.endpoint = host
        self.bucket = settings.bucket
        self.pool = open_pool(connect=3.0, read=answer_seconds)
        # urllib3 sends a whole body within the *connect* time-out of a new connection: a part needs minutes.
        self._transfer_pool = open_pool(connect=120.0, read=120.0)
        self.client = open_client(settings, host, secure, self.pool)
        self.transfers = open_client(settings, host, secure, self._transfer_pool)
        self.public = open_client(settings, *public, self.pool)
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="store")
        self._transfer_threads = ThreadPoolExecutor(TRANSFER_THREADS, thread_name_prefix="store-transfer")

    async def run(self, action: str, call: Callable[[], T], *, pauses: tuple[float, ...] = PAUSES) -> T:
        """Run a call that may be repeated. Raises what `explain` makes of its last failure."""
        return await self._run(self._threads, action, call, pauses, PATIENCE)

    async def transfer(self, action: str, call: Callable[[], T]) -> T:
        """Like `run`, for calls that move a file."""
        return await self._run(self._transfer_threads, action, call, PAUSES, TRANSFER_PATIENCE)

    async def _run(
        self,
        threads: Executor,
        action: str,
        call: Callable[[], T],
        pauses: tuple[float, ...],
        patience: float,
    ) -> T:
        loop, begun = asyncio.get_running_loop(), time.monotonic()
        for pause in (*pauses, None):
            try:
                return await loop.run_in_executor(threads, call)
            except CALL_ERRORS as error:
                failure, final = explain(error, action, self.endpoint), not may_pass(error)
            if pause is None or final or time.monotonic() - begun + pause > patience:
                break
            await asyncio.sleep(pause)
        raise failure

    async def aclose(self) -> None:
        """Close the threads and the sockets; calls under way are waited for."""
        await asyncio.to_thread(self.close)

    def close(self) -> None:
        self._threads.shutdown(cancel_futures=True)
        self._transfer_threads.shutdown(cancel_futures=True)
        self.pool.clear()
        self._transfer_pool.clear()


def open_pool(*, connect: float, read: float) -> urllib3.PoolManager:
    """Sockets without the SDK's own retries: which call may be repeated is decided here. Times in seconds."""
    timeout = urllib3.Timeout(connect=connect, read=read)
    return urllib3.PoolManager(maxsize=THREADS, retries=False, timeout=timeout)


def open_client(settings: StoreSettings, host: str, secure: bool, pool: urllib3.PoolManager) -> Minio:
    """An SDK client; with a region given it never asks the server for one."""
    if settings.access_key is None or settings.secret_key is None:
        raise NotConfigured(
            "The store's keys are missing. Nothing was sent.",
            hint="Set AVATAR_STORE__ACCESS_KEY and AVATAR_STORE__SECRET_KEY.",
        )
    return Minio(
        host,
        access_key=settings.access_key.get_secret_value(),
        secret_key=settings.secret_key.get_secret_value(),
        secure=secure,
        region=settings.region,
        http_client=pool,
    )


def parse_endpoint(text: str | None, secure: bool, setting: str) -> tuple[str, bool]:
    """Host (with port) and whether it speaks https, of `host:port` or of a URL; `NotConfigured` otherwise."""
    parts = urlsplit(text if text and "://" in text else f"{'https' if secure else 'http'}://{text or ''}")
    bare = parts.path in {"", "/"} and not (parts.query or parts.fragment or "@" in parts.netloc)
    if parts.scheme not in {"http", "https"} or not parts.hostname or not bare:
        raise NotConfigured(
            "The address of the store is missing or cannot be used. Nothing was sent.",
            hint=f"Set {setting} to host:port, or to http(s)://host:port without a path.",
        )
    return parts.netloc, parts.scheme == "https"

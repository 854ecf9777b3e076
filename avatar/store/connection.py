"""The SDK's clients, the threads they run in, and the patience they are called with; and conditional create.

Creating an object only if there is none is the one thing that safe payment needs beyond plain S3. minio 7.2.20 has no
parameter for it: `If-None-Match` in its `metadata=` becomes user metadata and the object is silently overwritten. A
presigned PUT carries the header as it is, and goes through the SDK's own sockets, which belong to no event loop.
"""

import asyncio
import base64
import hashlib
import ipaddress
import os
import re
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from http import HTTPStatus
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3
import urllib3.exceptions
from minio import Minio
from minio.credentials.credentials import Credentials
from minio.credentials.providers import (
    AWSConfigProvider,
    EnvAWSProvider,
    EnvMinioProvider,
    IamAwsProvider,
    MinioClientConfigProvider,
    Provider,
    StaticProvider,
)

from avatar.errors import NotConfigured, ObjectNotFound, StoreUnavailable, StoreUnfit
from avatar.settings_sections import StoreSettings
from avatar.store.objects import BUSY, CALL_ERRORS, FULL, advice_for, code_of, explain, is_web_page, may_pass

T = TypeVar("T")

#: Seconds between the tries of a call that may be repeated.
PAUSES = (0.2, 0.8)
#: No try is begun later than this many seconds after the first: of short calls, of transfers.
PATIENCE, TRANSFER_PATIENCE = 10.0, 120.0
THREADS = 16
# Transfers get threads of their own: sixteen uploads must not keep a journal entry waiting.
TRANSFER_THREADS = 4


@dataclass
class CallCounts:
    """What this process asked of the store, repetitions included: how many calls, their seconds, failures."""

    count: int = 0
    seconds: float = 0.0
    failed: int = 0


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
        self.calls = CallCounts()
        self.endpoint = host
        self.bucket = settings.bucket
        url = f"{'https' if secure else 'http'}://{host}"
        self.pool = open_pool(url, connect=3.0, read=answer_seconds)
        # urllib3 sends a whole body within the *connect* time-out of a new connection: a part needs minutes.
        self._transfer_pool = open_pool(url, connect=120.0, read=120.0)
        self.client = open_client(settings, host, secure, self.pool)
        self.transfers = open_client(settings, host, secure, self._transfer_pool)
        self.creating = open_client(settings, host, secure, CreatingPool(self._transfer_pool))
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
            asked = time.monotonic()
            try:
                return await loop.run_in_executor(threads, call)
            except CALL_ERRORS as error:
                failure, final = explain(error, action, self.endpoint), not may_pass(error)
                self.calls.failed += isinstance(failure, StoreUnavailable)
            finally:
                self.calls.count += 1
                self.calls.seconds += time.monotonic() - asked
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


def open_pool(url: str, *, connect: float, read: float) -> urllib3.PoolManager:
    """Sockets without the SDK's own retries: which call may be repeated is decided here. Times in seconds.

    Through the proxy that the environment names for the store's `url`; urllib3 does not look for one.
    """
    timeout = urllib3.Timeout(connect=connect, read=read)
    proxy = proxy_for(url)
    if proxy is None:
        return urllib3.PoolManager(maxsize=THREADS, retries=False, timeout=timeout)
    user = urllib3.util.parse_url(proxy).auth
    headers = urllib3.make_headers(proxy_basic_auth=unquote(user)) if user else None
    return urllib3.ProxyManager(proxy, proxy_headers=headers, maxsize=THREADS, retries=False, timeout=timeout)


class CreatingPool(urllib3.PoolManager):
    """Another pool's sockets, for a client whose PUTs create and never overwrite: its SDK cannot ask for that itself.

    The header is added after the SDK has signed, which S3 asks for only where a header begins with `x-amz-`.
    """

    def __init__(self, pool: urllib3.PoolManager) -> None:
        super().__init__()
        self._pool = pool

    def urlopen(self, method: str, url: str, redirect: bool = True, **more: Any) -> urllib3.BaseHTTPResponse:  # type: ignore[override]
        headers = urllib3.HTTPHeaderDict(more.pop("headers", {}))
        headers["If-None-Match"] = "*"
        return self._pool.urlopen(method, url, redirect=redirect, headers=headers, **more)


def proxy_for(url: str) -> str | None:
    """The URL of the proxy that the environment names for an address, which may hold a password; None for none.

    `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY`, as httpx reads them, for connections that it does not make by
    itself. This machine's own addresses are reached without a proxy, whatever the names say: a store or a stand-in that
    runs here would not be found through one.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    if not host or is_this_machine(host) or proxy_bypass(host):
        return None
    known = getproxies()
    proxy = known.get(parts.scheme) or known.get("all")
    return proxy if not proxy or "://" in proxy else f"http://{proxy}"


def is_this_machine(host: str) -> bool:
    """Whether a host's name or address is loopback."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def open_client(settings: StoreSettings, host: str, secure: bool, pool: urllib3.PoolManager) -> Minio:
    """An SDK client; with a region given it never asks the server for one."""
    provider, region = find_credentials(settings, host), find_region(settings, host)
    rest = host.removeprefix(f"{settings.bucket}.")
    if rest != host and (_named_region(rest) or rest.endswith(_ONE_REGION)):
        raise NotConfigured(
            f"The address of the store, {host}, begins with the bucket. Nothing was sent.",
            hint=f"Set AVATAR_STORE__ENDPOINT to {rest}; for the bucket in the host, "
            "AVATAR_STORE__ADDRESSING=virtual.",
        )
    try:
        client = Minio(host, credentials=provider, secure=secure, region=region, http_client=pool)
    except ValueError as error:
        raise NotConfigured(
            f"The address of the store cannot be used: {error}. Nothing was sent.",
            hint="Set AVATAR_STORE__ENDPOINT to the host of the S3 server alone, without the bucket and without a path.",
        ) from None
    if settings.addressing == "path":
        client.disable_virtual_style_endpoint()  # type: ignore[no-untyped-call]
    elif settings.addressing == "virtual":
        client.enable_virtual_style_endpoint()  # type: ignore[no-untyped-call]
    return client


#: Region by the name of the host; the SDK would take another setting, and go to another place, without a word.
_REGIONS = (
    re.compile(
        r"s3(?:-fips)?(?:\.dualstack)?[.-](?P<region>[a-z]{2}(?:-[a-z]+)+-\d)\.amazonaws\.com(?:\.cn)?"
    ),
    re.compile(r".+\.s3\.(?P<region>[a-z0-9-]+)\.vpce\.amazonaws\.com"),
    re.compile(r"s3\.(?P<region>[a-z0-9-]+)\.(?:backblazeb2|wasabisys)\.com"),
    re.compile(r"s3\.(?P<region>[a-z0-9-]+)\.(?:scw\.cloud|io\.cloud\.ovh\.net)"),
    re.compile(r"(?P<region>[a-z]{3}\d)\.digitaloceanspaces\.com"),
    re.compile(r"cos\.(?P<region>[a-z0-9-]+)\.myqcloud\.com"),
)
#: Stores that have one region, which they call so.
_ONE_REGION = (".r2.cloudflarestorage.com", "storage.googleapis.com")


def _named_region(host: str) -> str | None:
    name = host.partition(":")[0].lower()
    return next((match["region"] for pattern in _REGIONS if (match := pattern.fullmatch(name))), None)


def find_region(settings: StoreSettings, host: str) -> str:
    """The region of signatures. Raises `NotConfigured` if the setting contradicts the host's name."""
    name, found = host.partition(":")[0].lower(), _named_region(host)
    if found and settings.region not in {None, found}:
        raise NotConfigured(
            f"The store at {host} is in the region {found}, and AVATAR_STORE__REGION is {settings.region}. Nothing was sent.",
            hint="Unset AVATAR_STORE__REGION, or name the endpoint of that region.",
        )
    if settings.region is None and name.endswith(_ONE_REGION):
        return "auto"
    return found or settings.region or "us-east-1"


class _Role(IamAwsProvider):
    """The machine's role; what keeps it from giving keys is told in our words."""

    def retrieve(self) -> Credentials:
        try:
            return super().retrieve()
        except (ValueError, KeyError, urllib3.exceptions.HTTPError):
            raise no_credentials() from None


def find_credentials(settings: StoreSettings, host: str) -> Provider:
    """The keys that are set; else what the SDK's providers find, in its order. Raises `NotConfigured` if there are none.

    Variables and files are read here, a role is asked for when it is needed.
    """
    if settings.access_key and settings.secret_key:
        token = settings.session_token.get_secret_value() if settings.session_token else None
        keys = settings.access_key.get_secret_value(), settings.secret_key.get_secret_value()
        return StaticProvider(*keys, token)
    if settings.access_key or settings.secret_key:
        raise no_credentials()
    for provider in (EnvAWSProvider(), EnvMinioProvider(), AWSConfigProvider(), MinioClientConfigProvider()):
        try:
            provider.retrieve()
        except (ValueError, KeyError, TypeError, OSError):
            continue
        return provider
    if any(name in os.environ for name in _ROLE) or host.partition(":")[0].endswith(_AWS):
        return _Role()
    raise no_credentials()


_AWS = (".amazonaws.com", ".amazonaws.com.cn")
_ROLE = (
    "AWS_ROLE_ARN",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)


def no_credentials() -> NotConfigured:
    return NotConfigured(
        "The store's keys are missing. Nothing was sent.",
        hint="Set AVATAR_STORE__ACCESS_KEY and AVATAR_STORE__SECRET_KEY; without them, AWS_ACCESS_KEY_ID and "
        "AWS_SECRET_ACCESS_KEY, MINIO_ACCESS_KEY and MINIO_SECRET_KEY, ~/.aws/credentials and the machine's role are tried.",
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


#: Seconds between tries. SeaweedFS makes losers of a contended key wait for up to 6 s.
CREATE_PAUSES = (0.1, 0.3, 0.8, 1.5)
#: No try is begun later than this many seconds after the first.
CREATE_PATIENCE = 30.0
TAKEN = frozenset({HTTPStatus.PRECONDITION_FAILED, HTTPStatus.CONFLICT})


@dataclass(frozen=True)
class PutAnswer:
    """How one PUT ended; `status` is None when the answer, or the request, was lost."""

    status: int | None
    code: str

    @property
    def created(self) -> bool:
        return self.status in {HTTPStatus.OK, HTTPStatus.CREATED, HTTPStatus.NO_CONTENT}

    @property
    def lost(self) -> bool:
        """The object may or may not have been created."""
        return self.status is None or self.status >= HTTPStatus.INTERNAL_SERVER_ERROR or self.status in BUSY


async def create_if_absent(
    connection: Connection,
    key: str,
    data: bytes,
    content_type: str,
    read_back: Callable[[], Awaitable[bytes]],
) -> bool:
    """True if the object under `key` is now ours: created by this call, or found to hold these very bytes.

    `read_back` returns what the key holds, up to one byte more than `data`. See `Store.create_if_absent`.
    """
    begun, send = time.monotonic(), partial(put_if_absent, connection, key, data, content_type)
    for pause in (*CREATE_PAUSES, None):
        answer = await connection.run(f"create_if_absent {key}", send, pauses=())
        if answer.created:
            return True
        check_answer(answer, key, connection.endpoint)
        if answer.status in TAKEN and (mine := await is_mine(data, read_back)) is not None:
            return mine
        if pause is None or time.monotonic() - begun > CREATE_PATIENCE:
            break
        await asyncio.sleep(pause)
    with suppress(StoreUnavailable):
        if (mine := await is_mine(data, read_back)) is not None:
            return mine
    raise StoreUnavailable(
        f"The store at {connection.endpoint} did not confirm that it created {key} ({answer.code}). "
        "Creating it again with the same content is safe.",
        hint=advice_for(answer.code, answer.status)
        or "Check that the store runs and that AVATAR_STORE__ENDPOINT names it.",
    )


async def is_mine(data: bytes, read_back: Callable[[], Awaitable[bytes]]) -> bool | None:
    """Whether the key holds `data`, which may be an earlier success of ours; None if it holds nothing."""
    try:
        return await read_back() == data
    except ObjectNotFound:
        return None


def check_answer(answer: PutAnswer, key: str, endpoint: str) -> None:
    """Raise for an answer that repeating the call will not change."""
    if answer.status == HTTPStatus.NOT_IMPLEMENTED:
        raise StoreUnfit(
            f"The store at {endpoint} cannot create_if_absent an object conditionally (501): {key} was not created."
        )
    if answer.status not in TAKEN and not answer.lost:
        denied = answer.status == HTTPStatus.FORBIDDEN and answer.code not in FULL
        said = f"denied access ({answer.code})" if denied else f"answered {answer.code}"
        raise StoreUnavailable(
            f"The store at {endpoint} {said}: {key} was not created.",
            hint=advice_for(answer.code, answer.status),
        )


def put_if_absent(connection: Connection, key: str, data: bytes, content_type: str) -> PutAnswer:
    """One PUT with `If-None-Match: *`. Never raises for what the store or the network did."""
    url = connection.client.get_presigned_url("PUT", connection.bucket, key, expires=timedelta(minutes=15))
    digest = base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()
    headers = {"If-None-Match": "*", "Content-Type": content_type, "Content-MD5": digest}
    try:
        response = connection.pool.request("PUT", url, body=data, headers=headers, redirect=False)
    except urllib3.exceptions.HTTPError as error:
        return PutAnswer(None, code_of(error))
    if response.status < HTTPStatus.BAD_REQUEST and is_web_page(response.headers) and response.data:
        return PutAnswer(HTTPStatus.BAD_REQUEST, "WebPage")  # nothing was created, whatever it says
    found = re.search(rb"<Code>([A-Za-z0-9]{1,60})</Code>", response.data)
    return PutAnswer(response.status, found[1].decode() if found else f"HTTP {response.status}")

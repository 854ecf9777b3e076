"""Leases on the slots of an account, as the Prefect server gives, renews and takes them back. One question at a time.

Nothing here raises because of a server that is away: a render that is paid goes on without it.
"""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import ExitStack
from contextvars import copy_context
from dataclasses import dataclass
from logging import LoggerAdapter
from typing import Any, TypeVar
from uuid import UUID

import httpx
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import ConcurrencyLeaseHolder
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from tasks.limits import Limit, ensure_limit

#: How long a turn outlives a process that was killed, in seconds: the shortest that the server takes.
LEASE_SECONDS = 60.0
#: Seconds that one question to the server may take; Prefect's client alone would repeat it for a minute.
PATIENCE = 10.0
#: Seconds between repetitions of a question while the server's SQLite is locked.
BUSY_PAUSES = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6)
#: Seconds between two lines in the log about waiting, or about a server that is away.
TELL_SECONDS = 60.0

T = TypeVar("T")
Log = logging.Logger | LoggerAdapter[Any]


@dataclass(frozen=True)
class Lease:
    id: UUID
    since: float  # when the server gave it, by the monotonic clock


class Leases:
    """What one flow run asks the server."""

    def __init__(self, client: PrefectClient, log: Log, run: UUID | None) -> None:
        self._client, self._log = client, log
        self._holder = ConcurrencyLeaseHolder(type="flow_run", id=run) if run else None
        self._ensured: set[str] = set()
        self._told = -TELL_SECONDS
        self._context, self._in_context = copy_context(), ExitStack()
        self._context.run(self._in_context.enter_context, temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}))

    def close(self) -> None:
        self._context.run(self._in_context.close)

    async def take(self, limit: Limit) -> Lease | None:
        """A lease on one slot, or None: all are taken, or the server has no answer for now."""
        return await self._try(limit, self._slot)

    async def may_send(self, limit: Limit) -> bool:
        """Whether the rate allows one more request now."""
        return bool(await self._try(limit, self._leave))

    async def renew(self, limit: Limit, lease: Lease) -> bool:
        """Whether the lease still counts, as far as is known; a server that does not answer has not said no."""
        try:
            await self._soon(lambda: self._client.renew_concurrency_lease(lease.id, LEASE_SECONDS))
        except httpx.HTTPStatusError as error:
            if error.response.status_code == httpx.codes.GONE:
                self._log.warning(
                    "A turn of %s was lost while the Prefect server was away. The render goes on, and takes the next.",
                    limit.name,
                )
                return False
        except (httpx.HTTPError, TimeoutError):
            self.tell("The Prefect server does not answer; the renders under way go on without it.")
        return True

    async def release(self, lease: Lease) -> None:
        """Free a slot. If that fails, its lease runs out by itself."""
        with contextlib.suppress(httpx.HTTPError, TimeoutError):
            await self._soon(lambda: self._client.release_concurrency_slots_with_lease(lease.id))

    def tell(self, text: str) -> None:
        """Say it, but no more than one thing in `TELL_SECONDS`."""
        if time.monotonic() - self._told > TELL_SECONDS:
            self._told = time.monotonic()
            self._log.warning(text)

    async def _slot(self, limit: Limit) -> Lease | None:
        answer = await self._soon(
            lambda: self._client.increment_concurrency_slots_with_lease(
                names=[limit.name],
                slots=1,
                mode="concurrency",
                lease_duration=LEASE_SECONDS,
                holder=self._holder,
            )
        )
        granted = answer.json()
        return Lease(UUID(granted["lease_id"]), time.monotonic()) if granted["limits"] else None

    async def _leave(self, limit: Limit) -> bool | None:
        answer = await self._soon(
            lambda: self._client.increment_concurrency_slots([limit.name], slots=1, mode="rate_limit")
        )
        return bool(answer.json()) or None

    async def _try(self, limit: Limit, ask: Callable[[Limit], Awaitable[T | None]]) -> T | None:
        """What the server grants. `ask` returns None if there is no such limit: then it is made."""
        try:
            if limit.stated and limit.name not in self._ensured:
                await self._soon(lambda: ensure_limit(self._client, limit))
            self._ensured.add(limit.name)
            if granted := await ask(limit):
                return granted
            await self._soon(lambda: ensure_limit(self._client, limit))
            return await ask(limit)
        except httpx.HTTPStatusError as error:
            # 423: all are taken. 422: the limit is 0, by which a person holds everything up.
            if error.response.status_code not in {httpx.codes.LOCKED, httpx.codes.UNPROCESSABLE_ENTITY}:
                self.tell(f"The Prefect server gives no turn of {limit.name}: {error}")
        except (httpx.HTTPError, TimeoutError) as error:
            self.tell(f"The Prefect server gives no turn of {limit.name}: {type(error).__name__}")
        return None

    async def _soon(self, request: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """A request, repeated at once while SQLite is locked, where Prefect's client would pause for seconds."""
        for pause in BUSY_PAUSES:
            try:
                task = asyncio.create_task(request(), context=self._context)
                async with asyncio.timeout(PATIENCE):
                    return await task
            except httpx.HTTPStatusError as error:
                if error.response.status_code != httpx.codes.SERVICE_UNAVAILABLE or pause is BUSY_PAUSES[-1]:
                    raise
            await asyncio.sleep(pause * jitter())
        raise AssertionError("unreachable")  # pragma: no cover


def jitter() -> float:
    return random.uniform(0.5, 1.0)  # noqa: S311 - spreads the runs, guards nothing

"""Turns at the providers' accounts, counted by the Prefect server over all runs of all machines.

Prefect's own `concurrency()` ends a flow whose lease cannot be renewed, and keeps a thread and a client for each
lease. A render that is paid must be seen through instead, so leases are kept here: one loop renews all of a run's, and
a turn that was lost is taken again while the render goes on.
"""

import asyncio
import contextlib
import logging
import random
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from logging import LoggerAdapter
from typing import Any, TypeVar
from uuid import UUID

import httpx
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.objects import ConcurrencyLeaseHolder

from tasks.limits import Limit, ensure_limit, renders_limit, submits_limit
from tasks.models import ProviderName
from tasks.renders.turns import NoTurns, Turns
from tasks.settings import AvatarSettings

#: How long a turn outlives a process that was killed, in seconds: the shortest that the server takes.
LEASE_SECONDS = 60.0
#: Seconds between renewals: three may fail before a turn is lost.
RENEW_SECONDS = 15.0
#: Seconds that one question to the server may take; Prefect's client alone would repeat it for a minute.
PATIENCE = 10.0
#: Seconds between two questions for a turn: the first pause, and the longest.
PAUSES = (0.5, 4.0)
#: Seconds between two lines in the log about waiting, or about a server that is away.
TELL_SECONDS = 60.0

T = TypeVar("T")
Log = logging.Logger | LoggerAdapter[Any]


@dataclass(eq=False)
class _Turn:
    """A render that counts. Without a lease it goes on all the same, and one is asked for again and again."""

    limit: Limit
    lease: UUID | None = None


class Slots:
    """The turns that one flow run holds, by way of its Prefect client."""

    def __init__(self, client: PrefectClient, settings: AvatarSettings, log: Log, run: UUID | None) -> None:
        self._client, self._settings, self._log = client, settings, log
        self._holder = ConcurrencyLeaseHolder(type="flow_run", id=run) if run else None
        self._held: set[_Turn] = set()
        self._pending: set[asyncio.Task[None]] = set()
        self._keeper: asyncio.Task[None] | None = None
        self._ensured: set[str] = set()
        self._told = -TELL_SECONDS
        self._queues: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._freed: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)

    @asynccontextmanager
    async def hold(self, provider: ProviderName, *, under_way: bool) -> AsyncIterator[None]:
        """Hold a turn at `provider`'s account; wait for it, and for leave to send, unless the render is under way."""
        turn = _Turn(renders_limit(self._settings, provider))
        if under_way:
            self._later(self._keep(turn))
        else:
            turn.lease = await self._wait(turn.limit, self._lease)
        self._held.add(turn)
        self._keeper = self._keeper or asyncio.create_task(self._keep_all())
        try:
            if not under_way:
                await self._wait(submits_limit(self._settings, provider), self._leave)
            yield
        finally:
            self._held.discard(turn)
            self._later(self._give_back(turn))

    async def _wait(self, limit: Limit, ask: Callable[[Limit], Awaitable[T | None]]) -> T:
        # Only one render of this run asks at a time, however many wait: they are served in their order.
        async with self._queues[limit.name]:
            pause, longest = PAUSES if not limit.per_second else (min(PAUSES[0], 1 / limit.per_second),) * 2
            began = time.monotonic()
            while (granted := await self._try(limit, ask)) is None:
                if time.monotonic() - began > TELL_SECONDS:
                    self._tell(f"Waiting for a turn of {limit.name}, since {time.monotonic() - began:.0f} s.")
                await self._freed_or(limit, pause * random.uniform(0.5, 1.0))  # noqa: S311 - spreads the runs
                pause = min(pause * 1.5, longest)
            return granted

    async def _freed_or(self, limit: Limit, seconds: float) -> None:
        """Wait, but no longer than until this very run gives a turn back."""
        self._freed[limit.name].clear()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._freed[limit.name].wait(), seconds)

    async def _try(self, limit: Limit, ask: Callable[[Limit], Awaitable[T | None]]) -> T | None:
        """What the server grants, or None: all is taken, or it has no answer for now."""
        try:
            async with asyncio.timeout(PATIENCE):
                if limit.stated and limit.name not in self._ensured:
                    await ensure_limit(self._client, limit)
                self._ensured.add(limit.name)
                if granted := await ask(limit):
                    return granted
                await ensure_limit(self._client, limit)  # nobody deployed it
                return await ask(limit)
        except httpx.HTTPStatusError as error:
            # 423: all are taken. 422: the limit is 0, by which a person holds everything up.
            if error.response.status_code not in {httpx.codes.LOCKED, httpx.codes.UNPROCESSABLE_ENTITY}:
                self._tell(f"The Prefect server gives no turn of {limit.name}: {error}")
        except (httpx.HTTPError, TimeoutError) as error:
            self._tell(f"The Prefect server gives no turn of {limit.name}: {type(error).__name__}")
        return None

    async def _lease(self, limit: Limit) -> UUID | None:
        """A lease on one slot. None: there is no such limit."""
        answer = await self._client.increment_concurrency_slots_with_lease(
            names=[limit.name], slots=1, mode="concurrency", lease_duration=LEASE_SECONDS, holder=self._holder
        )
        granted = answer.json()
        return UUID(granted["lease_id"]) if granted["limits"] else None

    async def _leave(self, limit: Limit) -> bool | None:
        """Leave to send one request. None: there is no such limit."""
        answer = await self._client.increment_concurrency_slots([limit.name], slots=1, mode="rate_limit")
        return bool(answer.json()) or None

    def _tell(self, text: str) -> None:
        """Say it, but no more than one thing in `TELL_SECONDS`."""
        if time.monotonic() - self._told > TELL_SECONDS:
            self._told = time.monotonic()
            self._log.warning(text)

    async def _keep_all(self) -> None:
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            await asyncio.gather(*(self._keep(turn) for turn in tuple(self._held)))

    async def _keep(self, turn: _Turn) -> None:
        """Renew the lease of a turn, or get one. Whatever the server says, the render goes on."""
        if turn.lease is not None:
            await self._renew(turn)
        if turn.lease is None:
            turn.lease = await self._try(turn.limit, self._lease)
            if turn not in self._held:  # given back in the meantime
                await self._give_back(turn)

    async def _renew(self, turn: _Turn) -> None:
        lease = turn.lease
        if lease is None:
            return
        try:
            async with asyncio.timeout(PATIENCE):
                await self._client.renew_concurrency_lease(lease, LEASE_SECONDS)
        except httpx.HTTPStatusError as error:
            if error.response.status_code == httpx.codes.GONE:
                turn.lease = None
                self._log.warning(
                    "A turn of %s was lost while the Prefect server was away. The render goes on, and takes the next.",
                    turn.limit.name,
                )
        except (httpx.HTTPError, TimeoutError):
            self._tell("The Prefect server does not answer; the renders under way go on without it.")

    async def _give_back(self, turn: _Turn) -> None:
        """Free the slot. If that fails, its lease runs out by itself."""
        lease, turn.lease = turn.lease, None
        if lease is None:
            return
        with contextlib.suppress(httpx.HTTPError, TimeoutError):
            async with asyncio.timeout(PATIENCE):
                await self._client.release_concurrency_slots_with_lease(lease)
        self._freed[turn.limit.name].set()

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._pending.add(task)
        task.add_done_callback(self._pending.discard)

    async def aclose(self) -> None:
        """Give back what is held still."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        if self._pending:
            await asyncio.wait(self._pending, timeout=PATIENCE)


_current: ContextVar[Turns] = ContextVar("turns", default=NoTurns())  # noqa: B039 - it has no state


def turns() -> Turns:
    """The turns of the flow run that this is called in; outside of one, nobody counts."""
    return _current.get()


@asynccontextmanager
async def counted_turns(settings: AvatarSettings, log: Log, run: UUID | None) -> AsyncIterator[None]:
    """Have `turns()` counted by the Prefect server while the block runs."""
    async with get_client() as client:
        slots = Slots(client, settings, log, run)
        token = _current.set(slots)
        try:
            yield
        finally:
            _current.reset(token)
            await slots.aclose()

"""Turns at the providers' accounts, counted by the Prefect server over all runs of all machines.

Prefect's own `concurrency()` ends a flow whose lease cannot be renewed, and keeps a thread and a client for each
lease. A render that is paid must be seen through instead, so leases are kept here: one loop renews all of a run's, and
a turn that was lost is taken again while the render goes on.
"""

import asyncio
import contextlib
import time
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from prefect.client.orchestration import get_client

from tasks.leases import PATIENCE, TELL_SECONDS, Lease, Leases, Log, jitter
from tasks.limits import Limit, renders_limit, submits_limit
from tasks.models import ProviderName
from tasks.renders.turns import NoTurns, Turns
from tasks.settings import AvatarSettings

#: Seconds between renewals: three may fail before a turn is lost.
RENEW_SECONDS = 15.0
#: A run gives its turn on to its own next render for so long, in seconds; then others have their chance.
HAND_ON_SECONDS = 60.0
#: Seconds between two questions for a turn: the first pause, and the longest.
PAUSES = (0.5, 4.0)


@dataclass(eq=False)
class _Turn:
    """A render that counts. Without a lease it goes on all the same, and one is asked for again and again."""

    limit: Limit
    lease: Lease | None = None


class _Pauses:
    """Seconds between two questions, longer each time, as a person who waits would ask."""

    def __init__(self, limit: Limit) -> None:
        self._began = time.monotonic()
        self._next = min(PAUSES[0], 1 / limit.per_second) if limit.per_second else PAUSES[0]

    @property
    def waited(self) -> float:
        return time.monotonic() - self._began

    def __next__(self) -> float:
        pause, self._next = self._next, min(self._next * 1.5, PAUSES[1])
        return pause * jitter()


class Slots:
    """The turns that one flow run holds."""

    def __init__(self, leases: Leases, settings: AvatarSettings) -> None:
        self._leases, self._settings = leases, settings
        self._held: set[_Turn] = set()
        self._pending: set[asyncio.Task[None]] = set()
        self._keeper: asyncio.Task[None] | None = None
        self._asking: set[str] = set()
        self._lines: defaultdict[str, deque[asyncio.Future[Lease]]] = defaultdict(deque)
        self._queues: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._freed: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)

    @asynccontextmanager
    async def hold(self, provider: ProviderName, *, under_way: bool) -> AsyncIterator[None]:
        """Hold a turn at `provider`'s account; wait for it, and for leave to send, unless the render is under way."""
        turn = _Turn(renders_limit(self._settings, provider))
        if under_way:
            self._later(self._keep(turn))
        else:
            turn.lease = await self._take(turn.limit)
        self._held.add(turn)
        self._keeper = self._keeper or asyncio.create_task(self._keep_all())
        try:
            if not under_way:
                await self._await_leave(submits_limit(self._settings, provider))
            yield
        finally:
            self._held.discard(turn)
            self._later(self._give_back(turn))

    async def _take(self, limit: Limit) -> Lease:
        """Stand in line for a lease: one that another render of this run gives on, or one of the server's."""
        place = asyncio.get_running_loop().create_future()
        self._lines[limit.name].append(place)
        if limit.name not in self._asking:
            self._asking.add(limit.name)
            self._later(self._ask_for_line(limit))
        try:
            lease: Lease = await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self._later(self._release(limit, place.result()))
            raise
        return lease

    async def _ask_for_line(self, limit: Limit) -> None:
        """One question at a time for all who stand in line, until nobody does."""
        try:
            pauses = _Pauses(limit)
            while self._in_line(limit.name):
                if lease := await self._leases.take(limit):
                    pauses = _Pauses(limit)
                    if not self._serve(limit.name, lease):
                        await self._release(limit, lease)
                else:
                    await self._wait(limit, pauses)
        except Exception as error:  # noqa: BLE001 - a defect: nobody else asks for those who stand in line
            while self._in_line(limit.name):
                self._lines[limit.name].popleft().set_exception(error)
        finally:
            self._asking.discard(limit.name)

    def _in_line(self, name: str) -> bool:
        line = self._lines[name]
        while line and line[0].done():  # cancelled
            line.popleft()
        return bool(line)

    def _serve(self, name: str, lease: Lease) -> bool:
        """Give a lease to the first in line, if there is one."""
        if not self._in_line(name):
            return False
        self._lines[name].popleft().set_result(lease)
        return True

    async def _await_leave(self, limit: Limit) -> None:
        """Wait until the rate allows one more request, in the order in which the renders of this run came."""
        async with self._queues[limit.name]:
            pauses = _Pauses(limit)
            while not await self._leases.may_send(limit):
                await self._wait(limit, pauses)

    async def _wait(self, limit: Limit, pauses: _Pauses) -> None:
        """Pause, but no longer than until this very run gives a turn back."""
        if pauses.waited > TELL_SECONDS:
            self._leases.tell(f"Waiting for a turn of {limit.name}, since {pauses.waited:.0f} s.")
        self._freed[limit.name].clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(next(pauses)):
                await self._freed[limit.name].wait()

    async def _keep_all(self) -> None:
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            await asyncio.gather(*(self._keep(turn) for turn in tuple(self._held)))

    async def _keep(self, turn: _Turn) -> None:
        """Renew the lease of a turn, or get one. Whatever the server says, the render goes on."""
        lease = turn.lease
        if lease is not None and not await self._leases.renew(turn.limit, lease) and turn.lease is lease:
            turn.lease = None
        if turn.lease is None and turn in self._held:
            turn.lease = await self._leases.take(turn.limit)
            if turn not in self._held:  # given back in the meantime
                await self._give_back(turn)

    async def _give_back(self, turn: _Turn) -> None:
        """Give the slot on to the next render of this run, for a while, or else back to the server."""
        lease, turn.lease = turn.lease, None
        if lease is None:
            return
        fresh = time.monotonic() - lease.since < HAND_ON_SECONDS
        if not (fresh and self._serve(turn.limit.name, lease)):
            await self._release(turn.limit, lease)

    async def _release(self, limit: Limit, lease: Lease) -> None:
        await self._leases.release(lease)
        self._freed[limit.name].set()

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._pending.add(task)
        task.add_done_callback(self._pending.discard)

    async def aclose(self) -> None:
        """Give back what is held still."""
        if self._keeper is not None:
            self._keeper.cancel()
            self._pending.add(self._keeper)
        for freed in self._freed.values():
            freed.set()
        if self._pending:
            await asyncio.wait(self._pending, timeout=PATIENCE)
        self._leases.close()


_current: ContextVar[Turns] = ContextVar("turns", default=NoTurns())  # noqa: B039 - it has no state


def turns() -> Turns:
    """The turns of the flow run that this is called in; outside of one, nobody counts."""
    return _current.get()


@asynccontextmanager
async def counted_turns(settings: AvatarSettings, log: Log, run: UUID | None) -> AsyncIterator[None]:
    """Have `turns()` counted by the Prefect server while the block runs."""
    async with get_client() as client:
        slots = Slots(Leases(client, log, run), settings)
        token = _current.set(slots)
        try:
            yield
        finally:
            _current.reset(token)
            await slots.aclose()

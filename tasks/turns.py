"""Turns at the providers' accounts, counted by the Prefect server over all runs of all machines.

Prefect's own `concurrency()` ends a flow whose lease cannot be renewed, and keeps a thread and a client for each
lease. A render that is paid must be seen through instead, so leases are kept here: one loop renews all of a run's, and
a turn that was lost is taken again while the render goes on.
"""

import asyncio
import contextlib
import logging
import math
import random
import time
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import ExitStack, asynccontextmanager
from contextvars import copy_context
from dataclasses import dataclass
from logging import LoggerAdapter
from typing import Any, TypeVar
from uuid import UUID

import httpx
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate, GlobalConcurrencyLimitUpdate
from prefect.client.schemas.objects import ConcurrencyLeaseHolder
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from avatar.models import ProviderName
from avatar.settings import AvatarSettings
from avatar.workspace import Turns

# The limits of the providers' accounts, as Prefect's global concurrency limits: people see and change them in its UI.
#: The providers that have an account.
PAID = (ProviderName.FAL, ProviderName.PIXAZO)


@dataclass(frozen=True)
class Limit:
    """One limit as the settings want it.

    Attributes:
        name: what Prefect calls it.
        slots: how many at a time; of a rate, how many at once after a pause.
        per_second: slots that become free by themselves in a second; 0 if they are given back.
        stated: whether the user wrote it in the settings, so that it stands above what the UI says.
    """

    name: str
    slots: int
    per_second: float = 0.0
    stated: bool = False


def renders_limit(settings: AvatarSettings, provider: ProviderName) -> Limit:
    """Renders that the account has at a time: AVATAR_FAL__AT_ONCE, AVATAR_PIXAZO__AT_ONCE."""
    section = settings.fal if provider is ProviderName.FAL else settings.pixazo
    return Limit(f"avatar-{provider}", section.at_once, stated="at_once" in section.model_fields_set)


def submits_limit(settings: AvatarSettings, provider: ProviderName) -> Limit:
    """Paid requests a second: AVATAR_FAL__SUBMITS_PER_SECOND, AVATAR_PIXAZO__SUBMITS_PER_SECOND."""
    section = settings.fal if provider is ProviderName.FAL else settings.pixazo
    rate = section.submits_per_second
    stated = "submits_per_second" in section.model_fields_set
    return Limit(f"avatar-{provider}-submits", max(1, math.floor(rate)), rate, stated)


async def ensure_limit(client: PrefectClient, wanted: Limit) -> None:
    """Create a limit that is missing. One that is there is the user's, unless the settings state another."""
    try:
        found = await client.read_global_concurrency_limit_by_name(wanted.name)
    except ObjectNotFound:
        limit = GlobalConcurrencyLimitCreate(
            name=wanted.name, limit=wanted.slots, slot_decay_per_second=wanted.per_second
        )
        with contextlib.suppress(ObjectAlreadyExists):  # another run was faster
            await client.create_global_concurrency_limit(limit)
        return
    if wanted.stated and (found.limit, found.slot_decay_per_second) != (wanted.slots, wanted.per_second):
        change = GlobalConcurrencyLimitUpdate(limit=wanted.slots, slot_decay_per_second=wanted.per_second)
        with contextlib.suppress(ObjectNotFound):  # somebody deleted it just now
            await client.update_global_concurrency_limit(wanted.name, change)


async def ensure_limits(client: PrefectClient, settings: AvatarSettings) -> list[str]:
    """The limits of every account; returns their names."""
    wanted = [make(settings, provider) for provider in PAID for make in (renders_limit, submits_limit)]
    for limit in wanted:
        await ensure_limit(client, limit)
    return [limit.name for limit in wanted]


# Leases on the slots of an account, as the Prefect server gives, renews and takes them back. One question at a time.
#
# Nothing here raises because of a server that is away: a render that is paid goes on without it.
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


@asynccontextmanager
async def counted_turns(settings: AvatarSettings, log: Log, run: UUID | None) -> AsyncIterator[Turns]:
    """Turns that the Prefect server counts while the block runs."""
    async with get_client() as client:
        slots = Slots(Leases(client, log, run), settings)
        try:
            yield slots
        finally:
            await slots.aclose()

"""Turns at the providers' accounts, counted by the Prefect server over all runs of all machines.

Prefect's own `concurrency()` keeps a thread and a client for each lease, and asks for one slot at a time. Here one
loop renews all of a run's leases, several are asked for at once, and the leave to send for all who wait. A render that
is paid is seen through: a lease that was lost is taken again while it goes on.
"""

import asyncio
import contextlib
import logging
import math
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import ExitStack, asynccontextmanager
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from logging import LoggerAdapter
from typing import Any, TypeVar
from uuid import UUID

import httpx
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate, GlobalConcurrencyLimitUpdate
from prefect.client.schemas.objects import ConcurrencyLeaseHolder
from prefect.context import SettingsContext, get_settings_context
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound

from avatar.settings import AvatarSettings
from avatar.stored_models import ProviderName

#: The providers that have an account.
PAID = (ProviderName.FAL, ProviderName.PIXAZO)
#: How long a turn outlives a process that was killed, in seconds: the shortest that the server takes.
LEASE_SECONDS = 60.0
#: Seconds between renewals: three may fail before a turn is lost.
RENEW_SECONDS = 15.0
#: A run gives its turn on to its own next render for so long, in seconds; then others have their chance.
HAND_ON_SECONDS = 60.0
#: Seconds that one question to the server may take; Prefect's client alone would repeat it for a minute.
PATIENCE = 10.0
#: Seconds between repetitions of a question while the server's SQLite is locked.
BUSY_PAUSES = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6)
#: Seconds between two questions for a turn: the first pause, and the longest.
PAUSES = (0.5, 4.0)
#: Leases asked for at a time.
ABREAST = 4
#: Seconds between two lines in the log about waiting, or about a server that is away.
TELL_SECONDS = 60.0

T = TypeVar("T")
Log = logging.Logger | LoggerAdapter[Any]


@dataclass(frozen=True)
class AccountLimit:
    """One limit of an account, as the settings want it; people see and change it in Prefect's UI.

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


def limits_of(settings: AvatarSettings, provider: ProviderName) -> tuple[AccountLimit, AccountLimit]:
    """Renders that the account has at a time, and paid requests a second."""
    section = settings.fal if provider is ProviderName.FAL else settings.pixazo
    stated, rate = section.model_fields_set, section.submits_per_second
    return (
        AccountLimit(f"avatar-{provider}", section.at_once, stated="at_once" in stated),
        AccountLimit(
            f"avatar-{provider}-submits", max(1, math.floor(rate)), rate, "submits_per_second" in stated
        ),
    )


async def ensure_limit(client: PrefectClient, wanted: AccountLimit) -> None:
    """Create a limit that is missing. One that is there is the user's, unless the settings state another."""
    values: dict[str, Any] = {"limit": wanted.slots, "slot_decay_per_second": wanted.per_second}
    try:
        found = await client.read_global_concurrency_limit_by_name(wanted.name)
    except ObjectNotFound:
        with contextlib.suppress(ObjectAlreadyExists):  # another run was faster
            await client.create_global_concurrency_limit(
                GlobalConcurrencyLimitCreate(name=wanted.name, **values)
            )
        return
    if wanted.stated and (found.limit, found.slot_decay_per_second) != (wanted.slots, wanted.per_second):
        with contextlib.suppress(ObjectNotFound):  # somebody deleted it just now
            await client.update_global_concurrency_limit(wanted.name, GlobalConcurrencyLimitUpdate(**values))


async def ensure_limits(client: PrefectClient, settings: AvatarSettings) -> list[str]:
    """The limits of every account; returns their names."""
    wanted = [limit for provider in PAID for limit in limits_of(settings, provider)]
    for limit in wanted:
        await ensure_limit(client, limit)
    return [limit.name for limit in wanted]


@dataclass(eq=False)
class HeldSlot:
    """One slot that the server gave to this run."""

    id: UUID
    since: float  # when it was given, by the monotonic clock
    lost: bool = False


def _asking_once() -> SettingsContext:
    """Prefect's settings, without its client's own repetitions, which pause for seconds.

    Copied: `temporary_settings` reads all of them anew, a quarter of a CPU-second.
    """
    now = get_settings_context()
    client = now.settings.client.model_copy(update={"max_retries": 0})
    return SettingsContext(profile=now.profile, settings=now.settings.model_copy(update={"client": client}))


class TurnServer:
    """What one run asks the server. Raises nothing because it is away: what is paid goes on without it."""

    def __init__(self, client: PrefectClient, log: Log, run: UUID | None) -> None:
        self._client, self._log = client, log
        self._holder = ConcurrencyLeaseHolder(type="flow_run", id=run) if run else None
        self._ensured: set[str] = set()
        self._told = -TELL_SECONDS
        self._context, self._in_context = copy_context(), ExitStack()
        self._context.run(self._in_context.enter_context, _asking_once())

    def close(self) -> None:
        self._context.run(self._in_context.close)

    async def lease(self, limit: AccountLimit) -> HeldSlot | None:
        """One slot, or None: all are taken, or the server has no answer for now."""

        async def ask() -> HeldSlot | None:
            answer = await self._client.increment_concurrency_slots_with_lease(
                [limit.name], 1, "concurrency", LEASE_SECONDS, self._holder
            )
            granted = answer.json()
            return HeldSlot(UUID(granted["lease_id"]), time.monotonic()) if granted["limits"] else None

        return await self._try(limit, ask)

    async def leave(self, limit: AccountLimit, requests: int) -> bool:
        """Whether the rate allows so many more requests now."""

        async def ask() -> bool | None:
            answer = await self._client.increment_concurrency_slots([limit.name], requests, "rate_limit")
            return bool(answer.json()) or None

        return bool(await self._try(limit, ask))

    async def renew(self, limit: AccountLimit, lease: HeldSlot) -> None:
        """Have a lease count on. A server that does not answer has not said that it is lost."""
        try:
            await self._soon(lambda: self._client.renew_concurrency_lease(lease.id, LEASE_SECONDS))
        except httpx.HTTPStatusError as error:
            lease.lost = error.response.status_code == httpx.codes.GONE
        except (httpx.HTTPError, TimeoutError):
            self.tell("The Prefect server does not answer; the renders under way go on without it.")
        if lease.lost:
            self._log.warning(
                "A turn of %s was lost while the Prefect server was away. The render goes on, and takes the next.",
                limit.name,
            )

    async def release(self, lease: HeldSlot | bool) -> None:
        """Free a slot. If that fails, its lease runs out by itself. Leave to send comes back by itself."""
        if isinstance(lease, bool):
            return
        with contextlib.suppress(httpx.HTTPError, TimeoutError):
            await self._soon(lambda: self._client.release_concurrency_slots_with_lease(lease.id))

    def tell(self, text: str) -> None:
        """Say it, but no more than one thing in `TELL_SECONDS`."""
        if time.monotonic() - self._told > TELL_SECONDS:
            self._told = time.monotonic()
            self._log.warning(text)

    async def _try(self, limit: AccountLimit, ask: Callable[[], Coroutine[Any, Any, T | None]]) -> T | None:
        """What the server grants. `ask` returns None if there is no such limit: then it is made."""
        try:
            if limit.stated and limit.name not in self._ensured:
                await self._soon(lambda: ensure_limit(self._client, limit))
            self._ensured.add(limit.name)
            if granted := await self._soon(ask):
                return granted
            await self._soon(lambda: ensure_limit(self._client, limit))
            return await self._soon(ask)
        except httpx.HTTPStatusError as error:
            # 423: all are taken. 422: more than the limit, which is 0 where a person holds everything up.
            if error.response.status_code not in {httpx.codes.LOCKED, httpx.codes.UNPROCESSABLE_ENTITY}:
                self.tell(f"The Prefect server gives no turn of {limit.name}: {error}")
        except (httpx.HTTPError, TimeoutError) as error:
            self.tell(f"The Prefect server gives no turn of {limit.name}: {type(error).__name__}")
        return None

    async def _soon(self, request: Callable[[], Coroutine[Any, Any, T]]) -> T:
        for pause in (*BUSY_PAUSES, None):
            try:
                asked = asyncio.create_task(request(), context=self._context)
                async with asyncio.timeout(PATIENCE):
                    return await asked
            except httpx.HTTPStatusError as error:
                if error.response.status_code != httpx.codes.SERVICE_UNAVAILABLE or pause is None:
                    raise
                await asyncio.sleep(pause * _jitter())
        raise AssertionError("unreachable")  # pragma: no cover


def _jitter() -> float:
    return random.uniform(0.5, 1.0)  # noqa: S311 - spreads the runs, guards nothing


class _Line:
    """Renders of this run that wait for the same thing, in the order in which they came. Others ask for them.

    `ask` gets how many wait, and returns the grants, a grant for each that is served; none, and it is asked again
    after a pause, longer each time, or as soon as this very run gives something back.
    """

    def __init__(
        self, limit: AccountLimit, ask: Callable[[int], Awaitable[list[Any]]], server: TurnServer
    ) -> None:
        self._limit, self._ask, self._server = limit, ask, server
        self._places: deque[asyncio.Future[Any]] = deque()
        self.asking: asyncio.Task[None] | None = None
        self.freed = asyncio.Event()

    def place(self) -> asyncio.Future[Any]:
        """A place in the line. Whoever cancels it gets nothing."""
        place: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._places.append(place)
        if self.asking is None or self.asking.done():
            self.asking = asyncio.create_task(self._serve_all())
        return place

    def serve(self, grant: Any) -> bool:
        """Give something to the first in line. False if nobody waits."""
        while self._places:
            place = self._places.popleft()
            if not place.done():
                place.set_result(grant)
                return True
        return False

    async def _serve_all(self) -> None:
        first = min(PAUSES[0], 1 / self._limit.per_second) if self._limit.per_second else PAUSES[0]
        began, pause = time.monotonic(), first
        try:
            while waiting := sum(not place.done() for place in self._places):
                if grants := await self._ask(waiting):
                    began, pause = time.monotonic(), first
                    for grant in grants:
                        if not self.serve(grant):
                            await self._server.release(grant)
                    continue
                if (waited := time.monotonic() - began) > TELL_SECONDS:
                    self._server.tell(f"Waiting for a turn of {self._limit.name}, since {waited:.0f} s.")
                self.freed.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause * _jitter()):
                        await self.freed.wait()
                pause = min(pause * 1.5, PAUSES[1])
        except Exception as error:  # noqa: BLE001 - a defect: nobody else asks for those who stand in line
            while self._places:
                if not (place := self._places.popleft()).done():
                    place.set_exception(error)


@dataclass(eq=False)
class _Turn:
    """A render that counts. Without a lease it goes on all the same, and one is asked for again and again."""

    limit: AccountLimit
    lease: HeldSlot | None = None


class CountedTurns:
    """The turns that one flow run holds."""

    def __init__(self, server: TurnServer, settings: AvatarSettings) -> None:
        self._server, self._settings = server, settings
        self._lines: dict[AccountLimit, _Line] = {}
        self._held: set[_Turn] = set()
        self._pending: set[asyncio.Task[None]] = set()
        self._keeper: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def hold(self, provider: ProviderName, *, under_way: bool) -> AsyncIterator[None]:
        """Hold a turn at `provider`'s account; wait for it, and for leave to send, unless the render is under way."""
        account, rate = limits_of(self._settings, provider)
        turn = _Turn(account)
        if under_way:
            self._later(self._keep(turn))
        else:
            turn.lease = await self._take(account)
        self._held.add(turn)
        self._keeper = self._keeper or asyncio.create_task(self._keep_all())
        try:
            if not under_way:
                await self._line(rate, self._ask_leave).place()
            yield
        finally:
            self._held.discard(turn)
            self._later(self._give_back(turn))

    async def _take(self, limit: AccountLimit) -> HeldSlot:
        """A lease that another render of this run gives on, or one of the server's."""
        place = self._line(limit, self._ask_leases).place()
        try:
            lease: HeldSlot = await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self._later(self._give_back(_Turn(limit, place.result())))
            raise
        return lease

    def _line(self, limit: AccountLimit, ask: Callable[[AccountLimit, int], Awaitable[list[Any]]]) -> _Line:
        if limit not in self._lines:
            self._lines[limit] = _Line(limit, partial(ask, limit), self._server)
        return self._lines[limit]

    async def _ask_leases(self, limit: AccountLimit, waiting: int) -> list[HeldSlot]:
        """One lease for each, since each is given back by itself."""
        asked = await asyncio.gather(*(self._server.lease(limit) for _ in range(min(waiting, ABREAST))))
        return [lease for lease in asked if lease is not None]

    async def _ask_leave(self, limit: AccountLimit, waiting: int) -> list[bool]:
        """Leave for all who wait, or for fewer: the server gives all that it is asked for, or nothing."""
        wanted = min(waiting, limit.slots)
        while wanted and not await self._server.leave(limit, wanted):
            wanted //= 2
        return [True] * wanted

    async def _keep_all(self) -> None:
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            await asyncio.gather(*(self._keep(turn) for turn in tuple(self._held)))

    async def _keep(self, turn: _Turn) -> None:
        """Renew the lease of a turn, or get one. Whatever the server says, the render goes on."""
        if turn.lease is not None:
            await self._server.renew(turn.limit, turn.lease)
        if turn in self._held and (turn.lease is None or turn.lease.lost):
            turn.lease = await self._server.lease(turn.limit)
            if turn not in self._held:  # given back in the meantime
                await self._give_back(turn)

    async def _give_back(self, turn: _Turn) -> None:
        """Give the slot on to the next render of this run, for a while, or else back to the server."""
        lease, turn.lease = turn.lease, None
        if lease is None or lease.lost:
            return
        line = self._line(turn.limit, self._ask_leases)
        if not (time.monotonic() - lease.since < HAND_ON_SECONDS and line.serve(lease)):
            await self._server.release(lease)
            line.freed.set()

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._pending.add(task)
        task.add_done_callback(self._pending.discard)

    async def aclose(self) -> None:
        """Give back what is held still."""
        if self._keeper is not None:
            self._keeper.cancel()
        for line in self._lines.values():
            line.freed.set()
        ending = self._pending | {line.asking for line in self._lines.values() if line.asking}
        if ending:
            await asyncio.wait(ending, timeout=PATIENCE)
        self._server.close()


@asynccontextmanager
async def counted_turns(
    client: PrefectClient, settings: AvatarSettings, log: Log, run: UUID | None
) -> AsyncIterator[CountedTurns]:
    """Turns that the Prefect server counts while the block runs."""
    turns = CountedTurns(TurnServer(client, log, run), settings)
    try:
        yield turns
    finally:
        await turns.aclose()

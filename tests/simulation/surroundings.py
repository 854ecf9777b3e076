"""The store and the account as one process has them, with the schedule's faults on the way."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from avatar.errors import StoreUnavailable
from avatar.store.objects import Stat
from tests.simulation.loop import Process
from tests.store.memory import MemoryServer, MemoryStore

if TYPE_CHECKING:
    from tests.simulation.world import World

BUCKET = "avatar"


class Turns:
    """An account that is busy for as long as the scenario says."""

    def __init__(self, dice: random.Random, waits: tuple[float, ...]) -> None:
        self._dice, self._waits = dice, waits

    @asynccontextmanager
    async def hold(self, _: Any, *, under_way: bool) -> AsyncIterator[None]:
        if not under_way:
            await asyncio.sleep(self._dice.choice(self._waits))
        yield


class Server(MemoryServer):
    """The store's server: its clock is true time."""

    def __init__(self, world: "World") -> None:
        super().__init__()
        self.world = world
        self._second, self._shown = -1, datetime.fromtimestamp(world.epoch, UTC)

    def clock(self) -> datetime:
        second = int(self.world.loop.now)
        if second != self._second:
            self._second = second
            self._shown = datetime.fromtimestamp(int(self.world.epoch) + second, UTC)
        return self._shown


class Reached(MemoryStore):
    """The store as one process sees it, with the schedule's faults on the way."""

    def __init__(self, world: "World", process: Process, server: MemoryServer) -> None:
        super().__init__(server, BUCKET)
        self.world, self.process = world, process
        self.proved = True

    async def _ask(self, method: str, key: str, act: Callable[[], Any]) -> Any:
        world = self.world
        loop, fault = world.loop, self._fault()
        if fault == "away":
            await asyncio.sleep(world.random.uniform(0.1, 12))
            raise StoreUnavailable("the store is away")
        if fault == "refused":
            await asyncio.sleep(world.random.uniform(0, 10))
            raise StoreUnavailable(f"the store refused to {method} {key}")
        if fault == "late":  # given up, and done all the same, later
            loop.request(act, delay=world.random.uniform(5, 90))
            await asyncio.sleep(10)
            raise StoreUnavailable(f"the store did not answer: {method} {key}")
        result = await loop.request(act, delay=world.random.uniform(1, 25) if fault == "slow" else 0.0)
        if fault == "lost":
            raise StoreUnavailable(f"the store's answer was lost: {method} {key}")
        return result

    def _fault(self) -> str:
        world, scenario = self.world, self.world.scenario
        if world.calm:
            return ""
        if any(begin <= world.loop.now < end for begin, end in scenario.away):
            return "away"
        if scenario.store_rate and world.random.random() < scenario.store_rate:
            return world.random.choice(scenario.store_faults)
        return ""

    def keep(self, key: str, data: bytes, content_type: str = "", metadata: Any = None) -> Stat:
        before = self._objects.get(key)
        stat = super().keep(key, data, content_type, metadata)
        if self.server is self.world.server:
            self.world.judge.written(key, data, before.data if before else None)
            self.world.wrote(self.process, key, data)
        return stat

    async def remove(self, key: str) -> None:
        def act() -> None:
            if self._objects.pop(key, None) is not None and self.server is self.world.server:
                self.world.judge.removed(key)

        await self._ask("remove", key, act)

"""How much time has passed, and trying again what may be repeated."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from avatar.errors import Transient

log = logging.getLogger("avatar.waiting")

S = TypeVar("S")
T = TypeVar("T")

#: Seconds between the tries of a free step. No paid request is ever sent through them.
SHORT = (1.0, 3.0, 10.0)
LONG = (1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 60.0, 60.0, 60.0)
#: Seconds that a cancelled task still waits for an answer that is paid for, or for what it was writing down.
LAST_SECONDS = 10.0
#: Calls of `in_turns` at a time.
ABREAST = 8


@dataclass(frozen=True)
class Moment:
    """A moment by both clocks of this machine: one goes on while it sleeps, the other cannot be set back."""

    monotonic: float
    wall: float

    @classmethod
    def now(cls) -> "Moment":
        return cls(time.monotonic(), time.time())

    @property
    def passed(self) -> float:
        """Seconds since then; of two clocks that differ, the more that either tells."""
        return max(time.monotonic() - self.monotonic, time.time() - self.wall)


async def patiently(step: Callable[[], Awaitable[T]], pauses: Sequence[float] = LONG) -> T:
    """Try a step that may be repeated again after each of `pauses` (seconds). Only `Transient` failures count."""
    for pause in pauses:
        try:
            return await step()
        except Transient as error:
            log.warning("%s Trying again in %.0f s.", error, pause)
            await rest(pause)
    return await step()


async def rest(seconds: float) -> None:
    """The pause between two tries."""
    await asyncio.sleep(seconds)


async def seen_through(step: Awaitable[T]) -> T:
    """What `step` ends in. A cancellation waits for it, for `LAST_SECONDS` at most, and is delivered after it."""
    task = asyncio.ensure_future(step)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        try:
            await asyncio.wait({task}, timeout=LAST_SECONDS)
        finally:
            ended = task.done() or not task.cancel()
        this = asyncio.current_task()
        if not ended or this is None:
            raise
        this.cancel()
        return task.result()


async def finish_all(work: Iterable[Awaitable[T]]) -> list[T]:
    """What all of it ends in. What one raises is raised when all have ended, so that it cancels none of the others."""
    ended = await asyncio.gather(*work, return_exceptions=True)
    for each in ended:
        if isinstance(each, BaseException):
            raise each
    return [each for each in ended if not isinstance(each, BaseException)]


async def in_turns(
    call: Callable[[S], Awaitable[T]], items: Iterable[S], *, abreast: int = ABREAST
) -> list[T]:
    """The call for each item, a few at a time. The first failure ends the rest: a dead store is not asked on."""
    gate = asyncio.Semaphore(abreast)

    async def one(item: S) -> T:
        async with gate:
            return await call(item)

    tasks = [asyncio.create_task(one(item)) for item in items]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

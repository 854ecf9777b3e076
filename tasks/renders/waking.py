"""Waking those who wait for a render when a webhook has come in for it, in whatever process the webhook arrived."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from typing import Any

from tasks.errors import AvatarError, Transient
from tasks.models import Snapshot, Submission
from tasks.providers.base import Provider
from tasks.providers.watching import ENDED
from tasks.renders.hints import PREFIX, render_of
from tasks.storage.store import Store

log = logging.getLogger("avatar.webhooks")

#: Seconds between two lists of the hints, however many renders are waited for; and when the store does not answer.
EVERY, AFTER_FAILURE = 1.0, 10.0
#: Seconds after a hint at which the provider is looked at. Its status may lag behind its webhook.
LOOKS = (0.0, 1.0, 3.0)


class Doorbell:
    """Rings once for each hint about a render that somebody waits for. Lists the hints only while somebody does."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._waiting: dict[str, set[asyncio.Event]] = {}
        self._rung: set[str] = set()
        self._listener: asyncio.Task[None] | None = None

    @contextmanager
    def listening(self, render_id: str) -> Iterator[asyncio.Event]:
        """An event that is set whenever a new hint about the render is there; whoever waits clears it."""
        rings = asyncio.Event()
        self._waiting.setdefault(render_id, set()).add(rings)
        if self._listener is None or self._listener.done():
            self._listener = asyncio.create_task(self._listen())
        try:
            yield rings
        finally:
            self._waiting[render_id].discard(rings)
            if not self._waiting[render_id]:
                del self._waiting[render_id]
            if not self._waiting:
                self._listener.cancel()
                self._listener = None

    async def _listen(self) -> None:
        while True:
            began = time.monotonic()
            try:
                self._ring([stat.key for stat in await self._store.list(PREFIX)])
                pause = EVERY
            except AvatarError as error:  # the wait goes on without hints
                log.info("Hints cannot be listed: %s", error)
                pause = AFTER_FAILURE
            await asyncio.sleep(max(pause / 2, pause - (time.monotonic() - began)))

    def _ring(self, keys: list[str]) -> None:
        for key in keys:
            waiting = self._waiting.get(render_of(key), ())
            if waiting and key not in self._rung:
                self._rung.add(key)
                for rings in waiting:
                    rings.set()
        self._rung.intersection_update(keys)


async def watch_woken(
    provider: Provider, submission: Submission, window: float, rings: asyncio.Event
) -> AsyncGenerator[Snapshot]:
    """What `provider.watch` sees, and a few looks of its own whenever `rings` is set. Close it to stop early."""
    looks = provider.watch(submission, window)
    pending: asyncio.Future[Any] = asyncio.ensure_future(_next(looks))
    woken: asyncio.Future[Any] = asyncio.ensure_future(rings.wait())
    try:
        while True:
            await asyncio.wait({pending, woken}, return_when=asyncio.FIRST_COMPLETED)
            if pending.done():
                if (look := pending.result()) is None:
                    return
                yield look
                pending = asyncio.ensure_future(_next(looks))
                continue
            rings.clear()
            woken = asyncio.ensure_future(rings.wait())
            async with aclosing(_look_now(provider, submission)) as seen:
                async for snapshot in seen:
                    yield snapshot
                    if snapshot.state in ENDED:
                        return
    finally:
        for waiting in (pending, woken):
            waiting.cancel()
        await asyncio.gather(pending, woken, return_exceptions=True)
        await looks.aclose()


async def _look_now(provider: Provider, submission: Submission) -> AsyncGenerator[Snapshot]:
    for pause in LOOKS:
        await asyncio.sleep(pause)
        try:
            yield await provider.poll(submission)
        except Transient as error:
            log.info("%s Looking again later.", error)


async def _next(looks: AsyncGenerator[Snapshot, None]) -> Snapshot | None:
    return await anext(looks, None)

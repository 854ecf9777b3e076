"""From changes to events: wait until uploads are quiet, see whether they are whole, tell Prefect once."""

import asyncio
import json
import sqlite3
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TypeVar
from uuid import UUID, uuid5

import httpx

from flows.bridge.outbox import Event, Outbox
from flows.bridge.uploads import Uploads
from flows.local import prefect_api
from tasks.errors import AvatarError

EVENT = "avatar.inbox.settled"
RESOURCE = {"prefect.resource.id": "avatar.inbox"}
_T = TypeVar("_T")
_NAMESPACE = UUID("1f6f2a3e-6d0e-5d1b-9a53-5d3c6f2d8a11")
#: Seconds for which whole uploads wait for others that still arrive, to go with them in one event.
BURST_SECONDS = 5.0
#: A change further ahead in the future was written down before the clock was put back; others are a moment old.
CLOCK_SECONDS = 60.0
#: Uploads in one event; the flow it starts takes parameters of up to 512 KB.
MOST_UPLOADS = 500
#: Seconds between attempts while Prefect or the store is away: doubled each time, up to the last.
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0
#: Answers that say the event itself is at fault: it would be refused for ever, and hold up the others.
_HOPELESS = frozenset({400, 413, 422})


@dataclass
class Settling:
    """The loop that empties the outbox. `notice` wakes it.

    Attributes:
        api_url: where Prefect is, with its `/api`.
        settle_seconds: how long an upload has to be quiet.
        say: told when Prefect or the store goes away and comes back, not each time one is tried.
    """

    outbox: Outbox
    uploads: Uploads
    api_url: str
    settle_seconds: float
    say: Callable[[str], None]
    _noticed: asyncio.Event = field(default_factory=asyncio.Event)
    _trouble: str = ""

    def notice(self) -> None:
        """There is something new in the outbox."""
        self._noticed.set()

    async def run(self) -> None:
        """Work until cancelled, beginning with what was dropped while nobody listened."""
        await self._insist(self.look_around)
        while True:
            self._noticed.clear()
            wait = await self._insist(self.step)
            with suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._noticed.wait()

    async def look_around(self, now: float) -> None:
        """Have every upload in the inbox looked at. Raises `StoreUnavailable`, `sqlite3.Error`."""
        await asyncio.to_thread(self.outbox.touch, await self.uploads.names(), now)

    async def step(self, now: float) -> float | None:
        """Do what can be done now; returns in how many seconds there is more to do, None if only a notice brings more.

        Raises:
            httpx.HTTPError: Prefect did not take an event, which is kept.
            StoreUnavailable: the inbox could not be looked at; nothing was forgotten.
            sqlite3.Error: the disk is full or broken.
        """
        await self._send()
        waiting = await asyncio.to_thread(self.outbox.waiting)
        if not waiting:
            return None
        quiet = {
            name: at + self.settle_seconds if at <= now + CLOCK_SECONDS else now
            for name, at in waiting.items()
        }
        begin = min(max(quiet.values()), min(quiet.values()) + BURST_SECONDS)
        if begin > now:
            return begin - now
        due = sorted(name for name, at in quiet.items() if at <= now)[:MOST_UPLOADS]
        await self._settle({name: waiting[name] for name in due}, now)
        return 0

    async def _settle(self, due: Mapping[str, float], now: float) -> None:
        """Put those that are whole in line; the others are forgotten until they change again."""
        states = await self.uploads.states(due)
        news = await asyncio.to_thread(self.outbox.news, states)
        event = compose(news, now) if news else None
        await asyncio.to_thread(self.outbox.settle, due, event, news, now)

    async def _send(self) -> None:
        event = await asyncio.to_thread(self.outbox.event)
        if event is None:
            return
        try:
            await asyncio.to_thread(prefect_api.emit, self.api_url, f"[{event.body}]")
        except httpx.HTTPStatusError as error:
            if error.response.status_code not in _HOPELESS:
                raise
            self.say(f"Prefect refused an event, and the sweep has to find its uploads: {error}")
        await asyncio.to_thread(self.outbox.sent, event)

    async def _insist(self, call: Callable[[float], Awaitable[_T]]) -> _T:
        """Try until it succeeds, ever more patiently."""
        pause = FIRST_PAUSE
        while True:
            try:
                done = await call(time.time())
            except (AvatarError, httpx.HTTPError, httpx.InvalidURL, sqlite3.Error) as error:
                self._tell(f"{error}" or type(error).__name__)
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
            else:
                self._tell("")
                return done

    def _tell(self, trouble: str) -> None:
        if trouble and not self._trouble:
            self.say(f"Uploads are kept until they can be told of: {trouble}")
        elif self._trouble and not trouble:
            self.say("Uploads can be told of again.")
        self._trouble = trouble


def compose(states: Mapping[str, str], now: float) -> Event:
    """The event that tells of uploads in these states. Its id follows from them, so that telling twice is telling once."""
    told = sorted(states.items())
    event_id = str(uuid5(_NAMESPACE, json.dumps(told)))
    body = {
        "id": event_id,
        "occurred": datetime.fromtimestamp(now, UTC).isoformat(),
        "event": EVENT,
        "resource": RESOURCE,
        "payload": {"uploads": [name for name, _ in told]},
    }
    return Event(event_id, json.dumps(body))

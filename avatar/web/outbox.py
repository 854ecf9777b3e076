"""From changes to events: wait until uploads are quiet, see whether they are whole, tell Prefect once."""

import asyncio
import json
import sqlite3
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar
from uuid import UUID, uuid5

import httpx

from avatar.errors import AvatarError
from avatar.inbox.look import in_turns, is_manifest
from avatar.inbox.uploads import Inbox, Upload, file_of, is_usable, read_contents
from avatar.local import prefect_api
from avatar.web.notifications import Change

# What was accepted and has not reached Prefect yet, in a file: it survives whatever ends the bridge.
#
# One row per upload, however often it changes, and one event at a time: it does not grow while Prefect is away.
_TABLES = """
create table if not exists change (upload text, key text, version text, primary key (upload, key)) without rowid;
create table if not exists waiting (upload text primary key, touched real not null) without rowid;
create table if not exists event (id text primary key, body text not null) without rowid;
create table if not exists told (upload text primary key, state text not null, at real not null) without rowid;
"""
_TOUCH = "insert or replace into waiting values (?, ?)"
#: Uploads that are remembered as told, so that an old notification is not told again.
_REMEMBERED = 10_000
_BROKEN = (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT)


@dataclass(frozen=True)
class Event:
    """An event on its way to Prefect, as it was first written: sent twice, it is the same."""

    id: str
    body: str


class Outbox:
    """The file. Calls take as long as the disk does, and may come from any thread.

    Raises `sqlite3.Error` when the disk is full or broken.
    """

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            self._database = _open(path)
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorcode not in _BROKEN:
                raise
            # All that was in it is found again by looking into the inbox, as the bridge does when it starts.
            for ending in ("", "-wal", "-shm"):
                path.with_name(path.name + ending).unlink(missing_ok=True)
            self._database = _open(path)

    def note(self, changes: Iterable[Change], now: float) -> None:
        """Keep `changes`; returns when they are on disk. One that is known already changes nothing."""
        with self._transaction() as database:
            for change in changes:
                news = database.execute(
                    "insert into change values (?, ?, ?) on conflict do update set version = excluded.version "
                    "where version <> excluded.version",
                    (change.upload, change.key, change.version),
                ).rowcount
                if news:
                    database.execute(_TOUCH, (change.upload, now))

    def touch(self, uploads: Iterable[str], now: float) -> None:
        """Have `uploads` looked at, once they are quiet from `now` on."""
        with self._transaction() as database:
            database.executemany(_TOUCH, [(upload, now) for upload in uploads])

    def waiting(self) -> dict[str, float]:
        """Uploads that changed and were not told of, and when each changed last."""
        with self._transaction() as database:
            return dict(database.execute("select upload, touched from waiting"))

    def news(self, states: Mapping[str, str]) -> dict[str, str]:
        """Of uploads and their states, those that were not told of in this very state."""
        asked = "select 1 from told where upload = ? and state = ?"
        with self._transaction() as database:
            told = {
                upload for upload in states if database.execute(asked, (upload, states[upload])).fetchone()
            }
        return {upload: state for upload, state in states.items() if upload not in told}

    def settle(
        self, looked_at: Mapping[str, float], event: Event | None, states: Mapping[str, str], now: float
    ) -> None:
        """In one step: put `event` in line, and forget uploads that did not change since they were looked at."""
        with self._transaction() as database:
            if event:
                database.execute("insert or ignore into event values (?, ?)", (event.id, event.body))
            rows = [(upload, state, now) for upload, state in states.items()]
            database.executemany("insert or replace into told values (?, ?, ?)", rows)
            gone = "delete from waiting where upload = ? and touched <= ?"
            database.executemany(gone, list(looked_at.items()))
            database.execute("delete from change where upload not in (select upload from waiting)")
            database.execute(
                "delete from told where upload in (select upload from told order by at desc limit -1 offset ?)",
                (_REMEMBERED,),
            )

    def event(self) -> Event | None:
        """The event that is to be sent next."""
        with self._transaction() as database:
            row = database.execute("select id, body from event limit 1").fetchone()
        return Event(*row) if row else None

    def sent(self, event: Event) -> None:
        """Prefect has it."""
        with self._transaction() as database:
            database.execute("delete from event where id = ?", (event.id,))

    def close(self) -> None:
        self._database.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock, self._database:
            yield self._database


def _open(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, timeout=5, check_same_thread=False)
    try:
        database.execute("pragma journal_mode = wal")
        database.execute("pragma synchronous = full")
        database.executescript(_TABLES)
    except sqlite3.DatabaseError:
        database.close()
        raise
    path.chmod(0o600)
    return database


# What lies in the inbox, as far as the bridge has to know: which uploads there are, and which are whole.
class Uploads:
    """The folders of the inbox that wait to be taken."""

    def __init__(self, inbox: Inbox) -> None:
        self.inbox = inbox

    async def names(self) -> list[str]:
        """All of them, whole or not. Raises `StoreUnavailable`."""
        prefix = self.inbox.prefix
        found = await self.inbox.store.list(prefix, recursive=False)
        folders = [stat.key.removeprefix(prefix)[:-1] for stat in found if stat.key.endswith("/")]
        # One that the store cannot be asked for would have it asked for ever.
        return [name for name in folders if name and name[0] != "." and is_usable(f"{prefix}{name}/file")]

    async def states(self, names: Iterable[str]) -> dict[str, str]:
        """Of those that a run can do something with, what tells each from an earlier one by the same name.

        One with a fault is among them: the run files it away with the reason. Raises `StoreUnavailable`.
        """
        found = await in_turns(self._state, names)
        return {name: state for name, state in found if state}

    async def _state(self, name: str) -> tuple[str, str]:
        upload = await self._find(name)
        whole = upload is not None and not (await read_contents(self.inbox, upload)).missing
        # The same files dropped again have the same signature, but another time.
        return name, f"{upload.signature} {upload.modified.isoformat()}" if upload and whole else ""

    async def _find(self, name: str) -> Upload | None:
        """The upload as it is now; None if it is gone, or a manifest makes it a batch's."""
        listed = await self.inbox.store.list(self.inbox.folder(name))
        stats = [stat for stat in listed if not stat.key.endswith("/")]
        if not stats or any(is_manifest(stat.key) for stat in stats):
            return None
        modified = max(stat.modified for stat in stats)
        age = (datetime.now(UTC) - modified).total_seconds()
        return Upload(name, tuple(file_of(stat) for stat in stats), modified, age)


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

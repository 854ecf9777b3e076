"""What was accepted and has not reached Prefect yet, in a file: it survives whatever ends the bridge.

One row per upload, however often it changes, and one event at a time: it does not grow while Prefect is away.
"""

import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from flows.bridge.notices import Change

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

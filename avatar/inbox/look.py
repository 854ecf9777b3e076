"""What lies in the inbox now. An empty one is one listing."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import TypeVar

from avatar.batch.manifest import KINDS
from avatar.errors import InvalidInput, ObjectNotFound
from avatar.inbox.uploads import Inbox, Upload, file_of, is_hidden
from avatar.store.objects import Stat

G = TypeVar("G")
T = TypeVar("T")

#: Folders of the inbox that are ours. All that begin with a dot are left alone.
TAKEN, WAITING, ROWS, DONE, FAILED = ".taken/", ".waiting/", ".rows/", ".done/", ".failed/"
#: Requests at a time.
ABREAST = 8
#: Objects asked for the store's clock, which may be gone in the meantime.
CLOCKS = 3


@dataclass(frozen=True)
class Found:
    """One look at the inbox.

    Attributes:
        uploads: its folders, but not those that hold a manifest: they belong to a batch.
        loose: files that lie beside the folders, as one upload without a name; manifests are not among them.
        ours: which of our own folders are there.
    """

    uploads: tuple[Upload, ...] = ()
    loose: Upload | None = None
    ours: frozenset[str] = frozenset()


async def look(inbox: Inbox) -> Found:
    """Every folder with its files. Raises `StoreUnavailable`: a store that fails is never an empty inbox."""
    entries = await inbox.store.list(inbox.prefix, recursive=False)
    names = [entry.key.removeprefix(inbox.prefix)[:-1] for entry in entries if entry.key.endswith("/")]
    folders = [name for name in names if name and not name.startswith(".")]
    listings = await in_turns(lambda name: inbox.store.list(inbox.folder(name)), folders)
    contents = {name: _files(stats) for name, stats in zip(folders, listings, strict=True)}
    loose = [stat for stat in _files(entries) if not is_hidden(stat.key) and not is_manifest(stat.key)]
    now = await _clock(inbox, [stat for stats in (*contents.values(), loose) for stat in stats])
    found = [_upload(name, stats, now) for name, stats in contents.items() if stats]
    return Found(
        uploads=tuple(each for each in found if not any(is_manifest(file.key) for file in each.files)),
        loose=_upload("", loose, now) if loose else None,
        ours=frozenset(f"{name}/" for name in names if name.startswith(".")),
    )


async def look_again(inbox: Inbox, name: str) -> str:
    """The signature of what is in the folder now."""
    stats = _files(await inbox.store.list(inbox.folder(name)))
    return _upload(name, stats, datetime.now(UTC)).signature if stats else ""


async def look_when_settled(inbox: Inbox, wait_seconds: float) -> Found:
    """Like `look`, after waiting for uploads that are still changing, `wait_seconds` at most."""
    deadline = asyncio.get_running_loop().time() + wait_seconds
    while True:
        found = await look(inbox)
        quiet = min((each.age for each in found.uploads), default=inbox.settings.settle_seconds)
        left = deadline - asyncio.get_running_loop().time()
        if quiet >= inbox.settings.settle_seconds or left <= 0:
            return found
        await asyncio.sleep(min(left, inbox.settings.settle_seconds - quiet + 0.05))


async def in_turns(work: Callable[[G], Awaitable[T]], given: Iterable[G]) -> list[T]:
    """The work on everything that is given, a few at a time. What one raises is raised when all have ended."""
    turn = asyncio.Semaphore(ABREAST)

    async def one(each: G) -> T:
        async with turn:
            return await work(each)

    ended = await asyncio.gather(*(one(each) for each in given), return_exceptions=True)
    for each in ended:
        if isinstance(each, BaseException):
            raise each
    return [each for each in ended if not isinstance(each, BaseException)]


def is_manifest(key: str) -> bool:
    return PurePosixPath(key).suffix.lower() in KINDS and not is_hidden(key)


def _files(stats: Iterable[Stat]) -> list[Stat]:
    """Without folders, and without the empty objects that stand for them."""
    return [stat for stat in stats if not stat.key.endswith("/")]


def _upload(name: str, stats: Sequence[Stat], now: datetime) -> Upload:
    modified = max(stat.modified for stat in stats)
    age = max(0.0, (now - modified).total_seconds())
    return Upload(name, tuple(file_of(stat) for stat in stats), modified, age)


async def _clock(inbox: Inbox, stats: Sequence[Stat]) -> datetime:
    """The store's own time: that of this machine may differ, and changes are told by the store's."""
    for stat in stats[:CLOCKS]:
        try:
            now = (await inbox.store.stat(stat.key)).served_at
        except (ObjectNotFound, InvalidInput):
            continue
        if now is not None:
            return now
    return datetime.now(UTC)

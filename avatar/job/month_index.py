"""The index of videos by month: many entries in one object, so that a search reads months instead of videos.

`index/bundles/<month>/<number>.gz` has a month's entries as they were read: a head, then a line for each with its place,
its ETag and itself. The highest number counts. What it has of days up to its head's `through` is taken unasked.
`index/changes/<day>/<entry>/<token>.json` is a note that an entry of a day gone by was written or removed since then.
Bundles are made of entries and can be made anew: one that is missing or cannot be read makes a search slow, no more.
"""

import asyncio
import gzip
import json
import secrets
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from avatar.errors import InvalidInput, ObjectNotFound
from avatar.store.objects import Stat
from avatar.store.sdk_calls import MIB
from avatar.store.store import Store
from avatar.waiting import in_turns

VIDEOS, BUNDLES, CHANGES = "index/videos/", "index/bundles/", "index/changes/"
#: Days after which one counts as gone by: machines whose clocks differ by less than one agree on what is noted.
OPEN_DAYS = 2
#: Entries of days not gone by that are worth writing a month anew.
WORTH = 100
LARGEST = 512 * MIB
#: Entries read at a time: people may be looking at pages meanwhile.
ABREAST = 4


@dataclass(frozen=True)
class Entry:
    """One entry as a bundle has it. `place` is its key below `VIDEOS`, `body` its JSON in one line."""

    place: str
    etag: str
    body: bytes


@dataclass(frozen=True)
class Bundle:
    """The entries of a month, by their places. Of days after `through` there may be others, or newer ones."""

    number: int = 0
    through: str = ""
    entries: Mapping[str, Entry] = field(default_factory=dict)

    def packed(self) -> bytes:
        head = json.dumps({"format": 1, "through": self.through}).encode()
        lines = (
            b"\t".join((each.place.encode(), each.etag.encode(), each.body))
            for _, each in sorted(self.entries.items())
        )
        return gzip.compress(b"\n".join((head, *lines)), 6, mtime=0)


def unpack(number: int, data: bytes) -> Bundle:
    """Raises `ValueError` for what this version cannot read."""
    try:
        head, *lines = gzip.decompress(data).split(b"\n")
        told = json.loads(head)
        if told["format"] != 1:
            raise ValueError(told["format"])
        found = (line.split(b"\t", 2) for line in lines)
        entries = {place.decode(): Entry(place.decode(), etag.decode(), body) for place, etag, body in found}
        return Bundle(number, str(told["through"]), entries)
    except (OSError, EOFError, KeyError, TypeError) as error:
        raise ValueError(str(error)) from error


async def list_days(store: Store) -> list[str]:
    """The days of which there are entries, the newest first."""
    folders = await store.list(VIDEOS, recursive=False)
    return sorted((stat.key.split("/")[2] for stat in folders if stat.key.endswith("/")), reverse=True)


async def note_change(store: Store, key: str) -> None:
    """Note that an entry was written or removed, after that: whoever reads the note finds the change."""
    place = key.removeprefix(VIDEOS)
    if place < f"{datetime.now(UTC):%Y-%m-%d}":
        note = f"{CHANGES}{place.removesuffix('.json')}/{secrets.token_hex(8)}.json"
        await store.put(note, b"{}", content_type="application/json")


async def list_changes(store: Store) -> dict[str, list[str]]:
    """The places of entries that were changed since they were bundled, each with its notes."""
    found = defaultdict(list)
    for stat in await store.list(CHANGES):
        found[f"{stat.key.removeprefix(CHANGES).rpartition('/')[0]}.json"].append(stat.key)
    return dict(found)


async def list_bundles(store: Store) -> dict[str, Stat]:
    """The bundle of each month that counts."""
    return {stat.key.split("/")[2]: stat for stat in await store.list(BUNDLES)}


async def read_bundle(store: Store, stat: Stat) -> Bundle:
    """An empty one for what is gone or cannot be read. Raises `StoreUnavailable`."""
    try:
        blob = await store.get(stat.key, max_bytes=LARGEST)
        return await asyncio.to_thread(unpack, _number(stat), blob.data)
    except (ObjectNotFound, InvalidInput, ValueError):
        return Bundle(_number(stat))


def _number(stat: Stat) -> int:
    number = stat.key.rpartition("/")[2].removesuffix(".gz")
    return int(number) if number.isdecimal() else 0


async def bundle_months(store: Store, *, afresh: bool = False) -> int:
    """Bring every month's bundle up to date, the newest month first; how many were written.

    May run beside everything else, and beside itself: of two that write a month the later changes nothing.

    Args:
        store: where the index is.
        afresh: list also the days gone by that nobody noted a change of.

    Raises:
        StoreUnavailable: the store failed.
    """
    kept, changes = await list_bundles(store), await list_changes(store)
    days = defaultdict(list)
    for day in await list_days(store):
        days[day[:7]].append(day)
    months = sorted({*days, *kept, *(place[:7] for place in changes)}, reverse=True)
    written = 0
    for month in months:
        old = await read_bundle(store, kept[month]) if month in kept else Bundle()
        old = replace(old, through="") if afresh else old
        touched = {place: notes for place, notes in changes.items() if place.startswith(month)}
        written += await _bring_up_to_date(store, month, old, days[month], touched)
    return written


async def _bring_up_to_date(
    store: Store, month: str, old: Bundle, days: Iterable[str], changes: Mapping[str, list[str]]
) -> bool:
    closed = f"{datetime.now(UTC) - timedelta(days=OPEN_DAYS):%Y-%m-%d}"
    through = min(closed, f"{month}-31")
    again = {place[:10] for place in changes} | {day for day in days if day > old.through}
    if not again:
        return False
    entries = {place: each for place, each in old.entries.items() if place[:10] not in again}
    for day in sorted(again):
        entries |= await _read_day(store, day, old)
    new = sum(old.entries.get(place) != each for place, each in entries.items())
    if not changes and new < WORTH and not (through > old.through and any(day <= through for day in again)):
        return False
    made = Bundle(old.number + 1, through, entries)
    packed = await asyncio.to_thread(made.packed)
    if not await store.create(_key(month, made.number), packed, content_type="application/gzip"):
        return False
    latest = (await list_bundles(store)).get(month)
    if (
        latest and _number(latest) == made.number
    ):  # else another's, made of what was read before a note of these
        await _clean_up(store, month, made.number, changes)
    return True


def _key(month: str, number: int) -> str:
    return f"{BUNDLES}{month}/{number:06}.gz"


async def _read_day(store: Store, day: str, old: Bundle) -> dict[str, Entry]:
    """The entries of a day as they are now; those that did not change are not read again."""

    async def read(stat: Stat) -> Entry | None:
        place = stat.key.removeprefix(VIDEOS)
        known = old.entries.get(place)
        if known and known.etag == stat.etag:
            return known
        try:
            blob = await store.get(stat.key)
            return Entry(place, blob.stat.etag, _in_one_line(blob.data))
        except (ObjectNotFound, InvalidInput, ValueError):
            return None

    found = await in_turns(read, await store.list(f"{VIDEOS}{day}/"), abreast=ABREAST)
    return {each.place: each for each in found if each}


def _in_one_line(data: bytes) -> bytes:
    """As pydantic writes it, whoever wrote it: a search looks for bytes first."""
    return json.dumps(json.loads(data), ensure_ascii=False, separators=(",", ":")).encode()


async def _clean_up(store: Store, month: str, number: int, changes: Mapping[str, list[str]]) -> None:
    """Remove the notes of what is in the bundle now, and the bundles before the last one, which may still be read."""
    for stat in await store.list(f"{BUNDLES}{month}/"):
        if _number(stat) < number - 1:
            await store.remove(stat.key)
    for notes in changes.values():
        await in_turns(store.remove, notes)

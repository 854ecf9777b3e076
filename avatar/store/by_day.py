"""What was stored on which day, so that what is old is found without listing everything.

`index/days/<kind>/<UTC day>/<where it lies>` is an empty note, written before the thing itself. Its day is the writer's
and only says where to look: how old a thing is tells the store's clock. `index/days/<kind>.json` says that what was
stored before such notes were written has one too.
"""

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime

from avatar.errors import ObjectNotFound
from avatar.store.store import Store

NOTES = "index/days/"
#: What lies in the store as folders of its own, or as one object each, and may be deleted one day.
RENDERS, UPLOADS, BATCHES, RESULTS = "renders", "uploads", "batches", "results"
KINDS = (RENDERS, UPLOADS, BATCHES, RESULTS)


async def note_day(store: Store, kind: str, place: str, day: str = "") -> str:
    """Note that something is stored under `place` on a day, today if none is given. Returns the note's key."""
    key = f"{NOTES}{kind}/{day or f'{datetime.now(UTC):%Y-%m-%d}'}/{place}"
    await store.put(key, b"{}", content_type="application/json", like=place)
    return key


async def places_until(store: Store, kind: str, day: str) -> AsyncIterator[tuple[str, str]]:
    """What was noted on that day or before it, oldest day first: each note's key, and where the thing lies."""
    folders = await store.list(f"{NOTES}{kind}/", recursive=False)
    for folder in sorted(stat.key for stat in folders):
        if folder.split("/")[-2] <= day:
            for stat in await store.list(folder):
                yield stat.key, stat.key.removeprefix(folder)


async def is_whole(store: Store, kind: str) -> bool:
    """Whether all that is stored of a kind has a note."""
    try:
        return bool(json.loads((await store.get(_whole_key(kind))).data)["whole"])
    except (ObjectNotFound, ValueError, KeyError, TypeError):
        return False


async def set_whole(store: Store, kind: str, *, whole: bool = True) -> None:
    body = json.dumps({"format": 1, "whole": whole}).encode()
    await store.put(_whole_key(kind), body, content_type="application/json")


def _whole_key(kind: str) -> str:
    return f"{NOTES}{kind}.json"

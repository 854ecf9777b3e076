"""What lies in the store long enough, by the store's own clock."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from tasks.storage.objects import Stat
from tasks.storage.store import Store


@dataclass(frozen=True)
class Thing:
    """Objects that belong together: a video with its pictures, an upload, a batch.

    Attributes:
        kind: what it is: uploads, renders, videos, batches, results.
        name: the job, the render, the batch, the folder or the key.
        keys: its objects, in the order in which they are deleted.
        size: bytes of all.
        changed: when the newest of them was written, by the store's clock.
    """

    kind: str
    name: str
    keys: tuple[str, ...]
    size: int
    changed: datetime


async def store_clock(store: Store) -> datetime:
    """The store's time, to the second. This machine's clock may be wrong, and must not delete anything."""
    return (await store.put("probe/clock", b"{}", content_type="application/json")).modified


async def things(
    store: Store, kind: str, prefix: str, before: datetime, *, name: Callable[[str], str]
) -> list[Thing]:
    """The things under a prefix that were last changed before a moment, oldest first.

    Args:
        store: where to look.
        kind: what they are.
        prefix: where they lie.
        before: by the store's clock.
        name: the thing that a key belongs to.
    """
    groups: defaultdict[str, list[Stat]] = defaultdict(list)
    for stat in await store.list(prefix):
        groups[name(stat.key.removeprefix(prefix))].append(stat)
    found = [_thing(kind, each, stats) for each, stats in groups.items()]
    return sorted(
        (thing for thing in found if thing.changed < before), key=lambda thing: (thing.changed, thing.name)
    )


def _thing(kind: str, name: str, stats: list[Stat]) -> Thing:
    # A manifest goes first: without it, nobody takes the rest for a whole video.
    keys = sorted((stat.key for stat in stats), key=lambda key: (not key.endswith("/manifest.json"), key))
    return Thing(
        kind, name, tuple(keys), sum(stat.size for stat in stats), max(stat.modified for stat in stats)
    )

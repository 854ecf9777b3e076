"""Delete what the user's rules (AVATAR_RETENTION__…) say is old enough, and nothing else.

Never deleted: the journal, budgets, plans, inputs; a render that is under way, unknown or of no published video; a
render that an unfinished job may be made of; a video that cannot be read.
"""

import logging
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import NamedTuple

from pydantic import ValidationError

from avatar.errors import AvatarError, ObjectNotFound
from avatar.job.index import job_of, rebuild, summarise
from avatar.job.month_index import VIDEOS as VIDEOS_BY_DAY
from avatar.job.month_index import note_change
from avatar.job.unused_uploads import old_files, old_orders
from avatar.models import Plan, Video, VideoState
from avatar.money.collect import VIDEOS, ExpiredRecord, expired_key, read_expired
from avatar.money.commit import load_plan, open_jobs
from avatar.money.entries import RenderState
from avatar.money.journal import is_indexed
from avatar.store.by_day import (
    BATCHES,
    RENDERS,
    RESULTS,
    UPLOADS,
    is_whole,
    note_day,
    places_until,
    set_whole,
)
from avatar.store.objects import Stat
from avatar.store.store import Store
from avatar.waiting import in_turns
from avatar.workspace import Workspace


# What lies in the store long enough, by the store's own clock.
@dataclass(frozen=True)
class StoredGroup:
    """Objects that belong together: a video with its pictures, an upload, a batch.

    Attributes:
        kind: what it is: uploads, renders, videos, batches, results.
        name: the job, the render, the batch, the folder or the key.
        keys: its objects, in the order in which they are deleted.
        size: bytes of all.
        changed: when the newest of them was written, by the store's clock.
        place: the folder or object that it is, without a slash at its end.
        note: the note by which it was found (`avatar.store.by_day`), which goes with it.
    """

    kind: str
    name: str
    keys: tuple[str, ...]
    size: int
    changed: datetime
    place: str
    note: str = ""


async def store_clock(store: Store) -> datetime:
    """The store's time, to the second. This machine's clock may be wrong, and must not delete anything."""
    return (await store.put("probe/clock", b"{}", content_type="application/json")).modified


@dataclass(frozen=True)
class Shelf:
    """Where the things of one kind lie, and how long they may. `whole`: each object is a thing, no folder."""

    kind: str
    prefixes: Sequence[str]
    days: int
    whole: bool = False

    def place(self, key: str, prefix: str) -> str:
        """The folder or object that a key belongs to."""
        return key if self.whole else prefix + key.removeprefix(prefix).split("/", 1)[0]


async def everything(store: Store, shelf: Shelf) -> list[StoredGroup]:
    """All things of a kind, the oldest first: one request for each thousand objects."""
    groups: defaultdict[str, list[Stat]] = defaultdict(list)
    for prefix in shelf.prefixes:
        for stat in await store.list(prefix):
            groups[shelf.place(stat.key, prefix)].append(stat)
    found = [_thing(shelf, place, stats) for place, stats in groups.items()]
    return sorted(found, key=lambda thing: (thing.changed, thing.name))


async def _look(store: Store, shelf: Shelf, place: str, note: str) -> StoredGroup | None:
    """What lies there now; None if nothing does."""
    if shelf.whole:
        stat = await store.exists(place)
        stats = [stat] if stat else []
    else:
        stats = await store.list(f"{place}/")
    return replace(_thing(shelf, place, stats), note=note) if stats else None


def _thing(shelf: Shelf, place: str, stats: Sequence[Stat]) -> StoredGroup:
    # A manifest goes first: without it, nobody takes the rest for a whole video.
    keys = sorted((stat.key for stat in stats), key=lambda key: (not key.endswith("/manifest.json"), key))
    name = place.removeprefix(shelf.prefixes[0]) if shelf.whole else place.rpartition("/")[2]
    return StoredGroup(
        shelf.kind,
        name,
        tuple(keys),
        sum(stat.size for stat in stats),
        max(stat.modified for stat in stats),
        place,
    )


# Videos and renders: what may be deleted of what was paid for, and the mark that stays in its place.
#
# The journal stays whole, so that nothing is bought again by itself. The mark says why a file is gone: a job that needs
# it is refused with that reason, and another take buys it anew.
class SegmentKey(NamedTuple):
    """What makes two segments the same render, save for the portrait."""

    segment: str
    prompt: str
    model: str
    take: int


async def expired_video(
    workspace: Workspace, thing: StoredGroup, now: datetime, days: int
) -> ExpiredRecord | None:
    """The mark that a video leaves. None: it is not to be deleted, since it cannot be read or is being fetched anew."""
    video = await _manifest(workspace, thing.name)
    if video is None:
        return None
    under_way = set(await workspace.journal.open_renders())
    if any(render.render_id in under_way for render in video.renders):
        return None
    published = video.state is VideoState.PUBLISHED
    renders = tuple(render.key for render in video.renders) if published else ()
    keys = (*thing.keys, summarise(video).key)
    return ExpiredRecord(name=thing.name, at=now, days=days, keys=keys, renders=renders)


async def expired_render(
    workspace: Workspace, thing: StoredGroup, now: datetime, days: int, waiting: frozenset[SegmentKey]
) -> ExpiredRecord | None:
    """The mark that a render leaves. None: it is under way, unknown, broken, of no published video, or needed.

    `waiting`: what the jobs without a video are to be made of.
    """
    head = await workspace.journal.head(thing.name)
    if head is None or head.state is not RenderState.COLLECTED or head.entry.render is None:
        return None
    if thing.name in await workspace.journal.open_renders():
        return None
    if waiting and waiting & await _pieces_of(workspace, head.entry.job_id):
        return None
    if head.entry.render.key not in await _keys_published(workspace, head.entry.job_id):
        return None
    return ExpiredRecord(name=thing.name, at=now, days=days, keys=thing.keys)


async def _keys_published(workspace: Workspace, job_id: str) -> frozenset[str]:
    """Object keys of the renders that a job's video was made of, whether it is there or has expired."""
    video = await _manifest(workspace, job_id)
    if video is not None and video.state is VideoState.PUBLISHED and await workspace.store.exists(video.key):
        return frozenset(render.key for render in video.renders)
    mark = await read_expired(workspace.store, VIDEOS, job_id)
    return frozenset(mark.renders) if mark else frozenset()


async def _manifest(workspace: Workspace, job_id: str) -> Video | None:
    try:
        blob = await workspace.store.get(f"videos/{job_id}/manifest.json")
        return Video.model_validate_json(blob.data)
    except (ObjectNotFound, ValidationError):
        return None


async def waiting_pieces(workspace: Workspace) -> frozenset[SegmentKey]:
    """What the jobs that have no video yet may still be made of."""
    jobs = await open_jobs(workspace)
    found = [await _pieces_of(workspace, job_id) for job_id in jobs]
    return frozenset[SegmentKey]().union(*found)


async def _pieces_of(workspace: Workspace, job_id: str) -> set[SegmentKey]:
    try:
        return segment_keys(await load_plan(workspace, job_id))
    except ObjectNotFound:
        return set()


def segment_keys(plan: Plan) -> set[SegmentKey]:
    return {SegmentKey(segment.sha256, plan.prompt, plan.model, plan.take) for segment in plan.segments}


log = logging.getLogger("avatar.retention")


@dataclass
class Expired:
    """What was deleted (or would be, in a dry run), and what was old enough and is kept."""

    deleted: list[StoredGroup] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)  #: of what was deleted, by kind
    kept: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Sweep:
    """One run over the store."""

    workspace: Workspace
    now: datetime
    dry_run: bool
    most: int
    done: Expired = field(default_factory=Expired)

    def before(self, days: int) -> datetime:
        return self.now - timedelta(days=days)

    def is_full(self, kind: str) -> bool:
        return self.done.counts[kind] >= self.most

    async def take(
        self, thing: StoredGroup, mark: Callable[[], Awaitable[ExpiredRecord | None]] | None = None
    ) -> None:
        """Delete a thing; of what was paid for, leave its mark first. One that fails stops no other."""
        try:
            left = await mark() if mark else None
            if mark is not None and left is None:
                self.done.kept[f"{thing.kind} {thing.name}"] = "still needed, under way, or not whole"
                return
            if not self.dry_run:
                await self._delete(thing, left)
            self.done.deleted.append(thing)
            self.done.counts[thing.kind] += 1
        except AvatarError as error:
            log.warning("%s %s is left as it is: %s", thing.kind, thing.name, error)
            self.done.kept[f"{thing.kind} {thing.name}"] = str(error)

    async def _delete(self, thing: StoredGroup, mark: ExpiredRecord | None) -> None:
        if mark is not None:
            body = mark.model_dump_json().encode()
            await self.workspace.store.put(
                expired_key(thing.kind, thing.name), body, content_type="application/json"
            )
        for key in mark.keys if mark else thing.keys:
            await self.workspace.store.remove(key)
            if key.startswith(VIDEOS_BY_DAY):
                await note_change(self.workspace.store, key)
        if thing.note:
            await self.workspace.store.remove(thing.note)

    async def old(self, shelf: Shelf) -> AsyncIterator[StoredGroup]:
        """The things of a kind that are old enough, the oldest first, until `most` of it were deleted."""
        before = self.before(shelf.days)
        async for thing in self._candidates(shelf, f"{before:%Y-%m-%d}"):
            if self.is_full(shelf.kind):
                return
            if thing.changed < before:
                yield thing
            elif thing.note and not self.dry_run:
                await self._note_anew(shelf, thing)

    async def _note_anew(self, shelf: Shelf, thing: StoredGroup) -> None:
        """It was written to again since it was noted: it is looked at when it is old enough."""
        store, day = self.workspace.store, f"{thing.changed:%Y-%m-%d}"
        if f"/{day}/" not in thing.note:
            await note_day(store, shelf.kind, thing.place, day)
            await store.remove(thing.note)

    async def _candidates(self, shelf: Shelf, day: str) -> AsyncIterator[StoredGroup]:
        store = self.workspace.store
        if not await self._is_by_day(shelf):
            for thing in await self._everything(shelf):
                yield thing
            return
        places = _videos_until(store, day) if shelf.kind == VIDEOS else places_until(store, shelf.kind, day)
        async for note, place in places:
            found = await _look(store, shelf, place, note)
            if found is not None:
                yield found
            elif note and not self.dry_run:
                await store.remove(note)

    async def _is_by_day(self, shelf: Shelf) -> bool:
        """Whether all of a kind can be found by its day. Videos whose index is not whole get it now."""
        store = self.workspace.store
        if shelf.kind != VIDEOS:
            return await is_whole(store, shelf.kind)
        if not self.dry_run and not await is_indexed(store):
            await rebuild(store, self.workspace.journal)
        return await is_indexed(store)

    async def _everything(self, shelf: Shelf) -> list[StoredGroup]:
        """All there is, since not all of it has a note. Unless nothing is to be changed, it has one now."""
        store = self.workspace.store
        found = await everything(store, shelf)
        if self.dry_run:
            return found

        async def noted(thing: StoredGroup) -> StoredGroup:
            day = f"{thing.changed:%Y-%m-%d}"
            return replace(thing, note=await note_day(store, shelf.kind, thing.place, day))

        found = await in_turns(noted, found)
        await set_whole(store, shelf.kind)
        return found


async def _videos_until(store: Store, day: str) -> AsyncIterator[tuple[str, str]]:
    """Where the videos lie that were put in place on that day or before it. Their index goes with their marks."""
    folders = await store.list(VIDEOS_BY_DAY, recursive=False)
    for folder in sorted(stat.key for stat in folders):
        if folder.split("/")[-2] <= day:
            for stat in await store.list(folder):
                yield "", f"videos/{job_of(stat.key)}"


async def expire(workspace: Workspace, *, dry_run: bool = False, most: int = 10_000) -> Expired:
    """Apply the rules that are set.

    Args:
        workspace: settings, store and journal.
        dry_run: delete nothing, and tell what would be.
        most: things of each kind deleted in one run; the oldest go first, the next run does the rest.

    Raises:
        StoreUnavailable: the store failed while it was listed.
    """
    sweep = _Sweep(workspace, await store_clock(workspace.store), dry_run, most)
    rules, inbox = workspace.settings.retention, workspace.settings.inbox.prefix
    if rules.videos_days is not None:
        await _videos(sweep, Shelf(VIDEOS, ["videos/"], rules.videos_days))
    if rules.renders_days is not None:
        await _renders(sweep, Shelf(RENDERS, ["renders/"], rules.renders_days))
    for kind, prefixes, days in (
        (UPLOADS, [f"{inbox}.done/", f"{inbox}.failed/"], rules.uploads_days),
        (BATCHES, ["batches/"], rules.batches_days),
        (RESULTS, ["results/"], rules.results_days),
    ):
        if days is not None:
            async for thing in sweep.old(Shelf(kind, prefixes, days, whole=kind == RESULTS)):
                await sweep.take(thing)
    if rules.uploads_days is not None:
        await _brought(sweep, rules.uploads_days)
    return sweep.done


async def _brought(sweep: _Sweep, days: int) -> None:
    """What people brought to the gallery; a run that waits for its approval may still read it for as long as it may wait."""
    waits = timedelta(seconds=sweep.workspace.settings.budget.approval_seconds)
    shelf, before = Shelf(UPLOADS, ["desk/"], days, whole=True), sweep.before(days) - waits
    orders = await old_orders(sweep.workspace.store, before)
    for stat in orders:
        await sweep.take(_thing(shelf, stat.key, [stat]))
    for stat in await old_files(sweep.workspace, before, frozenset(stat.key for stat in orders)):
        await sweep.take(_thing(shelf, stat.key, [stat]))


async def _videos(sweep: _Sweep, shelf: Shelf) -> None:
    async for thing in sweep.old(shelf):

        async def mark(thing: StoredGroup = thing) -> ExpiredRecord | None:
            return await expired_video(sweep.workspace, thing, sweep.now, shelf.days)

        await sweep.take(thing, mark)


async def _renders(sweep: _Sweep, shelf: Shelf) -> None:
    waiting: frozenset[SegmentKey] | None = None
    async for thing in sweep.old(shelf):
        waiting = await waiting_pieces(sweep.workspace) if waiting is None else waiting

        async def mark(
            thing: StoredGroup = thing, waiting: frozenset[SegmentKey] = waiting
        ) -> ExpiredRecord | None:
            return await expired_render(sweep.workspace, thing, sweep.now, shelf.days, waiting)

        await sweep.take(thing, mark)

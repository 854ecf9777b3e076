"""Delete what the user's rules (AVATAR_RETENTION__…) say is old enough, and nothing else.

Never deleted: the journal, budgets, plans, inputs; a render that is under way, unknown or of no published video; a
render that an unfinished job may be made of; a video that cannot be read.
"""

import logging
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple

from pydantic import ValidationError

from avatar.errors import AvatarError, ObjectNotFound
from avatar.job.index import summarise
from avatar.models import Plan, Video, VideoState
from avatar.money.collect import RENDERS, VIDEOS, Mark, mark_key, read_mark
from avatar.money.commit import load_plan, plan_key
from avatar.money.journal import RenderState
from avatar.store.objects import Stat
from avatar.store.store import Store
from avatar.workspace import Workspace


# What lies in the store long enough, by the store's own clock.
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


# Videos and renders: what may be deleted of what was paid for, and the mark that stays in its place.
#
# The journal stays whole, so that nothing is bought again by itself. The mark says why a file is gone: a job that needs
# it is refused with that reason, and another take buys it anew.
class Piece(NamedTuple):
    """What makes two segments the same render, save for the portrait."""

    segment: str
    prompt: str
    model: str
    take: int


async def video_mark(workspace: Workspace, thing: Thing, now: datetime, days: int) -> Mark | None:
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
    return Mark(name=thing.name, at=now, days=days, keys=keys, renders=renders)


async def render_mark(
    workspace: Workspace, thing: Thing, now: datetime, days: int, needed: frozenset[str]
) -> Mark | None:
    """The mark that a render leaves. None: it is under way, unknown, broken, of no published video, or needed."""
    head = await workspace.journal.head(thing.name)
    if head is None or head.state is not RenderState.COLLECTED or head.entry.render is None:
        return None
    if thing.name in needed or thing.name in await workspace.journal.open_renders():
        return None
    if head.entry.render.key not in await _keys_published(workspace, head.entry.job_id):
        return None
    return Mark(name=thing.name, at=now, days=days, keys=thing.keys)


async def _keys_published(workspace: Workspace, job_id: str) -> frozenset[str]:
    """Object keys of the renders that a job's video was made of, whether it is there or has expired."""
    video = await _manifest(workspace, job_id)
    if video is not None and video.state is VideoState.PUBLISHED and await workspace.store.exists(video.key):
        return frozenset(render.key for render in video.renders)
    mark = await read_mark(workspace.store, VIDEOS, job_id)
    return frozenset(mark.renders) if mark else frozenset()


async def _manifest(workspace: Workspace, job_id: str) -> Video | None:
    try:
        blob = await workspace.store.get(f"videos/{job_id}/manifest.json")
        return Video.model_validate_json(blob.data)
    except (ObjectNotFound, ValidationError):
        return None


async def needed_renders(workspace: Workspace, candidates: Iterable[str]) -> frozenset[str]:
    """Those of `candidates` that a job without a video may still be made of."""
    waiting = {piece for plan in await _unfinished(workspace) for piece in pieces(plan)}
    needed = set()
    for render_id in candidates if waiting else ():
        head = await workspace.journal.head(render_id)
        if head is not None and waiting & await _pieces_of(workspace, head.entry.job_id):
            needed.add(render_id)
    return frozenset(needed)


async def _pieces_of(workspace: Workspace, job_id: str) -> set[Piece]:
    try:
        return pieces(await load_plan(workspace, job_id))
    except ObjectNotFound:
        return set()


def pieces(plan: Plan) -> set[Piece]:
    return {Piece(segment.sha256, plan.prompt, plan.model, plan.take) for segment in plan.segments}


async def _unfinished(workspace: Workspace) -> list[Plan]:
    """Plans of the jobs that have neither a video nor the mark of one."""
    done = {stat.key.split("/")[1] for stat in await workspace.store.list("videos/")}
    done |= {
        stat.key.split("/")[2].removesuffix(".json")
        for stat in await workspace.store.list(f"expired/{VIDEOS}/")
    }
    listed = await workspace.store.list(plan_key("").removesuffix(".json"))
    waiting = [stat.key.split("/")[1].removesuffix(".json") for stat in listed]
    return [await load_plan(workspace, job_id) for job_id in waiting if job_id not in done]


log = logging.getLogger("avatar.retention")


@dataclass
class Expired:
    """What was deleted (or would be, in a dry run), and what was old enough and is kept."""

    deleted: list[Thing] = field(default_factory=list)
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

    async def take(self, thing: Thing, mark: Callable[[], Awaitable[Mark | None]] | None = None) -> None:
        """Delete a thing; of what was paid for, leave its mark first. One that fails stops no other."""
        if self.done.counts[thing.kind] >= self.most:
            return
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

    async def _delete(self, thing: Thing, mark: Mark | None) -> None:
        if mark is not None:
            body = mark.model_dump_json().encode()
            await self.workspace.store.put(
                mark_key(thing.kind, thing.name), body, content_type="application/json"
            )
        for key in mark.keys if mark else thing.keys:
            await self.workspace.store.remove(key)


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
    rules = workspace.settings.retention
    if rules.videos_days is not None:
        await _videos(sweep, rules.videos_days)
    if rules.renders_days is not None:
        await _renders(sweep, rules.renders_days)
    inbox = workspace.settings.inbox.prefix
    for kind, prefix, days, name in (
        ("uploads", f"{inbox}.done/", rules.uploads_days, _folder),
        ("uploads", f"{inbox}.failed/", rules.uploads_days, _folder),
        ("batches", "batches/", rules.batches_days, _folder),
        ("results", "results/", rules.results_days, _whole),
    ):
        if days is not None:
            for thing in await things(workspace.store, kind, prefix, sweep.before(days), name=name):
                await sweep.take(thing)
    return sweep.done


async def _videos(sweep: _Sweep, days: int) -> None:
    for thing in await things(sweep.workspace.store, VIDEOS, "videos/", sweep.before(days), name=_folder):

        async def mark(thing: Thing = thing) -> Mark | None:
            return await video_mark(sweep.workspace, thing, sweep.now, days)

        await sweep.take(thing, mark)


async def _renders(sweep: _Sweep, days: int) -> None:
    old = await things(sweep.workspace.store, RENDERS, "renders/", sweep.before(days), name=_folder)
    needed = await needed_renders(sweep.workspace, [thing.name for thing in old])
    for thing in old:

        async def mark(thing: Thing = thing) -> Mark | None:
            return await render_mark(sweep.workspace, thing, sweep.now, days, needed)

        await sweep.take(thing, mark)


def _folder(key: str) -> str:
    return key.split("/", 1)[0]


def _whole(key: str) -> str:
    return key

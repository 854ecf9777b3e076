"""Delete what the user's rules (AVATAR_RETENTION__…) say is old enough, and nothing else.

Never deleted: the journal, budgets, plans, inputs; a render that is under way, unknown or of no published video; a
render that an unfinished job may be made of; a video that cannot be read.
"""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from tasks.errors import AvatarError
from tasks.retention.marks import RENDERS, VIDEOS, Mark, mark_key
from tasks.retention.paid import needed_renders, render_mark, video_mark
from tasks.retention.things import Thing, store_clock, things
from tasks.workspace import Workspace

log = logging.getLogger("avatar.retention")


@dataclass
class Expired:
    """What was deleted (or would be, in a dry run), and what was old enough and is kept."""

    deleted: list[Thing] = field(default_factory=list)
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
        if len(self.done.deleted) >= self.most:
            return
        try:
            left = await mark() if mark else None
            if mark is not None and left is None:
                self.done.kept[f"{thing.kind} {thing.name}"] = "still needed, under way, or not whole"
                return
            if not self.dry_run:
                await self._delete(thing, left)
            self.done.deleted.append(thing)
        except AvatarError as error:
            log.warning("%s %s is left as it is: %s", thing.kind, thing.name, error)
            self.done.kept[f"{thing.kind} {thing.name}"] = str(error)

    async def _delete(self, thing: Thing, mark: Mark | None) -> None:
        if mark is not None:
            body = mark.model_dump_json().encode()
            await self.workspace.store.put(
                mark_key(thing.kind, thing.name), body, content_type="application/json"
            )
        for key in thing.keys:
            await self.workspace.store.remove(key)


async def expire(workspace: Workspace, *, dry_run: bool = False, most: int = 10_000) -> Expired:
    """Apply the rules that are set.

    Args:
        workspace: settings, store and journal.
        dry_run: delete nothing, and tell what would be.
        most: things deleted in one run; the oldest go first, the next run does the rest.

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

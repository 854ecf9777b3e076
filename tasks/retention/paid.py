"""Videos and renders: what may be deleted of what was paid for, and the mark that stays in its place.

The journal stays whole, so that nothing is bought again by itself. The mark says why a file is gone: a job that needs
it is refused with that reason, and another take buys it anew.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import NamedTuple

from pydantic import ValidationError

from tasks.errors import ObjectNotFound
from tasks.jobs.commit import load_plan, plan_key
from tasks.models import Plan, Video, VideoState
from tasks.retention.marks import VIDEOS, Mark, read_mark
from tasks.retention.things import Thing
from tasks.storage.journal import RenderState
from tasks.workspace import Workspace


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
    return Mark(name=thing.name, at=now, days=days, keys=thing.keys, renders=renders)


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

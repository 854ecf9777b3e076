"""`avatar status`: what was published, what is open, and the whole story of one job or render."""

import argparse
import asyncio
import json
from decimal import Decimal
from typing import Any

from avatar.commands.serve import with_store
from avatar.errors import InvalidInput
from avatar.job.publish import find_video
from avatar.models import Video
from avatar.money.budget import total
from avatar.money.commit import open_jobs
from avatar.money.journal import Record, RenderState
from avatar.workspace import Workspace

#: Manifests read for the list: the newest ones.
NEWEST = 50
#: Characters of an id that must be given.
SHORTEST_ID = 6


def run(arguments: argparse.Namespace) -> int:
    if arguments.spend:
        found = with_store(spend)
        print(json.dumps(found) if arguments.json else _spend_as_text(found))
        return 0
    wanted = arguments.id
    found = with_store(lambda workspace: _one(workspace, wanted) if wanted else _all(workspace))
    print(json.dumps(found) if arguments.json else _as_text(found))
    return 0


async def _all(workspace: Workspace) -> dict[str, Any]:
    manifests = [
        stat for stat in await workspace.store.list("videos/") if stat.key.endswith("/manifest.json")
    ]
    newest = sorted(manifests, key=lambda stat: stat.modified, reverse=True)[:NEWEST]
    videos = await asyncio.gather(*(find_video(workspace, stat.key.split("/")[1]) for stat in newest))
    heads = [await workspace.journal.head(render_id) for render_id in await workspace.journal.open_renders()]
    return {
        "published": len(manifests),
        "videos": [_video(video) for video in videos if video],
        "open": [_record(head) | await _strays(workspace, head) for head in heads if head],
        "jobs": await open_jobs(workspace),
    }


async def _strays(workspace: Workspace, head: Record) -> dict[str, Any]:
    """Requests that were accepted beside the one that is followed: both may be charged."""
    strays = await workspace.journal.strays(head.entry.render_id) if head.strays else ()
    return {"strays": [stray.submission.request_id for stray in strays]} if strays else {}


async def spend(workspace: Workspace) -> dict[str, Any]:
    """Money by UTC day: billed and set aside; and what is at risk in unknown renders. US dollars as text."""
    days = []
    for day in await workspace.budget.days():
        claims = await workspace.budget.claims(day)
        billed = total([claim for claim in claims if claim.state == "settled"])
        set_aside = total([claim for claim in claims if claim.state == "open"])
        row = {"day": day, "renders": len(claims), "billed": str(billed), "open": str(set_aside)}
        differ = {claim.render_id: str(claim.amount) for claim in claims if claim.differs}
        days.append(row | ({"not_as_quoted": differ} if differ else {}))
    heads = [await workspace.journal.head(render_id) for render_id in await workspace.journal.open_renders()]
    unknown = [head for head in heads if head is not None and head.state is RenderState.UNKNOWN]
    return {
        "per_day": str(workspace.budget.per_day) if workspace.budget.per_day is not None else None,
        "days": days,
        "at_risk": str(sum((head.entry.quoted for head in unknown), Decimal(0))),
        "unknown": [_record(head) for head in unknown],
    }


def _spend_as_text(found: dict[str, Any]) -> str:
    limit = (
        f"limit ${found['per_day']} a day" if found["per_day"] else "no limit a day (AVATAR_BUDGET__PER_DAY)"
    )
    lines = []
    for row in found["days"]:
        lines.append(
            f"{row['day']}  {row['renders']} renders  billed ${row['billed']}  set aside ${row['open']}"
        )
        for render_id, billed in row.get("not_as_quoted", {}).items():
            lines.append(f"  {render_id}  billed ${billed}, which is not what it was quoted at")
    lines.append(f"at risk in unknown renders: ${found['at_risk']}; {limit}")
    return "\n".join(lines + [_step(row) for row in found["unknown"]])


async def _one(workspace: Workspace, wanted: str) -> dict[str, Any]:
    wanted = await _whole_id(workspace, wanted)
    if video := await find_video(workspace, wanted):
        renders = [await workspace.journal.history(render.render_id) for render in video.renders]
        return {
            "video": _video(video),
            "journal": [_record(record) for history in renders for record in history],
        }
    if history := await workspace.journal.history(wanted):
        return {"journal": [_record(record) for record in history]}
    raise InvalidInput(f"There is no job and no render {wanted!r} in {workspace.store.bucket!r}.")


async def _whole_id(workspace: Workspace, wanted: str) -> str:
    """The job or render id that begins so, if there is only one: what people copy from a list is often cut."""
    if len(wanted) < SHORTEST_ID or not wanted.isalnum():
        return wanted
    for folder in ("videos", "journal"):
        entries = await workspace.store.list(f"{folder}/{wanted}", recursive=False)
        found = {entry.key.split("/")[1] for entry in entries}
        if len(found) > 1:
            raise InvalidInput(f"{wanted!r} begins {len(found)} ids: give more of it.")
        if found:
            return found.pop()
    return wanted


def _video(video: Video) -> dict[str, Any]:
    return {
        "job_id": video.job_id,
        **video.model_dump(include={"title", "language", "labels"}),
        "state": video.state,
        "uri": video.uri,
        "seconds": round(video.seconds, 3),
        "provider": video.provider,
        "billed": str(video.cost.billed),
        "published_at": f"{video.published_at:%Y-%m-%d %H:%M:%S}",
    }


def _record(record: Record) -> dict[str, Any]:
    entry = record.entry
    facts = {
        "render_id": entry.render_id,
        "seq": entry.seq,
        "state": entry.state,
        "at": f"{entry.at:%Y-%m-%d %H:%M:%S}",
        "provider": entry.provider,
        "quoted": str(entry.quoted),
        "request_id": entry.submission.request_id if entry.submission else None,
        "why": entry.failure.message if entry.failure else None,
    }
    return {name: value for name, value in facts.items() if value is not None}


def _as_text(found: dict[str, Any]) -> str:
    if "published" in found:
        jobs = f", {len(found['jobs'])} jobs without a video yet" if found["jobs"] else ""
        lines = [f"{found['published']} published, {len(found['open'])} open{jobs}"]
        lines += [
            _line(row, "published_at", "title", "seconds", "billed", "job_id", "uri")
            for row in found["videos"]
        ]
        return "\n".join(lines + ["open:"] * bool(found["open"]) + [_step(row) for row in found["open"]])
    lines = [_line(found["video"], *found["video"])] if "video" in found else []
    return "\n".join(lines + [_step(row) for row in found["journal"]])


def _line(row: dict[str, Any], *names: str) -> str:
    units = {"seconds": "{} s", "billed": "${}"}
    return "  ".join(units.get(name, "{}").format(row[name]) for name in names)


def _step(row: dict[str, Any]) -> str:
    step = f"  {_line(row, 'at', 'render_id', 'seq', 'state', 'provider')}  {row.get('request_id', '')} {row.get('why', '')}"
    beside = [f"    also accepted, and maybe charged: request {one}" for one in row.get("strays", ())]
    return "\n".join([step.rstrip(), *beside])

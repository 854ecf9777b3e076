"""`avatar status`: what was published, what is open, and the whole story of one job or render.

And what a person does about it: `avatar resolve` and `avatar cancel` settle one render by hand; `avatar label` names a
video, which costs nothing and changes neither its job nor its file.
"""

import argparse
import asyncio
import csv
import getpass
import json
import sys
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

from avatar.batch.report import safe_cell
from avatar.commands.generate import video_names
from avatar.commands.serve import with_store
from avatar.errors import InvalidInput
from avatar.events import player_url
from avatar.job.index import job_of, newest_first, read_summary
from avatar.job.publish import find_video, name_video
from avatar.job.reconcile import finish_render
from avatar.models import AvatarJob, Video
from avatar.money.budget import total
from avatar.money.commit import open_jobs
from avatar.money.entries import Record, RenderState
from avatar.money.journal import is_indexed
from avatar.money.settle import (
    attach_request,
    attach_video,
    cancel_render,
    declare_not_charged,
    describe_history,
    signed_by,
    what_to_look_for,
)
from avatar.waiting import in_turns
from avatar.workspace import Workspace

#: Manifests read for the list: the newest ones.
NEWEST = 50
#: Videos that are counted; where there are more, that is said.
COUNTED = 1000
#: Characters of an id that must be given.
SHORTEST_ID = 6


def run(arguments: argparse.Namespace) -> int:
    if arguments.spend or arguments.by:
        return _tell_spend(arguments)
    wanted = arguments.id
    found = with_store(lambda workspace: tell_one(workspace, wanted) if wanted else tell_all(workspace))
    print(json.dumps(found) if arguments.json else _as_text(found))
    return 0


def _tell_spend(arguments: argparse.Namespace) -> int:
    label, since = arguments.by, _day(arguments.since)
    found = with_store(lambda workspace: spend_by(workspace, label, since) if label else spend(workspace))
    if arguments.json:
        print(json.dumps(found))
    elif arguments.csv:
        rows = [_as_cells(row, label or "day") for row in found["rows" if label else "days"]]
        table = csv.DictWriter(sys.stdout, list(rows[0]) if rows else [label or "day"], lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
    else:
        print(_spend_by_as_text(found) if label else _spend_as_text(found))
    return 0


def _day(text: str | None) -> date:
    try:
        return date.fromisoformat(text) if text else datetime.now(UTC).date() - timedelta(days=31)
    except ValueError as error:
        raise InvalidInput(f"--since {text!r} is not a day, as in 2026-11-25.") from error


def _as_cells(row: dict[str, Any], first: str) -> dict[str, str]:
    """A row of a spreadsheet."""
    cells = {first: row.get("value", row.get("day", "")), **row}
    shown = {name: str(value) for name, value in cells.items() if name not in {"value", "not_as_quoted"}}
    return {name: safe_cell(text) for name, text in shown.items()}


async def spend_by(workspace: Workspace, label: str, since: date) -> dict[str, Any]:
    """What videos cost by the value of one of their labels, the dearest first. US dollars as text."""
    rows: dict[str, dict[str, Any]] = {}
    async for day in newest_first(workspace.store):
        if day and day[0].key.split("/")[-2] < since.isoformat():
            break
        for video in await in_turns(lambda stat: read_summary(workspace.store, stat.key), day):
            if video is not None:
                value = video.labels.get(label, "")
                row = rows.setdefault(
                    value, {"value": value, "videos": 0, "seconds": 0.0, "billed": Decimal(0)}
                )
                row["videos"] += 1
                row["seconds"] += video.seconds
                row["billed"] += video.billed
    found = sorted(rows.values(), key=lambda row: (-row["billed"], row["value"]))
    shown = [row | {"seconds": round(row["seconds"], 1), "billed": str(row["billed"])} for row in found]
    return {"label": label, "since": since.isoformat(), "rows": shown}


def _spend_by_as_text(found: dict[str, Any]) -> str:
    lines = [
        f"  {row['value'] or '(none)':20} {row['videos']} videos  {row['seconds']} s  billed ${row['billed']}"
        for row in found["rows"]
    ]
    return "\n".join([f"by {found['label']}, published since {found['since']}:", *lines])


async def tell_all(workspace: Workspace) -> dict[str, Any]:
    """The newest videos, open renders, and jobs without a video yet."""
    published = await _published(workspace)
    videos = await asyncio.gather(*(find_video(workspace, job_id) for job_id in published[:NEWEST]))
    heads = [await workspace.journal.head(render_id) for render_id in await workspace.journal.open_renders()]
    return {
        "published": len(published),
        **({"and_more": True} if len(published) >= COUNTED else {}),
        "videos": [_video(workspace, video) for video in videos if video],
        "open": [_record(head) | await _strays(workspace, head) for head in heads if head],
        "jobs": await open_jobs(workspace),
    }


async def _published(workspace: Workspace) -> list[str]:
    """Jobs that have a video, the newest first: from the index, as many whole days as hold `COUNTED`."""
    store = workspace.store
    if not await is_indexed(store):
        listed = [stat for stat in await store.list("videos/") if stat.key.endswith("/manifest.json")]
        return [
            stat.key.split("/")[1] for stat in sorted(listed, key=lambda stat: stat.modified, reverse=True)
        ]
    found: dict[str, None] = {}
    async for day in newest_first(store):
        found |= dict.fromkeys(job_of(stat.key) for stat in day)
        if len(found) >= COUNTED:
            break
    return list(found)


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


async def tell_one(workspace: Workspace, wanted: str) -> dict[str, Any]:
    """A job's video, or a render, with its journal. Raises `InvalidInput` if there is neither."""
    wanted = await whole_id(workspace, wanted)
    if video := await find_video(workspace, wanted):
        renders = [await workspace.journal.history(render.render_id) for render in video.renders]
        return {
            "video": _video(workspace, video),
            "journal": [_record(record) for history in renders for record in history],
        }
    if history := await workspace.journal.history(wanted):
        return {"journal": [_record(record) for record in history]}
    raise InvalidInput(f"There is no job and no render {wanted!r} in {workspace.store.bucket!r}.")


async def whole_id(workspace: Workspace, wanted: str) -> str:
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


def _video(workspace: Workspace, video: Video) -> dict[str, Any]:
    link = player_url(workspace.settings, video.job_id)
    return {
        "job_id": video.job_id,
        **video.model_dump(include={"title", "language", "labels"}),
        "state": video.state,
        "uri": video.uri,
        "seconds": round(video.seconds, 3),
        "provider": video.provider,
        "billed": str(video.cost.billed),
        "published_at": f"{video.published_at:%Y-%m-%d %H:%M:%S}",
    } | ({"link": link} if link else {})


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
        more = " or more" if "and_more" in found else ""
        lines = [f"{found['published']}{more} published, {len(found['open'])} open{jobs}"]
        lines += [
            _line(
                row,
                "published_at",
                "title",
                "seconds",
                "billed",
                "job_id",
                "link" if "link" in row else "uri",
            )
            for row in found["videos"]
        ]
        return "\n".join(lines + ["open:"] * bool(found["open"]) + [_step(row) for row in found["open"]])
    lines = [_line(found["video"], *found["video"])] if "video" in found else []
    return "\n".join(lines + [_step(row) for row in found["journal"]])


def _line(row: dict[str, Any], *names: str) -> str:
    units = {"seconds": "{} s", "billed": "${}"}
    shown = {name: row[name] for name in names} | {
        name: _local(row[name]) for name in names if name in _TIMES
    }
    if "labels" in shown:
        shown["labels"] = labels_as_text(shown["labels"])
    return "  ".join(text for name in names if (text := units.get(name, "{}").format(shown[name])))


#: Fields that are moments, in UTC.
_TIMES = {"published_at", "at"}


def _local(text: str) -> str:
    """A moment in this machine's time zone, as people read it; `--json` has it in UTC."""
    return f"{datetime.fromisoformat(text).replace(tzinfo=UTC).astimezone():%Y-%m-%d %H:%M:%S}"


def labels_as_text(labels: Mapping[str, str]) -> str:
    return ", ".join(f"{key}={value}" for key, value in sorted(labels.items()))


def _step(row: dict[str, Any]) -> str:
    step = f"  {_line(row, 'at', 'render_id', 'seq', 'state', 'provider')}  {row.get('request_id', '')} {row.get('why', '')}"
    beside = [f"    also accepted, and maybe charged: request {one}" for one in row.get("strays", ())]
    return "\n".join([step.rstrip(), *beside])


def run_settle(arguments: argparse.Namespace) -> int:
    work = _cancel if arguments.command == "cancel" else _resolve
    found = with_store(lambda workspace: work(workspace, arguments))
    print(json.dumps(found) if arguments.json else found["text"])
    return 0


async def _cancel(workspace: Workspace, arguments: argparse.Namespace) -> dict[str, Any]:
    ended = await cancel_render(workspace, arguments.render)
    return {
        "render_id": ended.render_id,
        "request_id": ended.request_id,
        "outcome": ended.outcome,
        "text": ended.text,
    }


async def _resolve(workspace: Workspace, arguments: argparse.Namespace) -> dict[str, Any]:
    by, render_id, request_id = signed_by(getpass.getuser()), arguments.render, arguments.request_id
    if arguments.not_charged:
        return await _not_charged(workspace, render_id, request_id, by)
    if arguments.video_url:
        await attach_video(workspace, render_id, arguments.video_url, by=by, request_id=request_id)
    elif request_id:
        await attach_request(workspace, render_id, request_id, by=by)
    else:
        raise InvalidInput(
            f"Nothing to settle it by.{await what_to_look_for(workspace, render_id)}",
            hint="Give what you find there: --request-id ID, --video-url URL (with --request-id if no request is known), or "
            "--not-charged if there is no such request.",
        )
    found = await finish_render(workspace, render_id)
    told = {"request_id": request_id} if request_id else {}
    return {"render_id": render_id, **told, **found}


async def _not_charged(
    workspace: Workspace, render_id: str, request_id: str | None, by: str
) -> dict[str, Any]:
    if request_id is None:
        print(await describe_history(workspace, render_id), file=sys.stderr)
    record = await declare_not_charged(workspace, render_id, by=by, request_id=request_id)
    text = f"Render {render_id} is settled as not charged. Run its job again to submit it anew."
    if request_id is not None:
        text = f"Request {request_id} of render {render_id} is settled as not charged."
    return {"render_id": render_id, "state": record.state, "text": text}


def run_label(arguments: argparse.Namespace) -> int:
    names = AvatarJob.model_validate({"portrait": "-", "voice": "-", **video_names(arguments)})

    async def change(workspace: Workspace) -> Video:
        video = await find_video(workspace, await whole_id(workspace, arguments.job))
        if video is None:
            raise InvalidInput(
                f"There is no video of job {arguments.job!r}.", hint="`avatar status` lists job ids."
            )
        title, language = arguments.title, arguments.language
        return await name_video(workspace, video, title=title, language=language, labels=names.labels)

    video = with_store(change)
    if arguments.json:
        print(
            json.dumps({"job_id": video.job_id, **video.model_dump(include={"title", "language", "labels"})})
        )
    else:
        shown = (video.job_id, video.title, video.language, labels_as_text(video.labels))
        print("  ".join(filter(None, shown)))
    return 0

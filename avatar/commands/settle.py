"""`avatar resolve` and `avatar cancel`: settle one render by hand."""

import argparse
import getpass
import json
import sys
from typing import Any

from avatar.commands.serve import with_store
from avatar.errors import InvalidInput
from avatar.job.reconcile import finish_render
from avatar.money.settle import (
    attach_request,
    attach_video,
    cancel_render,
    declare_not_charged,
    signed_by,
    what_history_shows,
)
from avatar.workspace import Workspace


def run(arguments: argparse.Namespace) -> int:
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
            "Nothing to settle it by.", hint="Give --request-id, --video-url or --not-charged."
        )
    found = await finish_render(workspace, render_id)
    told = {"request_id": request_id} if request_id else {}
    return {"render_id": render_id, **told, **found}


async def _not_charged(
    workspace: Workspace, render_id: str, request_id: str | None, by: str
) -> dict[str, Any]:
    if request_id is None:
        print(await what_history_shows(workspace, render_id), file=sys.stderr)
    record = await declare_not_charged(workspace, render_id, by=by, request_id=request_id)
    text = f"Render {render_id} is settled as not charged. Run its job again to submit it anew."
    if request_id is not None:
        text = f"Request {request_id} of render {render_id} is settled as not charged."
    return {"render_id": render_id, "state": record.state, "text": text}

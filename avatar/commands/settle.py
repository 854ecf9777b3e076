"""`avatar resolve` and `avatar cancel`: settle one render by hand."""

import argparse
import getpass
import json
from typing import Any

from avatar.commands.serve import with_store
from avatar.job.reconcile import finish_render
from avatar.money.settle import attach_request, cancel_render, declare_not_charged, signed_by
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
    by = signed_by(getpass.getuser())
    if arguments.not_charged:
        record = await declare_not_charged(workspace, arguments.render, by=by)
        text = f"Render {arguments.render} is settled as not charged. Run its job again to submit it anew."
        return {"render_id": arguments.render, "state": record.state, "text": text}
    await attach_request(workspace, arguments.render, arguments.request_id, by=by)
    found = await finish_render(workspace, arguments.render)
    return {"render_id": arguments.render, "request_id": arguments.request_id, **found}

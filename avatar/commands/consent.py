"""`avatar consent`: who agreed to be shown, for what, until when, and where that is written."""

import argparse
import asyncio
import getpass
import json
import re
from datetime import UTC, date, datetime
from pathlib import PurePosixPath
from typing import Any

from avatar.commands.serve import with_store
from avatar.errors import InvalidInput
from avatar.events import player_url
from avatar.job.consent import all_consents, fault_of, find_consent, made_with, write_consent
from avatar.job.index import Summary
from avatar.job.inputs import open_input
from avatar.models import shown
from avatar.store.objects import hash_file
from avatar.stored_models import Consent
from avatar.workspace import Workspace


def run(arguments: argparse.Namespace) -> int:
    verbs = {"add": _add, "show": _show, "revoke": _revoke}
    found = with_store(lambda workspace: verbs[arguments.verb](workspace, arguments))
    print(json.dumps(found) if arguments.json else _as_text(found))
    return 0


async def _add(workspace: Workspace, arguments: argparse.Namespace) -> dict[str, Any]:
    until, now = _day(arguments.until), datetime.now(UTC)
    if until < now.date():
        raise InvalidInput(f"--until {until} is past. Nothing was recorded.")
    consent = Consent(
        portrait=await _content(workspace, arguments.portrait),
        name=PurePosixPath(shown(arguments.portrait)).name,
        who=arguments.who,
        purpose=arguments.purpose,
        until=until,
        paper=arguments.paper,
        written_by=getpass.getuser(),
        written_at=now,
    )
    await write_consent(workspace, consent)
    return {"consents": [_told(consent)]}


async def _show(workspace: Workspace, arguments: argparse.Namespace) -> dict[str, Any]:
    if arguments.portrait is None:
        return {"consents": [_told(each) for each in await all_consents(workspace)]}
    return {"consents": [_told(await _required(workspace, arguments.portrait))]}


async def _revoke(workspace: Workspace, arguments: argparse.Namespace) -> dict[str, Any]:
    consent = await _required(workspace, arguments.portrait)
    if not consent.revoked:
        update = {"revoked": True, "written_by": getpass.getuser(), "written_at": datetime.now(UTC)}
        consent = consent.model_copy(update=update)
        await write_consent(workspace, consent)
    videos = await made_with(workspace, consent.portrait)
    return {"consents": [_told(consent)], "videos": [_video(workspace, each) for each in videos]}


async def _required(workspace: Workspace, portrait: str) -> Consent:
    sha256 = portrait if re.fullmatch("[0-9a-f]{64}", portrait) else await _content(workspace, portrait)
    consent = await find_consent(workspace, sha256)
    if consent is None:
        raise InvalidInput(f"No consent is recorded for {shown(portrait)!r} (SHA-256 {sha256}).")
    return consent


async def _content(workspace: Workspace, portrait: str) -> str:
    """Of the file as it is: what a job that is given the same file goes by."""
    async with open_input(workspace, portrait, what="portrait") as path:
        return await asyncio.to_thread(hash_file, path)


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise InvalidInput(
            f"--until {text!r} is not a day, as in 2027-12-31. Nothing was recorded."
        ) from error


def _told(consent: Consent) -> dict[str, Any]:
    return consent.model_dump(mode="json", exclude={"format"}) | {"fault": fault_of(consent)}


def _video(workspace: Workspace, video: Summary) -> dict[str, Any]:
    link = player_url(workspace.settings, video.job_id)
    told = {"job_id": video.job_id, "title": video.title, "state": video.state, "at": f"{video.at:%Y-%m-%d}"}
    return told | ({"link": link} if link else {})


def _as_text(found: dict[str, Any]) -> str:
    lines = []
    for each in found["consents"]:
        state = each["fault"] or f"holds until {each['until']}"
        lines += [
            f"{each['name'] or 'portrait'}: {each['who']}, for {each['purpose']}; {state}",
            f"  paper   {each['paper']}",
            f"  sha256  {each['portrait']}",
        ]
    if "videos" in found:
        lines.append(f"{len(found['videos'])} videos were made with this portrait; they stay where they are:")
        lines += [f"  {'  '.join(str(value) for value in each.values())}" for each in found["videos"]]
    return "\n".join(lines or ["No consent is recorded."])

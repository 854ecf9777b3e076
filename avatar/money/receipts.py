"""The provider's receipt on this machine's disk, for the moments until the journal holds it.

Written and flushed right after the provider's answer, before the store is asked to record it: a crash, or a store
that is away, then loses nothing that this machine knows. Removed once the journal holds it.
"""

import contextlib
import os
from pathlib import Path

from pydantic import ValidationError

from avatar.models import Submission
from avatar.money.journal import Journal


def _path(state_dir: Path, render_id: str) -> Path:
    return state_dir / "receipts" / f"{render_id}.json"


def keep(state_dir: Path, submission: Submission) -> None:
    """Write the receipt durably. A full or read-only disk is no reason to stop: the journal comes next."""
    path = _path(state_dir, submission.render_id)
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        draft = path.with_suffix(".draft")
        with draft.open("w") as file:
            file.write(submission.model_dump_json())
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)


async def find_new(state_dir: Path, journal: Journal, render_id: str) -> Submission | None:
    """The receipt of a render that the journal lacks, if this machine has one.

    One that the journal holds is of an earlier request, left by a process that died before it could drop it:
    taken for the newest request's, it would hide that one, which may be paid for.
    """
    receipt = find(state_dir, render_id)
    if receipt is None:
        return None
    journaled = [record.entry.submission for record in await journal.history(render_id)]
    if receipt.request_id in {submission.request_id for submission in journaled if submission}:
        drop(state_dir, render_id)
        return None
    return receipt


def find(state_dir: Path, render_id: str) -> Submission | None:
    """The receipt of a render, if this machine has one that the journal may lack."""
    try:
        return Submission.model_validate_json(_path(state_dir, render_id).read_bytes())
    except (OSError, ValidationError):
        return None


def drop(state_dir: Path, render_id: str) -> None:
    """The journal holds it now."""
    with contextlib.suppress(OSError):
        _path(state_dir, render_id).unlink(missing_ok=True)

"""The provider's receipt on this machine's disk, for the moments until the journal holds it.

Written and flushed right after the provider's answer, before the store is asked to record it: a crash, or a store
that is away, then loses nothing that this machine knows. Removed once the journal holds it.
"""

import contextlib
import os
import time
from pathlib import Path

from pydantic import ValidationError

from avatar.models import Submission
from avatar.stored_models import Stored


def _path(state_dir: Path, render_id: str) -> Path:
    return state_dir / "receipts" / f"{render_id}.json"


class Receipt(Stored):
    """What the provider answered to one attempt. Receipts of format 1 name no attempt."""

    format: int = 1
    attempt: int | None = None
    submission: Submission


def keep_receipt(state_dir: Path, submission: Submission, attempt: int) -> None:
    """Write the receipt durably. A full or read-only disk is no reason to stop: the journal comes next."""
    path = _path(state_dir, submission.render_id)
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        draft = path.with_suffix(".draft")
        with draft.open("w") as file:
            file.write(Receipt(format=2, attempt=attempt, submission=submission).model_dump_json())
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)


def find_receipt(state_dir: Path, render_id: str) -> Receipt | None:
    """The receipt of a render, if this machine has one that the journal may lack."""
    with contextlib.suppress(OSError):
        data = _path(state_dir, render_id).read_bytes()
        for parse in (Receipt.model_validate_json, _of_format_1):
            with contextlib.suppress(ValidationError):
                return parse(data)
    return None


def _of_format_1(data: bytes) -> Receipt:
    return Receipt(submission=Submission.model_validate_json(data))


def renders_with_receipt(state_dir: Path) -> list[str]:
    """Renders of which this machine has a receipt."""
    return sorted(path.stem for path in (state_dir / "receipts").glob("*.json"))


def receipt_time(state_dir: Path, render_id: str) -> float:
    """When it was written, in seconds since 1970; now, if it is gone."""
    try:
        return _path(state_dir, render_id).stat().st_mtime
    except OSError:
        return time.time()


def drop_receipt(state_dir: Path, render_id: str) -> None:
    """The journal holds it now."""
    with contextlib.suppress(OSError):
        _path(state_dir, render_id).unlink(missing_ok=True)

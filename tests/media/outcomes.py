"""What the user of a file is told: how each kind of input is looked at before a job, in one line."""

from collections.abc import Callable
from pathlib import Path

from avatar.errors import AvatarError
from avatar.media.decoder_calls import (
    cut_voice,
    plan_cuts,
    prepare_portrait,
    prepare_voice,
    probe_video,
    probe_voice,
)
from avatar.media.extract_voice import extract_voice
from avatar.media.facts import check_voice
from avatar.models import Limits
from tests.cases import accepted

LIMITS = Limits()


def portrait(path: Path, folder: Path) -> str:
    try:
        return accepted(*prepare_portrait(path, folder / "ready", LIMITS).notes)
    except AvatarError as error:
        return told(error)


def voice(path: Path, folder: Path) -> str:
    """As `avatar.job.plan` does: within the limit it goes as one, longer it is cut."""
    try:
        alone = extract_voice(path, probe_voice(path), folder)
        path, facts = alone.path, alone.facts
        if facts.seconds > LIMITS.max_seconds:
            files = cut_voice(path, facts, plan_cuts(path, facts, LIMITS), folder, LIMITS)
            return accepted(*facts.notes, f"cut into {len(files)} segments")
        check_voice(facts, LIMITS)
        prepared = prepare_voice(path, folder / "ready", facts, LIMITS)
        how = (
            "converted to MP3"
            if prepared.spec or facts.remedy == "encode"
            else "given a true header"
            if prepared.changed
            else ""
        )
        return accepted(*facts.notes, *([how] if how else []))
    except AvatarError as error:
        return told(error)


def video(path: Path, folder: Path) -> str:
    try:
        probe_video(path)
    except AvatarError as error:
        return told(error)
    return accepted()


def told(error: AvatarError) -> str:
    return f"{error.message} {error.hint}" if error.hint else error.message


OUTCOMES: dict[str, Callable[[Path, Path], str]] = {"portraits": portrait, "voices": voice, "videos": video}

"""A voice by itself: out of a file that holds other sounds, several files, or channels that cancel each other."""

from dataclasses import dataclass, replace
from pathlib import Path

from avatar.media.decoder_calls import copy_voice, probe_voice
from avatar.media.facts import VoiceFacts

#: Name this preparation in identities: what is not just what any reader hears of the file, and what is trimmed.
COPY_SPEC, TRIM_SPEC = "v2", "t1"
#: Seconds of silence left around speech that is trimmed, and how much must be there to be left out.
BREATH_BEFORE, BREATH_AFTER, WORTH_TRIMMING = 0.25, 0.5, 0.25


@dataclass(frozen=True)
class VoiceAlone:
    """A voice by itself: its file, what is in that, and the preparation that made it; none where it is the source."""

    path: Path
    facts: VoiceFacts
    spec: str


def extract_voice(path: Path, facts: VoiceFacts, folder: Path, *, trim: bool = False) -> VoiceAlone:
    """The voice of a file by itself: the file as it is where every reader hears just that in it, else a copy.

    Args:
        path: the file.
        facts: what `probe_voice` found in it.
        folder: where a copy is written.
        trim: whether to leave out silence at both ends.
    """
    span = trimmed(facts) if trim else None
    if facts.is_plain and span is None:
        return VoiceAlone(path, facts, "")
    target = folder / f"{path.stem}.alone.flac"
    copy_voice(path, target, facts, span)
    found = probe_voice(target)
    notes = (*facts.notes, *([_trim_note(facts, found)] if span else []))
    spec = "-".join(name for name, used in ((COPY_SPEC, not facts.is_plain), (TRIM_SPEC, span)) if used)
    return VoiceAlone(target, replace(found, notes=notes), spec)


def _trim_note(before: VoiceFacts, after: VoiceFacts) -> str:
    return f"trimmed: {before.seconds - after.seconds:.1f} s of silence left out"


def trimmed(facts: VoiceFacts) -> tuple[int, int] | None:
    """The samples that stay when the silence at both ends is left out, with a breath around the speech; None for all."""
    start = max(0.0, facts.speech.head - BREATH_BEFORE)
    end = facts.seconds - max(0.0, facts.speech.tail - BREATH_AFTER)
    if facts.seconds - (end - start) < WORTH_TRIMMING or end - start <= 0:
        return None
    return round(start * facts.sample_rate), round(end * facts.sample_rate)

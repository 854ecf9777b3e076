"""Looking at a video before it is published.

One decode pass (`probe_video`) gathers the evidence; each check is a small function over it. A check that needs
the frames themselves gets a field in `Evidence`, filled by a viewer handed to the same pass.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tasks.media.facts import VideoFacts
from tasks.media.probe import probe_video
from tasks.models import Check

#: Seconds a video may be shorter or longer than its voice. Providers add a few frozen frames at the end
#: (providers.md §5: about 0.2 s seen), so equality would refuse good videos.
SHORTER, LONGER = 0.1, 0.6
#: Below this there is hardly a picture in it: 128 kbit/s of sound alone come to 16,000.
MIN_BYTES_PER_SECOND = 2000


@dataclass(frozen=True)
class Evidence:
    """What one pass over a video gathered. Length of the voice in seconds, size of the file in bytes."""

    facts: VideoFacts
    voice_seconds: float
    size: int


def inspect_video(path: Path, voice_seconds: float) -> tuple[VideoFacts, tuple[Check, ...]]:
    """Decode the video to the end and check it against its voice.

    Args:
        path: the video.
        voice_seconds: length of the voice it was made for.

    Raises:
        VideoRejected: it does not decode at all. A failed check does not raise: the caller decides.
    """
    evidence = Evidence(probe_video(path), voice_seconds, path.stat().st_size)
    return evidence.facts, tuple(check(evidence) for check in CHECKS)


def check_picture(seen: Evidence) -> Check:
    facts = seen.facts
    value = f"{facts.width}x{facts.height} {facts.video_codec}, {facts.frames} frames"
    return Check(name="picture", value=value, bound="at least 2 frames", passed=facts.frames > 1)


def check_sound(seen: Evidence) -> Check:
    facts = seen.facts
    value = f"{facts.audio_codec} {facts.audio_seconds:.2f} s" if facts.has_audio else "none"
    return Check(name="sound", value=value, bound="present", passed=facts.has_audio)


def check_picture_length(seen: Evidence) -> Check:
    return _length("picture length", seen.facts.video_seconds, seen.voice_seconds)


def check_sound_length(seen: Evidence) -> Check:
    return _length("sound length", seen.facts.audio_seconds, seen.voice_seconds)


def _length(name: str, seconds: float, voice_seconds: float) -> Check:
    low, high = voice_seconds - SHORTER, voice_seconds + LONGER
    bound = f"{low:.2f} to {high:.2f} s"
    return Check(name=name, value=f"{seconds:.2f} s", bound=bound, passed=low <= seconds <= high)


def check_size(seen: Evidence) -> Check:
    least = int(seen.facts.seconds * MIN_BYTES_PER_SECOND)
    value, bound = f"{seen.size} bytes", f"at least {least} bytes"
    return Check(name="size", value=value, bound=bound, passed=seen.size >= least)


#: In the order people read them.
CHECKS: tuple[Callable[[Evidence], Check], ...] = (
    check_picture,
    check_sound,
    check_picture_length,
    check_sound_length,
    check_size,
)

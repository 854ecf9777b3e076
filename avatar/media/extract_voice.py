"""A voice by itself: out of a file that holds other sounds, several files, or channels that cancel each other."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream

from avatar.errors import InvalidInput
from avatar.media.confined import confined
from avatar.media.facts import VoiceFacts
from avatar.media.probe import probe_voice
from avatar.media.sound import Samples, as_float, open_sound, resampled
from avatar.media.sound_files import split_files
from avatar.media.voice import STEREO

__all__ = ["COPY_SPEC", "VoiceAlone", "extract_voice"]

#: Name this preparation in identities: what is not just what any reader hears of the file, and what is trimmed.
COPY_SPEC, TRIM_SPEC = "v2", "t1"
#: Seconds of silence left around speech that is trimmed, and how much must be there to be left out.
BREATH_BEFORE, BREATH_AFTER, WORTH_TRIMMING = 0.25, 0.5, 0.25


@confined(InvalidInput)
def copy_voice(path: Path, target: Path, facts: VoiceFacts, span: tuple[int, int] | None = None) -> None:
    """Write the voice alone, as every reader hears it, to a FLAC: one sound, its pieces joined, one channel or two.

    Args:
        path: the file it is in.
        target: where to write.
        facts: what `probe_voice` found; tells where in the file the voice is.
        span: the first sample to keep and the one after the last; none for all.
    """
    channels = 1 if facts.mix else min(facts.channels, STEREO)
    layout = "stereo" if channels == STEREO else "mono"
    with av.open(str(target), "w", format="flac") as output:
        stream = output.add_stream("flac", rate=facts.sample_rate, layout=layout)
        if not isinstance(stream, AudioStream):
            raise TypeError("flac is not an audio codec")
        resampler = av.AudioResampler(format="s16", layout=layout, rate=facts.sample_rate)
        written = 0
        for block in _kept(_voice_blocks(path, facts, layout), span):
            frame = AudioFrame.from_ndarray(np.ascontiguousarray(block), format="fltp", layout=layout)
            frame.sample_rate = facts.sample_rate
            for ready in resampler.resample(frame):
                ready.pts, ready.time_base = written, Fraction(1, facts.sample_rate)
                written += ready.samples
                output.mux(stream.encode(ready))
        output.mux(stream.encode(None))


def _voice_blocks(path: Path, facts: VoiceFacts, layout: str) -> Iterator[Samples]:
    """The voice, channels x samples, through all pieces of its file."""
    track = None if facts.track < 0 else facts.track
    for piece in split_files(path, facts.container) if facts.pieces else (None,):
        with suppress(InvalidInput), open_sound(path, track=track, piece=piece) as sound:
            for frame in resampled(sound, "fltp", "stereo" if facts.mix else layout, facts.sample_rate):
                both = as_float(frame)
                yield both[("left", "right").index(facts.mix)][None, :] if facts.mix else both


def _kept(blocks: Iterator[Samples], span: tuple[int, int] | None) -> Iterator[Samples]:
    at = 0
    for block in blocks:
        first, last = (max(0, edge - at) for edge in span or (0, at + block.shape[1]))
        at += block.shape[1]
        if first < min(last, block.shape[1]):
            yield block[:, first:last]


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

"""Where a voice longer than the provider's limit is cut: in its pauses, on frame boundaries."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from avatar.errors import InvalidInput
from avatar.media.facts import Cut, VoiceFacts, length_beside
from avatar.media.sound import Samples, as_float, open_sound, resampled
from avatar.models import Limits

# The pauses of a voice, found in its loudness and told for every frame boundary.
Levels = NDArray[np.float32]
Counts = NDArray[np.int64]

#: A pause is this many dB under the loud syllables around it (reverberation and breath lie under it, too) ...
UNDER_SPEECH = 30.0
#: ... or this close to the noise around it, and then still clearly under the syllables.
OVER_NOISE, UNDER_SPEECH_IN_NOISE = 6.0, 9.0
#: dBFS under which nothing is heard, whatever is around it.
INAUDIBLE = -70.0
#: Windows of quiet that make a pause. Shorter ones are inside words: the stop in "apple" takes up to 120 ms.
REAL_PAUSE = 15
#: Windows in which the loud and the quiet are told apart, about a second.
BLOCK = 100
#: Blocks to each side that belong to the surroundings, for the loud syllables and for the noise.
SPEECH_REACH, NOISE_REACH = 3, 15
#: Windows to each side over which dips are compared, and over which pauses of the same length are.
DIP_REACH, TIE_REACH = 5, 100
#: Hz at which a waveform is measured.
OUTLINE_RATE = 8000


@dataclass(frozen=True)
class Pauses:
    """What lies around every frame boundary.

    Attributes:
        length: windows of quiet around it.
        strength: `length` in the middle of a pause, less towards its ends; the fraction tells pauses of the same
            length apart by what is around them, so that the choice does not depend on where one looks from.
        dips: loudness around it, dBFS.
    """

    length: Counts
    strength: NDArray[np.float64]
    dips: Levels

    def is_real(self, frame: int) -> bool:
        """Whether it is a pause, and not within a word."""
        return bool(self.strength[frame] >= REAL_PAUSE)

    def strongest(self, first: int, last: int) -> int:
        return first + int(np.argmax(self.strength[first : last + 1]))

    def latest(self, first: int, last: int) -> int | None:
        """The last real pause between two frames, None if there is none."""
        found = np.flatnonzero(self.strength[first : last + 1] >= REAL_PAUSE)
        return first + int(found[-1]) if found.size else None

    def quietest(self, first: int, last: int) -> int:
        return first + int(np.argmin(self.dips[first : last + 1]))


def find_pauses(levels: Levels, per_frame: int) -> Pauses:
    """Find the pauses in the loudness (dBFS) of consecutive windows, `per_frame` of them to a frame."""
    quiet = levels < _threshold(levels)
    at = np.arange(0, len(levels), per_frame)
    before, after = _run_lengths(quiet)[at], _run_lengths(quiet[::-1])[::-1][at]
    length = np.where(np.minimum(before, after) > 0, before + after, 0)
    central = np.abs(before - after) <= per_frame
    strength = np.where(central, length, np.minimum(before, after))
    around = smooth(levels, TIE_REACH)[at]
    return Pauses(length, strength - np.clip(around, -120, 0) / 121, smooth(levels, DIP_REACH)[at])


def smooth(levels: Levels, reach: int) -> Levels:
    """For every window boundary, the mean power of the windows up to `reach` before and after it, in dBFS."""
    power = np.concatenate([[0.0], np.cumsum(10 ** (levels.astype(np.float64) / 10))])
    at = np.arange(len(levels) + 1)
    first, last = np.maximum(at - reach, 0), np.minimum(at + reach, len(levels))
    mean = (power[last] - power[first]) / np.maximum(last - first, 1)
    result: Levels = (10 * np.log10(np.maximum(mean, 1e-12))).astype(np.float32)
    return result


def _threshold(levels: Levels) -> Levels:
    """The loudness under which each window is quiet, by what is around it."""
    blocks = _blocks(levels).astype(np.float64)
    speech = _spread(np.percentile(blocks, 90, axis=1), SPEECH_REACH)
    noise = -_spread(-np.percentile(blocks, 10, axis=1), NOISE_REACH)
    quiet = np.maximum(speech - UNDER_SPEECH, np.minimum(noise + OVER_NOISE, speech - UNDER_SPEECH_IN_NOISE))
    result: Levels = np.repeat(np.maximum(quiet, INAUDIBLE), BLOCK)[: len(levels)].astype(np.float32)
    return result


def _blocks(levels: Levels) -> Levels:
    """The windows in rows of `BLOCK`, the last row filled up with the last window."""
    return np.pad(levels, (0, -len(levels) % BLOCK), mode="edge").reshape(-1, BLOCK)


def _spread(values: NDArray[np.float64], reach: int) -> NDArray[np.float64]:
    """The highest value within `reach` of each."""
    padded = np.pad(values, reach, mode="edge")
    highest: NDArray[np.float64] = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1).max(axis=1)
    return highest


def _run_lengths(quiet: NDArray[np.bool_]) -> Counts:
    """How many windows in a row are quiet before each window boundary."""
    at = np.arange(1, len(quiet) + 1)
    last_loud = np.maximum.accumulate(np.where(quiet, 0, at))
    return np.concatenate([[0], at - last_loud])


#: Seconds a segment stays under the longest allowed: readers of MP3 that do not know of the encoder's delay
#: and padding find it up to 0.08 s longer than it is.
MARGIN_SECONDS = 0.1
#: Length of the windows in which loudness is measured, about; they divide a frame evenly.
WINDOW_SECONDS = 0.01
#: Windows before and after a cut whose loudness is told as the cut's.
BESIDE = 2
#: A cut is looked for in this last part of the longest segment. Wide, so that a strong pause is in it, and so
#: that the cuts of a voice and of its edited copy soon fall into the same pause.
NEAR_THE_LIMIT = 0.6
#: The last segment is no shorter than this share of the longest.
TAIL = 0.25


@dataclass(frozen=True)
class CutPoint:
    """A place to cut: a frame's number, dBFS around it, windows of pause around it."""

    frame: int
    loudness: float
    pause: int


def plan_cuts(path: Path, facts: VoiceFacts, limits: Limits, *, frame_rate: int = 25) -> tuple[Cut, ...]:
    """As `avatar.media.decoder_calls.plan_cuts` says."""
    if facts.seconds < limits.min_seconds:
        raise InvalidInput(
            f"The voice is {length_beside(facts.seconds, limits.min_seconds)} s long; "
            f"the shortest accepted is {limits.min_seconds:g} s."
        )
    if facts.seconds <= limits.max_seconds:
        return (Cut(0, 0, facts.samples, math.nan, 0.0),)
    per_frame = max(1, round(1 / (frame_rate * WINDOW_SECONDS)))
    levels, samples = _measure(path, facts, per_frame * frame_rate)
    shortest, longest = _bounds(limits, frame_rate)
    spots = choose_cuts(levels, per_frame=per_frame, shortest=shortest, longest=longest)
    edges = [0, *(frame_sample(spot.frame, facts.sample_rate, frame_rate) for spot in spots), samples]
    ends = [(spot.loudness, spot.pause / (per_frame * frame_rate)) for spot in spots] + [(math.nan, 0.0)]
    return tuple(
        Cut(index, edges[index], edges[index + 1], loudness, pause)
        for index, (loudness, pause) in enumerate(ends)
    )


def voice_outline(path: Path, bars: int) -> tuple[float, ...]:
    """The highest absolute sample in each of `bars` equal parts of a sound, full scale = 1: a waveform to be drawn."""
    blocks = []
    with open_sound(path) as sound:
        for frame in resampled(sound, "fltp", "stereo", OUTLINE_RATE):
            samples = np.abs(as_float(frame)).max(axis=0)
            edges = np.arange(0, samples.size, OUTLINE_RATE // 100)
            blocks.append(np.maximum.reduceat(samples, edges))
    peaks = np.concatenate(blocks)
    edges = np.arange(bars) * peaks.size // bars
    return tuple(round(float(peak), 4) for peak in np.maximum.reduceat(peaks, edges))


def frame_sample(frame: int, sample_rate: int, frame_rate: int) -> int:
    """The sample at which a frame begins, half samples rounded up."""
    return (2 * frame * sample_rate + frame_rate) // (2 * frame_rate)


def _bounds(limits: Limits, frame_rate: int) -> tuple[int, int]:
    """The shortest and longest segment in frames, a frame inside the limits since cuts are rounded to samples."""
    shortest = math.ceil(limits.min_seconds * frame_rate) + 1
    longest = math.floor((limits.max_seconds - MARGIN_SECONDS) * frame_rate)
    if longest < 2 * shortest:
        raise InvalidInput(
            f"A voice cannot be cut into segments of {limits.min_seconds:g} to {limits.max_seconds:g} s: the "
            "longest must be more than twice the shortest.",
            hint="Widen AVATAR_LIMITS__MAX_SECONDS, or give a voice within the limits.",
        )
    return shortest, longest


def choose_cuts(
    levels: NDArray[np.float32], *, per_frame: int, shortest: int, longest: int
) -> tuple[CutPoint, ...]:
    """Choose frames to cut at. Depends on nothing but its arguments.

    From each cut on, the next one is, in this order: in the longest pause of the last part of the longest
    segment; in the latest pause at all; at the quietest spot of that last part. What is chosen depends on the
    end of the voice only where less than 1.25 times the longest segment remains.

    Args:
        levels: dBFS of each window; the last one may be shorter than the others.
        per_frame: windows in a frame.
        shortest: frames in the shortest segment.
        longest: frames in the longest segment, at least twice the shortest.

    Returns:
        The cuts in order, none at the beginning and none at the end.
    """
    if longest < 2 * shortest:
        raise ValueError(f"longest ({longest}) is less than twice shortest ({shortest})")
    whole, with_rest = len(levels) // per_frame, -(-len(levels) // per_frame)
    pauses = find_pauses(levels, per_frame)
    chosen = [0]
    while with_rest - chosen[-1] > longest:
        chosen.append(_next_cut(pauses, chosen[-1], whole, shortest, longest))
    beside = smooth(levels, BESIDE)
    return tuple(
        CutPoint(frame, float(beside[frame * per_frame]), int(pauses.length[frame])) for frame in chosen[1:]
    )


def _next_cut(pauses: Pauses, start: int, end: int, shortest: int, longest: int) -> int:
    tail = max(shortest, int(longest * TAIL))
    first = start + max(shortest, int(longest * NEAR_THE_LIMIT))
    # Where little remains, the tail is worth more than being near the limit.
    last = min(start + longest, end - tail)
    first = min(first, max(start + shortest, last - tail))
    best = pauses.strongest(first, last)
    if pauses.is_real(best):
        return best
    latest = pauses.latest(start + shortest, min(start + longest, end - shortest))
    return pauses.quietest(first, last) if latest is None else latest


def _measure(path: Path, facts: VoiceFacts, windows_per_second: int) -> tuple[NDArray[np.float32], int]:
    """Loudness of every window in dBFS, over all channels, and the samples in the voice."""
    meter = _Meter(facts.sample_rate, windows_per_second)
    layout = "stereo" if facts.channels > 1 else "mono"
    with open_sound(path) as sound:
        for frame in resampled(sound, "fltp", layout, facts.sample_rate):
            meter.add(as_float(frame))
    meter.flush(last=True)
    return np.concatenate(meter.levels), meter.start


class _Meter:
    """Turns samples into loudness, about a second at a time.

    Attributes:
        levels: the loudness found, dBFS.
        start: the first sample not yet measured.
    """

    def __init__(self, sample_rate: int, windows_per_second: int) -> None:
        self.levels: list[NDArray[np.float32]] = []
        self.start = 0
        self._sample_rate, self._per_second = sample_rate, windows_per_second
        self._windows = 0
        self._waiting: list[Samples] = []
        self._samples = 0

    def add(self, samples: Samples) -> None:
        self._waiting.append(samples)
        self._samples += samples.shape[1]
        if self._samples >= self._sample_rate:
            self.flush()

    def flush(self, *, last: bool = False) -> None:
        """Measure what is complete; what is not, too, if nothing follows."""
        if not self._samples:
            return
        samples = np.concatenate(self._waiting, axis=1)
        edges = list(self._edges(self.start + self._samples))
        if last and edges[-1] < self.start + self._samples:
            edges.append(self.start + self._samples)
        inside = np.asarray(edges) - self.start
        power = np.add.reduceat(np.square(samples[:, : inside[-1]]).mean(axis=0), inside[:-1])
        power = np.maximum(power / np.diff(inside), 1e-12)
        self.levels.append((10 * np.log10(power)).astype(np.float32))
        self._windows += len(inside) - 1
        self._waiting, self._samples = [samples[:, inside[-1] :]], self._samples - int(inside[-1])
        self.start = edges[-1]

    def _edges(self, end: int) -> Iterator[int]:
        window = self._windows
        while (edge := frame_sample(window, self._sample_rate, self._per_second)) <= end:
            yield edge
            window += 1

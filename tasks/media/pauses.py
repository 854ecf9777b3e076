"""The pauses of a voice, found in its loudness and told for every frame boundary."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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

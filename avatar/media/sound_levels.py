"""How loud a sound is, all through: for everyone who listens to both channels, to one, or to their mix."""

import math
from collections import Counter
from dataclasses import dataclass, field

import av
import numpy as np
from av.audio.frame import AudioFrame
from numpy.typing import NDArray

from avatar.media.sound import MOST_PLANES, Samples, as_float
from avatar.stored_models import Speech

__all__ = ["Levels"]

#: Length of a step, in seconds.
STEP_SECONDS = 0.02
#: A mix to mono that is this much weaker than its better channel (dB) cancels the voice, and in this share of it.
LOST_DB, LOST_SHARE = 9.0, 0.25
#: A step is silent that is this far below the loud ones (dB), or below this level (dBFS).
SILENT_RANGE, SILENT_DBFS = 38.0, -60.0
#: How much more power the right channel must have to be taken for the better.
CLEARLY = 1.2
#: Steps in a row that make a beginning; fewer are a click.
ONSET_STEPS = 4
STEREO = 2
FULL_SCALE = 0.999

Power = NDArray[np.float64]


@dataclass
class Levels:
    """Running peak and power of a sound, and its length by sample rate."""

    per_rate: Counter[int] = field(default_factory=Counter)
    values: int = 0
    peak: float = 0.0
    power: float = 0.0
    clipped: int = 0
    _steps: list[Power] = field(default_factory=list)
    _rest: Samples = field(default_factory=lambda: np.zeros((STEREO, 0), np.float32))
    _mixer: av.AudioResampler | None = None
    _mixed: tuple[str, str, int] | None = None

    def add(self, frame: AudioFrame) -> None:
        block = as_float(frame)
        self.per_rate[frame.sample_rate] += frame.samples
        self.values += block.size
        self.power += float(block.ravel() @ block.ravel())
        peak = float(max(block.max(initial=0.0), -block.min(initial=0.0)))
        if peak >= FULL_SCALE:
            self.clipped += int(np.count_nonzero(np.abs(block) >= FULL_SCALE))
        if not peak <= self.peak:  # NaN passes this, so that it is seen at the end
            self.peak = peak
        for both in self._stereo(frame, block):
            self._measure(both, frame.sample_rate)

    def _stereo(self, frame: AudioFrame, block: Samples) -> list[Samples]:
        """As two rows: what is sent has no more channels."""
        channels = frame.layout.nb_channels
        if channels <= STEREO:
            rows = block if frame.format.is_planar else block.reshape(-1, channels).T
            return [np.broadcast_to(rows, (STEREO, rows.shape[1]))]
        if channels > MOST_PLANES:
            return []
        form = (frame.format.name, frame.layout.name, frame.sample_rate)
        if self._mixer is None or self._mixed != form:
            self._mixer = av.AudioResampler(format="fltp", layout="stereo", rate=frame.sample_rate)
            self._mixed = form
        return [as_float(ready) for ready in self._mixer.resample(frame)]

    def _measure(self, both: Samples, rate: int) -> None:
        step = max(1, round(rate * STEP_SECONDS))
        waiting = np.concatenate([self._rest, both], axis=1)
        whole = waiting.shape[1] // step * step
        self._rest = waiting[:, whole:]
        if whole:
            left, right = waiting[:, :whole].reshape(STEREO, -1, step).astype(np.float64)
            self._steps.append(
                np.stack([np.square(one).mean(axis=1) for one in (left, right, (left + right) / 2)])
            )

    @property
    def seconds(self) -> float:
        return sum(samples / rate for rate, samples in self.per_rate.items())

    @property
    def loudness(self) -> float:
        """RMS over all channels, dBFS."""
        return decibels(self.power / self.values if self.values else 0.0)

    def _powers(self) -> Power:
        """Left, right and mid, step by step."""
        return np.concatenate(self._steps, axis=1) if self._steps else np.zeros((3, 1))

    @property
    def lost_mix(self) -> str:
        """The channel to send alone, `left` or `right`, because their mix cancels the voice; else nothing."""
        left, right, mid = self._powers()
        better = np.maximum(left, right)
        lost = mid < better * 10 ** (-LOST_DB / 10)
        if not better.any() or better[lost].sum() <= LOST_SHARE * better.sum():
            return ""
        return "right" if right.sum() > CLEARLY * left.sum() else "left"

    def speech(self, mix: str = "") -> Speech:
        """What is heard in mono: of one channel, or of the mix."""
        power = self._powers()[{"left": 0, "right": 1}.get(mix, 2)]
        levels = 10 * np.log10(np.maximum(power, 1e-12))
        loud = levels > max(SILENT_DBFS, float(np.percentile(levels, 95)) - SILENT_RANGE)
        at = np.flatnonzero(np.convolve(loud, np.ones(ONSET_STEPS), "valid") >= ONSET_STEPS)
        first, last = (int(at[0]), int(at[-1]) + ONSET_STEPS) if at.size else (0, loud.size)
        return Speech(
            head=first * STEP_SECONDS,
            tail=max(0.0, self.seconds - last * STEP_SECONDS),
            loud=float(loud.sum()) * STEP_SECONDS if at.size else 0.0,
            loudness=decibels(float(power.mean())),
            liveliness=float(levels[loud].std()) if loud.any() else 0.0,
        )


def decibels(power: float) -> float:
    return 10 * math.log10(power) if power > 1e-12 else -120.0  # noqa: PLR2004 - the floor itself

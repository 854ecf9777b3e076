"""Comparing the sound of a video with the voice it was made for: is it that voice, is it all there, is it in time."""

from collections.abc import Iterator
from dataclasses import dataclass

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from avatar.media.sound import Samples

#: Hz at which sounds are compared. Speech has most of its power below half of it.
RATE = 8000
#: Seconds of voice compared at a time, and the lag looked for to each side.
WINDOW_SECONDS, REACH_SECONDS = 8, 1
WINDOW, REACH = WINDOW_SECONDS * RATE, REACH_SECONDS * RATE
#: Of lags that are this nearly as good as the best, the smallest is believed: test tones repeat themselves.
AS_GOOD = 0.97
#: Seconds over which loudness is measured, to tell speech from pauses.
STEP_SECONDS = 0.1
STEP = round(STEP_SECONDS * RATE)
#: Samples that are taken from a resampler at a time.
FRAME = RATE // 2
#: Speech is above this, dBFS, and this much below the loudest speech (dB).
SPEECH_FLOOR, SPEECH_RANGE = -50.0, 25.0
#: Speech of the voice is heard where the video is at most this much quieter, dB.
HEARD_RANGE = 20.0
#: Seconds of speech a window must have for its comparison to mean something.
ENOUGH_SPEECH = 0.8


@dataclass(frozen=True)
class Match:
    """One window of the voice, found in the video.

    Attributes:
        start: seconds into the voice.
        likeness: highest correlation of the two waves, 0 to 1. See `inspect.MIN_LIKENESS` for
            what was found.
        lag: seconds that the video's sound is late (negative: early).
    """

    start: float
    likeness: float
    lag: float


class _Tape:
    """The latest part of a sound at `RATE`, and the loudness of all of it."""

    def __init__(self) -> None:
        self.length = 0
        self._samples: Samples = np.zeros(0, np.float32)
        self._added: list[Samples] = []
        self._start = 0
        self._power: list[float] = []
        self._measured = 0

    def add(self, samples: Samples) -> None:
        self._added.append(samples)
        self.length += samples.size

    def span(self, start: int, end: int) -> Samples:
        """Samples from `start` to `end`; silence where there are none."""
        self._samples, self._added = np.concatenate([self._samples, *self._added]), []
        first, last = max(start, self._start), max(start, min(end, self.length))
        kept = self._samples[first - self._start : max(first, last) - self._start]
        return np.pad(kept, (first - start, max(0, end - max(first, last))))

    def forget(self, before: int) -> None:
        """Measure what was added, and drop what lies before."""
        self.measure()
        keep = min(before, self._measured)
        if keep > self._start:
            self._samples, self._start = self._samples[keep - self._start :].copy(), keep

    def measure(self) -> None:
        steps = (self.length - self._measured) // STEP
        if steps:
            block = self.span(self._measured, self._measured + steps * STEP).reshape(steps, STEP)
            self._power += list(np.square(block).mean(axis=1))
            self._measured += steps * STEP

    def levels(self) -> NDArray[np.float64]:
        """Loudness of each step, dBFS."""
        self.measure()
        return 10 * np.log10(np.maximum(np.asarray(self._power, np.float64), 1e-12))


class SoundWatch:
    """Hears the sound of a video in order, and compares it with the voice on the way, in little memory.

    Attributes:
        matches: what was found for each window of the voice that has speech in it.
    """

    def __init__(self, voice: Iterator[AudioFrame] | None = None) -> None:
        self.matches: list[Match] = []
        self._voice = voice
        self._heard, self._spoken = _Tape(), _Tape()
        self._resampler = av.AudioResampler("flt", "mono", RATE, FRAME)
        self._begun = False
        self._compared = 0

    def __call__(self, frame: VideoFrame | AudioFrame) -> None:
        if not isinstance(frame, AudioFrame):
            return
        if not self._begun:
            self._begun = True
            self._heard.add(np.zeros(max(0, round((frame.time or 0) * RATE)), np.float32))
        self._hear(frame)
        while self._heard.length >= self._compared + WINDOW + REACH:
            self._compare(self._compared)

    def finish(self) -> None:
        """The video is over: compare what is left, with the voice to its end."""
        if self._begun:
            self._hear(None)
        self._read_voice(None)
        while self._compared < self._spoken.length:
            # The last window reaches back, so that it is as long as the others.
            self._compare(max(0, min(self._compared, self._spoken.length - WINDOW)))

    def speaking(self) -> NDArray[np.bool_]:
        """Where the voice speaks, by steps of `STEP_SECONDS`."""
        return is_speech(self._spoken.levels())

    def levels(self) -> NDArray[np.float64]:
        """Loudness of the video, by steps of `STEP_SECONDS`, in dBFS."""
        return self._heard.levels()

    def share_heard(self) -> float:
        """How much of the speech can be heard in the video, 0 to 1."""
        spoken, speaking = self._spoken.levels(), self.speaking()
        heard = np.full(max(spoken.size, 1) + 2, -120.0)
        found = self.levels()[: spoken.size]
        heard[1 : found.size + 1] = found
        # A neighbouring step will do: whether the sound is late is another question.
        near = np.maximum(np.maximum(heard[:-2], heard[1:-1]), heard[2:])[: spoken.size]
        audible = near >= spoken - HEARD_RANGE
        return float(audible[speaking].mean()) if speaking.any() else 1.0

    def _hear(self, frame: AudioFrame | None) -> None:
        for ready in self._resampler.resample(frame):
            self._heard.add(ready.to_ndarray()[0].astype(np.float32, copy=False))

    def _read_voice(self, until: int | None) -> None:
        while self._voice is not None and (until is None or self._spoken.length < until):
            frame = next(self._voice, None)
            if frame is None:
                self._voice = None
                return
            self._spoken.add(frame.to_ndarray()[0].astype(np.float32, copy=False))

    def _compare(self, start: int) -> None:
        self._read_voice(start + WINDOW)
        self._compared = start + WINDOW
        spoken = self._spoken.span(start, min(start + WINDOW, self._spoken.length))
        if spoken.size >= STEP and _speech_seconds(spoken) >= ENOUGH_SPEECH:
            heard = self._heard.span(start - REACH, start + spoken.size + REACH)
            likeness, lag = find_match(spoken, heard)
            self.matches.append(Match(start / RATE, likeness, lag))
        for tape in (self._heard, self._spoken):
            tape.forget(start - REACH)


def is_speech(levels: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Where a sound of these levels (dBFS) is loud enough to be speech."""
    loudest = float(np.percentile(levels, 95)) if levels.size else 0.0
    speaking: NDArray[np.bool_] = levels > max(SPEECH_FLOOR, loudest - SPEECH_RANGE)
    return speaking


def _speech_seconds(samples: Samples) -> float:
    steps = samples[: samples.size // STEP * STEP].reshape(-1, STEP).astype(np.float64)
    levels = 10 * np.log10(np.maximum(np.square(steps).mean(axis=1), 1e-12))
    return float(is_speech(levels).sum() * STEP_SECONDS)


def find_match(spoken: Samples, heard: Samples) -> tuple[float, float]:
    """How alike the two are where they are most alike, and by how many seconds `heard` is late there.

    `heard` begins `REACH` samples before `spoken` and ends as many after it.
    """
    # Differences instead of samples: hum and the voice's pitch would outweigh what makes one voice unlike another.
    spoken, heard = np.diff(spoken, prepend=0), np.diff(heard, prepend=0)
    size = _fast_length(heard.size)
    wave = np.fft.irfft(np.fft.rfft(heard, size) * np.conj(np.fft.rfft(spoken, size)), size)
    lags = heard.size - spoken.size + 1
    energy = np.concatenate([[0.0], np.cumsum(np.square(heard.astype(np.float64)))])
    under = energy[spoken.size : spoken.size + lags] - energy[:lags]
    scale = np.sqrt(np.maximum(under, 1e-9) * max(float(np.square(spoken.astype(np.float64)).sum()), 1e-9))
    # Absolute: a voice turned upside down sounds the same.
    likeness = np.abs(wave[:lags]) / scale
    good = np.flatnonzero(likeness >= AS_GOOD * likeness.max())
    best = int(good[np.argmin(np.abs(good - REACH))])
    return min(1.0, float(likeness[best])), (best - REACH) / RATE


def _fast_length(least: int) -> int:
    """The next length that has no prime factor above 5: as fast as a power of two, and less of it."""
    length = least
    while True:
        rest = length
        for factor in (2, 3, 5):
            while rest % factor == 0:
                rest //= factor
        if rest == 1:
            return length
        length += 1

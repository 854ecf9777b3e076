"""Speech of any length, put together from the sentences of the example voice."""

import functools

import numpy as np
from numpy.typing import NDArray

from avatar.media.sound import read_mono
from tests.media.recordings import EXAMPLES

RATE = 22050
#: A gap this long, in steps of 10 ms, ends a sentence.
GAP, STEP = 30, RATE // 100


@functools.cache
def sentences() -> tuple[NDArray[np.float32], ...]:
    """The sentences of the long example, each with the pause after it."""
    samples = read_mono(EXAMPLES / "speech-95s.mp3", RATE)
    loud = np.abs(samples[: samples.size // STEP * STEP]).reshape(-1, STEP).max(axis=1) > 0.01
    edges, quiet = [0], 0
    for step, heard in enumerate(loud):
        if heard and quiet >= GAP and edges[-1] < step - GAP:
            edges.append(step - 5)
        quiet = 0 if heard else quiet + 1
    return tuple(samples[a * STEP : b * STEP] for a, b in zip(edges, [*edges[1:], len(loud)], strict=True))


def speech(order) -> NDArray[np.float32]:
    """The sentences of these numbers, one channel x samples."""
    spoken = sentences()
    return np.concatenate([spoken[number % len(spoken)] for number in order])[None, :]


def shuffled(count: int, seed: int) -> list[int]:
    """Numbers of `count` sentences in an order of their own."""
    return [int(number) for number in np.random.default_rng(seed).integers(0, 1000, count)]

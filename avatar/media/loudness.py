"""The sound of a video: measured by EBU R128, and brought to a loudness."""

from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.error import BlockingIOError as Empty
from av.error import EOFError as Ended
from av.filter import Graph
from numpy.typing import NDArray

from avatar.media.sound import open_media

#: Hz, of two channels.
RATE = 48_000
#: What the limiter keeps the peaks under, dBTP; AAC adds up to half a decibel, and the bound is -1.
CEILING = -1.8
#: Sound below this has no loudness to speak of, LUFS.
SILENT = -60.0


def read_sound(clip: Path, seconds: Fraction) -> "NDArray[np.float32]":
    """Two channels at `RATE`; silence where there is none."""
    whole = np.zeros((2, round(seconds * RATE)), np.float32)
    with open_media(clip) as container:
        if not container.streams.audio:
            return whole
        resampler, at = av.AudioResampler("fltp", "stereo", RATE), 0
        for frame in (*_untimed(container.decode(audio=0)), None):
            for ready in resampler.resample(frame):
                block = ready.to_ndarray()[:, : whole.shape[1] - at]
                whole[:, at : at + block.shape[1]] = block
                at += block.shape[1]
    return whole


def _untimed(frames: Iterator[AudioFrame]) -> Iterator[AudioFrame]:
    for frame in frames:
        frame.pts = None
        yield frame


def gain_to(
    sounds: "Sequence[NDArray[np.float32]]", wanted: float | None, before: float, peak: float
) -> float:
    """Decibels to the loudness that is wanted. What the limiter takes of it is given back, once."""
    if wanted is None or before < SILENT:
        return 0.0
    gain = wanted - before
    return gain + wanted - measure(level_sound(join_stereo(sounds), gain, peak))[0]


def join_stereo(sounds: "Sequence[NDArray[np.float32]]") -> Iterator[AudioFrame]:
    samples, block = 0, RATE // 10
    for sound in sounds:
        for at in range(0, sound.shape[1], block):
            piece = np.ascontiguousarray(sound[:, at : at + block])
            frame = AudioFrame.from_ndarray(piece, "fltp", "stereo")
            frame.sample_rate, frame.pts, frame.time_base = RATE, samples, Fraction(1, RATE)
            samples += piece.shape[1]
            yield frame


def measure(frames: Iterator[AudioFrame]) -> tuple[float, float]:
    """Integrated loudness in LUFS and true peak in dBTP (EBU R128)."""
    told: dict[str, str] = {}
    for frame in _filtered(frames, ("ebur128", "metadata=1:peak=true")):
        told = frame.metadata or told
    peak = float(told.get("lavfi.r128.true_peak", 0))
    return float(told.get("lavfi.r128.I", -70)), 20 * float(np.log10(max(peak, 1e-6)))


def _filtered(frames: Iterator[AudioFrame], *filters: tuple[str, str]) -> Iterator[AudioFrame]:
    graph, entry = None, None
    for frame in frames:
        if graph is None:
            graph = Graph()
            entry = graph.add_abuffer(
                sample_rate=frame.sample_rate,
                format=frame.format.name,
                layout=frame.layout.name,
                time_base=frame.time_base,
            )
            graph.link_nodes(
                entry, *(graph.add(*each) for each in filters), graph.add("abuffersink")
            ).configure()
        graph.push(frame)
        yield from limit_peaks(graph)
    if graph is not None:
        graph.push(None)
        yield from limit_peaks(graph)


def limit_peaks(graph: Graph) -> Iterator[Any]:
    while True:
        try:
            yield graph.pull()
        except (Empty, Ended):
            return


def level_sound(frames: Iterator[AudioFrame], gain: float, peak: float) -> Iterator[AudioFrame]:
    """Louder by `gain` dB; limited between the samples, too, where the peaks would pass the ceiling."""
    filters = [("volume", f"{gain:.3f}dB:precision=float")]
    if peak + gain > CEILING:
        limit = f"limit={10 ** (CEILING / 20):.4f}:level=false:latency=true:attack=5:release=50"
        filters += [("aresample", str(4 * RATE)), ("alimiter", limit), ("aresample", str(RATE))]
    filters.append(("aformat", f"sample_fmts=fltp:channel_layouts=stereo:sample_rates={RATE}"))
    yield from _filtered(frames, *filters)

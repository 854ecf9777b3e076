"""Work on sound and picture: validating a voice, and cutting and joining long ones."""

import time
from pathlib import Path

import av

from benchmarks.rows import Row, median
from benchmarks.stage import LONG_VOICE, Stage
from tasks.media.probe import probe_voice
from tasks.media.voice import check_voice, prepare_voice
from tasks.providers.base import Limits

BENCH = "voice"
SECONDS, RUNS = 60.0, 7


def measure(stage: Stage) -> list[Row]:
    voice = stage.folder / "voice-60s.mp3"
    cut(LONG_VOICE, voice, SECONDS)
    times = tuple(_validation(voice) for _ in range(RUNS))
    validated = Row(BENCH, "validate a 60 s voice", "s", median(times), None, "≤ 0.15 s", samples=times)
    return [validated, split_and_stitch()]


def cut(source: Path, target: Path, seconds: float) -> None:
    """The beginning of an MP3, its frames unchanged."""
    with av.open(str(source)) as long, av.open(str(target), "w") as short:
        track = long.streams.audio[0]
        stream = short.add_stream_from_template(track)
        for packet in long.demux(track):
            if packet.pts is None or packet.pts * packet.time_base >= seconds:
                break
            packet.stream = stream
            short.mux(packet)


def _validation(voice: Path) -> float:
    began, limits = time.monotonic(), Limits()
    facts = probe_voice(voice)
    # The last frame reaches past the cut, and the limit is measured in samples.
    check_voice(facts, Limits(max_seconds=limits.max_seconds + 0.1))
    prepare_voice(voice, voice.with_suffix(".ready"), facts, limits)
    return time.monotonic() - began


def split_and_stitch() -> Row:
    """The place for cutting 10 minutes of voice into segments and joining their videos; neither exists yet."""
    return Row(BENCH, "split + stitch 10 minutes", "s", None, None, "≤ 5 s")

"""Work on sound and picture: validating a voice, cutting and joining long ones, forms, captions and marks."""

import time
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av

from avatar.media.decoder_calls import (
    cut_voice,
    make_form,
    plan_cuts,
    prepare_voice,
    probe_voice,
    stitch,
    write_marked,
)
from avatar.media.disclosure import CaptionTrack, Marks, disclosure_for
from avatar.media.facts import Part, check_voice, form_of
from avatar.media.webvtt import Cue, as_vtt
from avatar.models import Limits
from benchmarks.rows import Row, median
from benchmarks.stage import LONG_VOICE, PORTRAIT, Stage
from tests.sandbox.renderer import Look, render

BENCH = "voice"
SECONDS, RUNS = 60.0, 7


def measure(stage: Stage) -> list[Row]:
    voice = stage.folder / "voice-60s.mp3"
    cut(LONG_VOICE, voice, SECONDS)
    times = tuple(_validation(voice) for _ in range(RUNS))
    validated = Row(BENCH, "validate a 60 s voice", "s", median(times), None, "≤ 0.15 s", samples=times)
    return [validated, split_and_stitch(stage.folder), *published(stage.folder, voice)]


def published(folder: Path, voice: Path) -> list[Row]:
    """What a video of 60 s costs in processor time once it is there."""
    video, captions = folder / "minute.mp4", folder / "minute.vtt"
    render(PORTRAIT.read_bytes(), voice.read_bytes(), video, Look(720, 25, 0.04))
    captions.write_text(as_vtt([Cue(float(at), at + 0.9, f"cue {at}") for at in range(60)]))
    marks, tracks = Marks(disclosure_for("de"), "de", "model", "job"), (CaptionTrack(captions, "de"),)
    write_marked(video, folder / "marked.mp4", marks, tracks)
    times = []
    for _ in range(RUNS):
        began = time.monotonic()
        write_marked(video, folder / "marked.mp4", marks, tracks)
        times.append(time.monotonic() - began)
    what = "captions and marks of a 60 s video"
    marked = Row(BENCH, what, "s", median(tuple(times)), None, "≤ 0.1 s", samples=tuple(times))
    spec = replace(form_of("9:16"), loudness=-16.0, label="AI-generated")
    began = time.process_time()
    made = make_form.__wrapped__(folder / "marked.mp4", folder / "form.mp4", spec, marks, tracks)
    taken = time.process_time() - began
    what = f"form {made.width}×{made.height} and loudness of a 60 s video, CPU, SSIM {made.quality}"
    return [marked, Row(BENCH, what, "s", taken, None, "≤ 90 s")]


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


def split_and_stitch(folder: Path) -> Row:
    """Cutting ten minutes of voice into segments, and joining their videos under it; not the rendering."""
    voice = folder / "voice-600s.mp3"
    repeat(LONG_VOICE, voice, 600.0)
    facts, limits = probe_voice(voice), Limits()
    began = time.monotonic()
    cuts = plan_cuts(voice, facts, limits)
    files = cut_voice(voice, facts, cuts, folder, limits)
    split = time.monotonic() - began
    parts = []
    for cut_, file in zip(cuts, files, strict=True):
        video = folder / f"part-{cut_.index}.mp4"
        render(PORTRAIT.read_bytes(), file.path.read_bytes(), video, Look(512, 25, 0.2))
        span = Fraction(cut_.start, facts.sample_rate), Fraction(cut_.end, facts.sample_rate)
        parts.append(Part(video, *span))
    began = time.monotonic()
    stitched = stitch(parts, voice, folder / "whole.mp4")
    taken = split + time.monotonic() - began
    what = f"split + stitch 10 minutes, {len(parts)} parts, re-encoded: {stitched.reencoded}"
    return Row(BENCH, what, "s", taken, None, "≤ 5 s")


def repeat(source: Path, target: Path, seconds: float) -> None:
    """An MP3 over and over, until it is long enough."""
    frames = source.read_bytes()
    with av.open(str(source)) as container:
        length = float(container.duration or 0) / av.time_base
    target.write_bytes(frames * (int(seconds / length) + 1))

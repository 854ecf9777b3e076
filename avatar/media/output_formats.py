"""Other forms of a video: another size, an even loudness, a logo and a label, an intro and an outro. Encoded once."""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.container import OutputContainer
from av.error import FFmpegError
from av.filter import Graph
from av.video.format import VideoFormat
from av.video.frame import VideoFrame
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from avatar.errors import VideoRejected
from avatar.media.disclosure import CaptionTrack, Marks
from avatar.media.embed_metadata import write_marked
from avatar.media.facts import FormSpec, MadeForm
from avatar.media.loudness import RATE, gain_to, join_stereo, level_sound, limit_peaks, measure, read_sound
from avatar.media.sound import open_media, reason
from avatar.media.webvtt import as_vtt, from_vtt

LONGEST_SIDE, SHORTEST_SIDE = 1920, 96
#: H.264 at this quality (CRF) is within 0.98 of its source by SSIM for speaking faces.
CRF, PRESET = "20", "veryfast"
#: Bits per second of the sound.
BITS = 192_000
#: Pictures that are compared with their source.
COMPARED = 24
#: Of the picture's shorter side: the logo's width, the label's height, the space around both.
LOGO, LABEL, MARGIN = 0.2, 0.035, 0.03

Gray = NDArray[np.uint8]


def size_for(shape: str, width: int, height: int, *, crop: bool) -> tuple[int, int]:
    """Width and height in pixels: the picture keeps its own pixels, within the longest side; both even."""
    if "x" in shape:
        wide, high = (float(side) for side in shape.split("x"))
    elif shape == "same":
        wide, high = float(width), float(height)
    else:
        ratio = Fraction(*(max(1, int(part)) for part in shape.split(":")))
        narrower = ratio < Fraction(width, height)
        across = narrower is not crop
        wide, high = (width, float(width / ratio)) if across else (float(height * ratio), height)
    scale = min(1.0, LONGEST_SIDE / max(wide, high))
    wide, high = (max(SHORTEST_SIDE, round(float(side) * scale / 2) * 2) for side in (wide, high))
    return min(wide, LONGEST_SIDE), min(high, LONGEST_SIDE)


def make_form(
    source: Path, target: Path, form: FormSpec, marks: Marks, captions: tuple[CaptionTrack, ...] = ()
) -> MadeForm:
    """As `avatar.media.decoder_calls.make_form` says."""
    try:
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            return _make(source, target, form, marks, captions=captions, folder=Path(folder))
    except (FFmpegError, OSError, ValueError) as error:
        raise VideoRejected(
            f"{source.name} was not brought into the form {form.shape}: {reason(error)}."
        ) from error


def _make(
    source: Path,
    target: Path,
    form: FormSpec,
    marks: Marks,
    *,
    captions: Sequence[CaptionTrack],
    folder: Path,
) -> MadeForm:
    clips = [*form.intro, source, *form.outro]
    with open_media(source) as container:
        stream = container.streams.video[0]
        size = size_for(form.shape, stream.width, stream.height, crop=form.fit == "crop")
        rate = Fraction(stream.average_rate or 25)
    lengths = [_seconds(clip, rate) for clip in clips]
    sounds = [read_sound(clip, length) for clip, length in zip(clips, lengths, strict=True)]
    before, peak = measure(join_stereo(sounds))
    gain = gain_to(sounds, form.loudness, before, peak)
    kept = _encode(
        clips=clips,
        sounds=sounds,
        target=folder / "form.mp4",
        form=form,
        size=size,
        rate=rate,
        lengths=lengths,
        gain=gain,
        peak=peak,
    )
    with open_media(folder / "form.mp4") as made:
        after, now = measure(made.decode(audio=0))
    intro = float(sum(lengths[: len(form.intro)], Fraction(0)))
    write_marked(folder / "form.mp4", target, marks, _later(captions, intro, folder), (source,))
    quality = _likeness(target, kept)
    total = float(sum(lengths))
    return MadeForm(*size, total, intro, round(before, 1), round(after, 1), round(now, 1), quality)


def _later(captions: Sequence[CaptionTrack], seconds: float, folder: Path) -> tuple[CaptionTrack, ...]:
    """The captions, that much later."""
    moved = []
    for number, track in enumerate(captions):
        cues = from_vtt(track.path.read_text("utf-8"))
        later = [replace(cue, start=cue.start + seconds, end=cue.end + seconds) for cue in cues]
        moved.append(replace(track, path=folder / f"later-{number}.vtt"))
        moved[-1].path.write_text(as_vtt(later), "utf-8")
    return tuple(moved)


def _seconds(clip: Path, rate: Fraction) -> Fraction:
    """Length of its picture, in whole frames."""
    with open_media(clip) as container:
        stream = container.streams.video[0]
        length = float((stream.duration or 0) * (stream.time_base or 0)) or (container.duration or 0) / 1e6
    return Fraction(max(1, round(length * rate))) / rate


# The picture.
def _encode(
    *,
    clips: Sequence[Path],
    sounds: "Sequence[NDArray[np.float32]]",
    target: Path,
    form: FormSpec,
    size: tuple[int, int],
    rate: Fraction,
    lengths: Sequence[Fraction],
    gain: float,
    peak: float,
) -> dict[int, Gray]:
    """Encode all of it once. Returns some of the pictures as they went into the encoder, by their number."""
    every, kept = max(1, round(float(sum(lengths) * rate) / COMPARED)), {}
    with av.open(str(target), "w", format="mp4") as output:
        picture: Any = output.add_stream("libx264", rate=rate)
        picture.width, picture.height, picture.pix_fmt = *size, "yuv420p"
        picture.options = {"preset": PRESET, "crf": CRF}
        picture.time_base = picture.codec_context.time_base = 1 / rate
        sound: Any = output.add_stream("aac", rate=RATE, layout="stereo", bit_rate=BITS)
        heard = level_sound(join_stereo(sounds), gain, peak)
        number = 0
        for place, (clip, length) in enumerate(zip(clips, lengths, strict=True)):
            own = place == len(form.intro)
            for frame in _pictures(
                clip, form if own else replace(form, logo=(), face=None), size, rate, length
            ):
                if own and number % every == 0:
                    kept[number] = _gray(frame)
                frame.pts, frame.time_base, frame.pict_type = number, 1 / rate, 0
                output.mux(picture.encode(frame))
                number += 1
                _mux_until(output, sound, heard, number / rate)
        output.mux(picture.encode(None))
        _mux_until(output, sound, heard, Fraction(10**9))
        output.mux(sound.encode(None))
    return kept


def _mux_until(output: OutputContainer, sound: Any, heard: Iterator[AudioFrame], until: Fraction) -> None:
    for frame in heard:
        output.mux(sound.encode(frame))
        if (frame.pts or 0) * (frame.time_base or 0) >= until:
            return


def _pictures(
    clip: Path, form: FormSpec, size: tuple[int, int], rate: Fraction, length: Fraction
) -> Iterator[VideoFrame]:
    """Exactly as many frames as the length has, the last one held where the clip ends early."""
    wanted, shown = round(length * rate), None
    with open_media(clip) as container:
        stream = container.streams.video[0]
        graph, entry = _graph(stream, form, size, rate)
        for frame in _all(container, stream):
            entry.push(frame)
            for ready in limit_peaks(graph):
                if wanted:
                    shown, wanted = ready, wanted - 1
                    yield ready
            if not wanted:
                return
    while shown is not None and wanted:
        wanted -= 1
        yield VideoFrame.from_ndarray(shown.to_ndarray(), "yuv420p")


def _all(container: Any, stream: Any) -> Iterator[VideoFrame | None]:
    yield from container.decode(stream)
    yield None


def _graph(stream: Any, form: FormSpec, size: tuple[int, int], rate: Fraction) -> tuple[Graph, Any]:
    graph, (width, height) = Graph(), size
    entry = graph.add_buffer(template=stream)
    ready = graph.add("fps", str(rate))
    entry.link_to(ready)
    fitted = {"blur": _blurred, "plain": _plain, "crop": _cropped}[form.fit](graph, ready, stream, form, size)
    if form.label or form.logo:
        over = graph.add_buffer(
            width=width, height=height, format=VideoFormat("rgba", width, height), time_base=Fraction(1, 1000)
        )
        layer = graph.add("overlay", "0:0:eof_action=repeat")
        fitted.link_to(layer)
        over.link_to(layer, 0, 1)
        fitted = layer
    _chain(graph, fitted, ("setsar", "1"), ("format", "yuv420p"), ("buffersink", ""))
    graph.configure()
    if form.label or form.logo:
        frame = VideoFrame.from_ndarray(_layer(form, size), "rgba")
        frame.pts, frame.time_base = 0, Fraction(1, 1000)
        over.push(frame)
        over.push(None)
    return graph, entry


def _chain(graph: Graph, first: Any, *filters: tuple[str, str]) -> Any:
    for name, options in filters:
        following = graph.add(name, options) if options else graph.add(name)
        first.link_to(following)
        first = following
    return first


def _plain(graph: Graph, source: Any, stream: Any, form: FormSpec, size: tuple[int, int]) -> Any:  # noqa: ARG001
    width, height = size
    return _chain(
        graph,
        source,
        (
            "scale",
            f"{width}:{height}:force_original_aspect_ratio=decrease:force_divisible_by=2:flags=lanczos",
        ),
        ("pad", f"{width}:{height}:(ow-iw)/2:(oh-ih)/2:color=black"),
    )


def _blurred(graph: Graph, source: Any, stream: Any, form: FormSpec, size: tuple[int, int]) -> Any:
    """The picture as a whole, over itself: larger, blurred and darker. Blurred small, which costs a sixty-fourth."""
    width, height = size
    if abs(stream.width * height - stream.height * width) < width + height:
        return _plain(graph, source, stream, form, size)
    both = _chain(graph, source, ("split", "2"))
    small = f"{max(16, width // 16 * 2)}:{max(16, height // 16 * 2)}"
    behind = graph.add("scale", f"{small}:force_original_aspect_ratio=increase")
    both.link_to(behind, 0, 0)
    behind = _chain(
        graph,
        behind,
        ("crop", small),
        ("gblur", "sigma=5"),
        ("eq", "brightness=-0.08") if "eq" in av.filter.filters_available else ("null", ""),
        ("scale", f"{width}:{height}:flags=bicubic"),
    )
    before = graph.add("scale", f"{width}:{height}:force_original_aspect_ratio=decrease:force_divisible_by=2")
    both.link_to(before, 1, 0)
    layer = graph.add("overlay", "(W-w)/2:(H-h)/2")
    behind.link_to(layer)
    before.link_to(layer, 0, 1)
    return layer


def _cropped(graph: Graph, source: Any, stream: Any, form: FormSpec, size: tuple[int, int]) -> Any:
    """The face in the middle as far as the picture goes; without one, the upper middle, where faces are."""
    width, height = size
    scale = max(width / stream.width, height / stream.height)
    wide, high = (
        max(side, round(own * scale / 2) * 2)
        for side, own in ((width, stream.width), (height, stream.height))
    )
    left, top, face_wide, face_high = form.face or (0.4, 0.1, 0.2, 0.25)
    x = min(max(0, round((left + face_wide / 2) * wide - width / 2)), wide - width)
    y = min(max(0, round((top + face_high / 2) * high - height / 2)), high - height)
    return _chain(
        graph, source, ("scale", f"{wide}:{high}:flags=lanczos"), ("crop", f"{width}:{height}:{x}:{y}")
    )


def _layer(form: FormSpec, size: tuple[int, int]) -> Gray:
    """Logo at the top right, label at the bottom left."""
    side, layer = min(size), Image.new("RGBA", size)
    margin = round(side * MARGIN)
    for path in form.logo:
        with Image.open(path) as opened:
            logo = opened.convert("RGBA")
        logo.thumbnail((round(side * LOGO), round(side * LOGO)))
        layer.alpha_composite(logo, (size[0] - margin - logo.width, margin))
    if form.label:
        font, draw = ImageFont.load_default(max(12, round(side * LABEL))), ImageDraw.Draw(layer)
        box = draw.textbbox((2 * margin, size[1] - 2 * margin), form.label, font=font, anchor="ls")
        pad = margin // 2
        draw.rounded_rectangle(
            (box[0] - pad, box[1] - pad, box[2] + pad, box[3] + pad), pad, fill=(0, 0, 0, 150)
        )
        draw.text((2 * margin, size[1] - 2 * margin), form.label, font=font, anchor="ls", fill="white")
    return np.asarray(layer)


# How near the encoded picture is to what went into the encoder.
def _gray(frame: VideoFrame) -> Gray:
    return np.asarray(frame.to_ndarray(format="gray"), np.uint8)


def _likeness(path: Path, kept: dict[int, Gray]) -> float:
    """SSIM of the pictures that were kept, in blocks of 8 by 8; their mean."""
    found = []
    with open_media(path) as container:
        for number, frame in enumerate(container.decode(video=0)):
            if number in kept:
                found.append(_ssim(kept[number], _gray(frame)))
    return round(float(np.mean(found)), 4) if found else 0.0


def _ssim(one: Gray, other: Gray) -> float:
    """Wang et al. 2004, over blocks that do not overlap."""
    x, y = (_blocks(each) for each in (one, other))
    mx, my = x.mean(axis=(1, 3)), y.mean(axis=(1, 3))
    vx, vy = x.var(axis=(1, 3)), y.var(axis=(1, 3))
    both = (x * y).mean(axis=(1, 3)) - mx * my
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    likeness = (2 * mx * my + c1) * (2 * both + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    return float(likeness.mean())


def _blocks(picture: Gray) -> "NDArray[np.float32]":
    high, wide = (side // 8 for side in picture.shape)
    return picture[: high * 8, : wide * 8].astype(np.float32).reshape(high, 8, wide, 8)

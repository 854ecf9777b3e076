"""Renders one preview: `python -m avatar.media.preview FOLDER`, a child process of the preview provider.

It is confined like all that decodes (`avatar.media.confined`). Reads `request.json`, the portrait and the voice in the folder; writes `progress.json` while it works, and at the
end `video.mp4` or `failure.json`.
"""

import contextlib
import fcntl
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace
from av.video.stream import VideoStream
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, ImageOps

from avatar.errors import AvatarError
from avatar.media.child import Bounds, confine, environment
from avatar.media.sound import Samples, Sound, open_sound, read_mono, resampled
from avatar.media.voice import mp3_rate

# The picture of a preview: the portrait gently moving, a mouth and a meter that follow the voice, and a mark.
Pixels = NDArray[np.uint8]
Plane = NDArray[np.float32]

MARK = "PREVIEW"
#: Share of the portrait in view; the rest is room for the camera to move in.
VIEW = 0.93
#: dB between the loudest syllables and a closed mouth.
RANGE_DB = 30.0
BARS_EACH_SIDE = 12
BAR_COLOUR, LIP_COLOUR, THROAT_COLOUR = (126, 226, 255), (255, 122, 122), (74, 16, 26)


def frame_levels(samples: Samples, sample_rate: int, frame_rate: int, frames: int) -> Plane:
    """How loud the voice is during each frame, 0 (closed) to 1 (its own loudest syllables)."""
    step = sample_rate / frame_rate
    edges = np.minimum((np.arange(frames + 1) * step).astype(int), len(samples))
    power = np.concatenate([[0.0], np.cumsum(samples.astype(np.float64) ** 2)])
    mean = (power[edges[1:]] - power[edges[:-1]]) / np.maximum(np.diff(edges), 1)
    decibels = 10 * np.log10(np.maximum(mean, 1e-10))
    loudest = np.percentile(decibels, 95)
    levels: Plane = np.clip((decibels - loudest) / RANGE_DB + 1, 0, 1).astype(np.float32)
    return levels


def canvas_size(width: int, height: int, max_side: int) -> tuple[int, int]:
    """The portrait's shape with its longest side at `max_side`, both sides even as yuv420p needs."""
    scale = max_side / max(width, height)
    return max(2, round(width * scale / 2) * 2), max(2, round(height * scale / 2) * 2)


class Scene:
    """Draws the frames of one preview.

    Args:
        portrait: the image file.
        levels: one loudness per frame (`frame_levels`).
        frame_rate: frames per second.
        max_side: longest side of the picture, in pixels.
    """

    def __init__(self, portrait: Path, levels: Plane, *, frame_rate: int, max_side: int) -> None:
        with Image.open(portrait, formats=("JPEG", "PNG")) as image:
            ImageOps.exif_transpose(image, in_place=True)
            upright = image.convert("RGB")
        self.size = canvas_size(*upright.size, max_side)
        room = (round(self.size[0] / VIEW), round(self.size[1] / VIEW))
        self._portrait = upright.resize(room, Image.Resampling.LANCZOS)
        self._levels = levels
        self._frame_rate = frame_rate
        self._nods = np.convolve(levels, np.hanning(11) / np.hanning(11).sum(), "same")
        self._meter = _Meter(self.size)
        self._mark = _draw_mark(self.size)

    def frame(self, number: int) -> Pixels:
        """The frame as height x width x 3 bytes of RGB."""
        view = self._portrait.resize(self.size, Image.Resampling.BILINEAR, box=self._camera(number))
        pixels = np.array(view)
        _lay(pixels, self._mark, *self.mark_corner)
        self._meter.draw(pixels, self._levels, number)
        return pixels

    @property
    def mark_corner(self) -> tuple[int, int]:
        """Left and top of the mark."""
        margin = round(min(self.size) * 0.035)
        return margin, margin

    @property
    def mark_size(self) -> tuple[int, int]:
        return self._mark.shape[1], self._mark.shape[0]

    def _camera(self, number: int) -> tuple[float, float, float, float]:
        """The part of the portrait in view: a slow breath in and out, a sway, a nod with the voice."""
        seconds = number / self._frame_rate
        width, height = self._portrait.size
        share = VIEW + 0.02 * math.cos(seconds * 2 * math.pi / 9)
        across, down = width * (1 - share), height * (1 - share)
        left = across * (0.5 + 0.42 * math.sin(seconds * 2 * math.pi / 5.3))
        nod = 0.18 * float(self._nods[number])
        top = down * (0.45 + 0.34 * math.sin(seconds * 2 * math.pi / 7.1) + nod)
        return left, top, left + width * share, top + height * share


def _lay(pixels: Pixels, plate: Plane, left: int, top: int) -> None:
    """Blend a plate (RGB and alpha, colours 0-255, alpha 0-1) onto the picture."""
    height, width = plate.shape[:2]
    region = pixels[top : top + height, left : left + width]
    alpha = plate[..., 3:]
    region[:] = (region * (1 - alpha) + plate[..., :3] * alpha).astype(np.uint8)


def _plate(image: Image.Image) -> Plane:
    plate = np.asarray(image.convert("RGBA")).astype(np.float32)
    plate[..., 3] /= 255
    return plate


def _draw_mark(size: tuple[int, int]) -> Plane:
    font = ImageFont.load_default(size=max(10, round(min(size) * 0.042)))
    left, top, right, bottom = font.getbbox(MARK)
    pad = round((bottom - top) * 0.7)
    box = (math.ceil(right - left) + 2 * pad, math.ceil(bottom - top) + 2 * pad)
    box = (min(box[0], size[0]), min(box[1], size[1]))
    image = Image.new("RGBA", box, (0, 0, 0, 0))
    draw = ImageDraw.Draw(image)
    draw.rounded_rectangle((0, 0, box[0] - 1, box[1] - 1), radius=box[1] // 3, fill=(255, 196, 0, 235))
    draw.text((pad - left, pad - top), MARK, font=font, fill=(24, 24, 24, 255))
    return _plate(image)


class _Meter:
    """A dark strip near the bottom: in its middle a mouth, to both sides bars that carry the sound outwards."""

    def __init__(self, size: tuple[int, int]) -> None:
        width = max(16, round(min(size[0] * 0.8, size[1] * 0.62)))
        height = max(8, min(round(width * 0.16), size[1] // 4))
        self._corner = ((size[0] - width) // 2, round(size[1] * 0.955) - height)
        self._strip = self._draw_strip(width, height)
        self._half = height / 2
        across = np.arange(width, dtype=np.float32) + 0.5 - width / 2
        self._x, self._y = np.meshgrid(across, np.arange(height, dtype=np.float32) + 0.5 - height / 2)
        self._mouth_width = height * 0.62
        pitch = (width / 2 - self._mouth_width * 1.3 - height * 0.3) / BARS_EACH_SIDE
        place = (np.abs(across) - self._mouth_width * 1.3) / pitch
        self._bar = np.clip(np.floor(place), 0, BARS_EACH_SIDE - 1).astype(int)
        self._bar_x = (place - self._bar - 0.5) * pitch
        self._bar_radius = pitch * 0.3

    @staticmethod
    def _draw_strip(width: int, height: int) -> Plane:
        image = Image.new("RGBA", (width * 4, height * 4), (0, 0, 0, 0))
        box = (0, 0, width * 4 - 1, height * 4 - 1)
        ImageDraw.Draw(image).rounded_rectangle(box, radius=height * 2, fill=(12, 16, 24, 178))
        return _plate(image.resize((width, height), Image.Resampling.LANCZOS))

    def draw(self, pixels: Pixels, levels: Plane, number: int) -> None:
        left, top = self._corner
        _lay(pixels, self._strip, left, top)
        height, width = self._strip.shape[:2]
        region = pixels[top : top + height, left : left + width]
        _tint(region, self._bars(levels, number), BAR_COLOUR)
        opening = self._half * (0.12 + 0.6 * float(levels[number]))
        _tint(region, self._ellipse(self._mouth_width, opening), LIP_COLOUR)
        _tint(region, self._ellipse(self._mouth_width * 0.74, opening - self._half * 0.16), THROAT_COLOUR)

    def _bars(self, levels: Plane, number: int) -> Plane:
        """Coverage of the bars: the innermost shows this frame's level, each further one an earlier frame's."""
        ages = np.arange(BARS_EACH_SIDE)
        history = np.where(number >= ages, levels[np.maximum(number - ages, 0)], 0)
        fading = 1 - 0.5 * ages / BARS_EACH_SIDE
        reach = (self._half * 0.7 * history * fading)[self._bar][None, :]
        beyond = np.maximum(np.abs(self._y) - reach, 0)
        distance = np.hypot(self._bar_x[None, :], beyond)
        coverage: Plane = np.clip(self._bar_radius - distance + 0.5, 0, 1).astype(np.float32)
        return coverage

    def _ellipse(self, across: float, down: float) -> Plane:
        if down <= 0:
            return np.zeros_like(self._x)
        distance = np.hypot(self._x / across, self._y / down)
        coverage: Plane = np.clip((1 - distance) * min(across, down) + 0.5, 0, 1)
        return coverage


def _tint(region: Pixels, coverage: Plane, colour: tuple[int, int, int]) -> None:
    alpha = coverage[..., None]
    region[:] = (region * (1 - alpha) + np.asarray(colour, np.float32) * alpha).astype(np.uint8)


# A preview request on disk, so that any process of this machine can follow it, and restart what died.
#
# <state>/preview/<request_id>/
# request.json portrait voice     written by submit; the request exists once request.json does
# render.lock                     held by the renderer for life; a line per start
# renderer.pid                    whom to stop, if the lock is held
# progress.json                   how far it is
# cancelled | failure.json | video.mp4    how it ended
# <state>/preview/slots/<n>.lock      held by whoever renders: so many renders at a time, the rest wait
#
# Locks are `flock`s: they die with their holder, whatever kills it.
#: Starts after which a renderer that keeps dying is given up: the third death is not an accident.
MAX_STARTS = 3
LOG_TAIL = 400


@dataclass(frozen=True)
class PreviewRequest:
    """What to render. Lengths in pixels and frames per second."""

    request_id: str
    render_id: str
    max_side: int
    frame_rate: int


@dataclass(frozen=True)
class Progress:
    """Share done, 0 to 1, and the seconds it will still take."""

    share: float
    remaining: float


class Start(StrEnum):
    RUNNING = "running"  #: a renderer is at it, started just now or before
    QUEUED = "queued"  #: every slot is taken
    HOPELESS = "hopeless"  #: it died too often


class PreviewFolder:
    """The files of one request."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.portrait = path / "portrait"
        self.voice = path / "voice"
        self.part = path / "video.part"
        self.video = path / "video.mp4"
        self._request = path / "request.json"
        self._lock = path / "render.lock"
        self._pid = path / "renderer.pid"
        self._progress = path / "progress.json"
        self._cancelled = path / "cancelled"
        self._failure = path / "failure.json"
        self._log = path / "render.log"

    def create(self, request: PreviewRequest) -> None:
        """Make the request real: its inputs are in the folder."""
        _write_json(self._request, asdict(request))

    def request(self) -> PreviewRequest:
        return PreviewRequest(**json.loads(self._request.read_text()))

    def exists(self) -> bool:
        return self._request.is_file()

    def is_cancelled(self) -> bool:
        return self._cancelled.exists()

    def failure(self) -> str | None:
        found = _read_json(self._failure)
        return str(found["message"]) if found else None

    def write_failure(self, message: str) -> None:
        _write_json(self._failure, {"message": message})

    def progress(self) -> Progress | None:
        found = _read_json(self._progress)
        return Progress(**found) if found else None

    def write_progress(self, progress: Progress) -> None:
        _write_json(self._progress, asdict(progress))

    def is_rendering(self) -> bool:
        held = try_lock(self._lock)
        if held is None:
            return True
        os.close(held)
        return False

    def start(self, slots: int) -> Start:
        """See to it that a renderer is at work, if one of `slots` is free. Any process may call it any time."""
        lock = try_lock(self._lock)
        if lock is None:
            return Start.RUNNING
        try:
            return self._start_locked(lock, slots)
        finally:
            os.close(lock)

    def _start_locked(self, lock: int, slots: int) -> Start:
        if self.video.exists() or self.is_cancelled():
            return Start.RUNNING
        if len(self._lock.read_text().splitlines()) >= MAX_STARTS:
            self.write_failure(f"the renderer died {MAX_STARTS} times; its last words: {self._last_words()}")
            return Start.HOPELESS
        slot = _free_slot(self.path.parent / "slots", slots)
        if slot is None:
            return Start.QUEUED
        try:
            self._pid.unlink(missing_ok=True)  # the number of a dead renderer may be anybody's by now
            os.write(lock, b"started\n")
            self._pid.write_text(str(self._spawn(lock, slot)))
        finally:
            os.close(slot)
        return Start.RUNNING

    def _spawn(self, *held: int) -> int:
        """Start the renderer, which inherits the locks, and reap it when it ends."""
        with self._log.open("wb") as log:
            process = subprocess.Popen(  # noqa: S603 - our own module
                [sys.executable, "-m", "avatar.media.preview", str(self.path)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment(),
                pass_fds=held,
                start_new_session=True,  # Ctrl-C stops the flow, which finds the render done when it resumes
            )
        threading.Thread(target=process.wait, name="preview-renderer", daemon=True).start()
        return process.pid

    def _last_words(self) -> str:
        try:
            return self._log.read_text(errors="replace")[-LOG_TAIL:].strip() or "none"
        except OSError:
            return "none"

    def cancel(self) -> bool:
        """Stop the render. True if one was at work; it also stops by itself when it sees the mark."""
        self._cancelled.touch()
        if not self.is_rendering():
            return False
        with contextlib.suppress(OSError, ValueError):
            os.kill(int(self._pid.read_text()), signal.SIGTERM)
        return True

    def discard_inputs(self) -> None:
        self.portrait.unlink(missing_ok=True)
        self.voice.unlink(missing_ok=True)

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)


def try_lock(path: Path) -> int | None:
    """An open descriptor that holds the file's lock until it and its heirs are closed; None if it is held."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def _free_slot(folder: Path, slots: int) -> int | None:
    folder.mkdir(exist_ok=True)
    held = (try_lock(folder / f"{number}.lock") for number in range(slots))
    return next((slot for slot in held if slot is not None), None)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    part = path.with_suffix(f".{os.getpid()}.part")
    part.write_text(json.dumps(content))
    part.replace(path)


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        return dict(json.loads(path.read_text()))
    except FileNotFoundError:
        return None


LEVEL_RATE = 16_000
REPORT_SECONDS = 0.1
#: In order of preference; a wheel of PyAV may come without the first.
VIDEO_CODECS = ("libx264", "libopenh264", "mpeg4")
#: How much a niced render yields to everything else on the machine.
NICENESS = 10
BT709 = 1
#: A minute takes ten seconds of them, and 10 MB.
BOUNDS = Bounds(cpu_seconds=3600, wall_seconds=7200, file_bytes=2**30)


class Stopped(Exception):
    """The request was cancelled."""


def render_preview(folder: PreviewFolder) -> None:
    """Render the request in the folder; `video.mp4` appears when it is whole."""
    request = folder.request()
    samples = read_mono(folder.voice, LEVEL_RATE)
    frames = max(1, round(len(samples) / LEVEL_RATE * request.frame_rate))
    levels = frame_levels(samples, LEVEL_RATE, request.frame_rate, frames)
    scene = Scene(folder.portrait, levels, frame_rate=request.frame_rate, max_side=request.max_side)
    with av.open(str(folder.part), "w", format="mp4", options={"movflags": "+faststart"}) as output:
        _encode(output, folder, scene, request, frames)
    folder.part.replace(folder.video)


def _encode(
    output: OutputContainer, folder: PreviewFolder, scene: Scene, request: PreviewRequest, frames: int
) -> None:
    video = _video_stream(output, scene.size, request.frame_rate)
    report = _Reporter(folder, frames)
    with open_sound(folder.voice) as sound:
        packets = _encoded(sound, _audio_stream(output, sound))
        heard = -1.0
        for number in range(frames):
            # Sound goes in just ahead of its picture: the file is interleaved, and plays while it loads.
            while heard <= number / request.frame_rate and (packet := next(packets, None)):
                heard = float((packet.pts or 0) * packet.time_base)
                output.mux(packet)
            output.mux(video.encode(_picture(scene.frame(number), number)))
            report(number + 1)
        output.mux(video.encode(None))
        for packet in packets:
            output.mux(packet)


def _video_stream(output: OutputContainer, size: tuple[int, int], frame_rate: int) -> VideoStream:
    codec = next(name for name in VIDEO_CODECS if name in av.codecs_available)
    options = {"preset": "veryfast", "crf": "23"} if codec == "libx264" else {}
    stream = output.add_stream(codec, rate=frame_rate, options=options)
    if not isinstance(stream, VideoStream):
        raise TypeError(f"{codec} is not a video codec")
    stream.width, stream.height = size
    stream.pix_fmt = "yuv420p"
    context = stream.codec_context
    context.gop_size = 2 * frame_rate
    context.color_range = ColorRange.MPEG
    context.colorspace = context.color_primaries = context.color_trc = BT709
    return stream


def _picture(pixels: Pixels, number: int) -> VideoFrame:
    frame = VideoFrame.from_ndarray(pixels, format="rgb24")
    frame = frame.reformat(
        format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG
    )
    frame.pts = number
    return frame


def _audio_stream(output: OutputContainer, sound: Sound) -> AudioStream:
    layout = "stereo" if sound.stream.channels > 1 else "mono"
    stream = output.add_stream("aac", rate=mp3_rate(sound.stream.rate), layout=layout, bit_rate=128_000)
    if not isinstance(stream, AudioStream):
        raise TypeError("aac is not an audio codec")
    return stream


def _encoded(sound: Sound, stream: AudioStream) -> Iterator["Packet[AudioStream]"]:
    for frame in resampled(sound, "fltp", stream.layout.name, stream.rate):
        yield from stream.encode(frame)
    yield from stream.encode(None)


class _Reporter:
    """Tells how far the render is, and stops it when it was cancelled."""

    def __init__(self, folder: PreviewFolder, frames: int) -> None:
        self._folder = folder
        self._frames = frames
        self._started = self._told = time.monotonic()

    def __call__(self, done: int) -> None:
        now = time.monotonic()
        if now - self._told < REPORT_SECONDS:
            return
        self._told = now
        if self._folder.is_cancelled():
            raise Stopped
        remaining = (now - self._started) / done * (self._frames - done)
        self._folder.write_progress(Progress(done / self._frames, remaining))


def main(arguments: list[str]) -> int:
    """Render the folder named on the command line. Exit status 1 if that failed for good."""
    folder = PreviewFolder(Path(arguments[0]))
    os.nice(NICENESS)
    confine()
    BOUNDS.apply()
    if folder.is_cancelled():
        return 0
    try:
        render_preview(folder)
    except Stopped:
        folder.part.unlink(missing_ok=True)
    except (AvatarError, FFmpegError, OSError, ValueError, MemoryError) as error:
        folder.write_failure(f"{type(error).__name__}: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

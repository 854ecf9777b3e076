"""Renders one preview: `python -m avatar.media.preview FOLDER`, a child process of the preview provider.

It is confined like all that decodes (`avatar.media.confined`). Reads `request.json`, the portrait and the voice in the folder; writes `progress.json` while it works, and at the
end `video.mp4` or `failure.json`.
"""

import contextlib
import fcntl
import json
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
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter
from av.video.stream import VideoStream

from avatar.errors import AvatarError
from avatar.media.decoder_limits import Bounds, confine, environment
from avatar.media.faces import Box
from avatar.media.preview_scene import Pixels, Scene, frame_levels
from avatar.media.sound import Sound, open_sound, read_mono, resampled
from avatar.media.voice import mp3_rate

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
    """What to render. Lengths in pixels and frames per second; where the face is, as shares of the portrait's sides."""

    request_id: str
    render_id: str
    max_side: int
    frame_rate: int
    face: Box | None = None


@dataclass(frozen=True)
class Progress:
    """Share done, 0 to 1, and the seconds it will still take."""

    share: float
    remaining: float


class StartResult(StrEnum):
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

    def start(self, slots: int) -> StartResult:
        """See to it that a renderer is at work, if one of `slots` is free. Any process may call it any time."""
        lock = try_lock(self._lock)
        if lock is None:
            return StartResult.RUNNING
        try:
            return self._start_locked(lock, slots)
        finally:
            os.close(lock)

    def _start_locked(self, lock: int, slots: int) -> StartResult:
        if self.video.exists() or self.is_cancelled():
            return StartResult.RUNNING
        if len(self._lock.read_text().splitlines()) >= MAX_STARTS:
            self.write_failure(f"the renderer died {MAX_STARTS} times; its last words: {self._last_words()}")
            return StartResult.HOPELESS
        slot = _free_slot(self.path.parent / "slots", slots)
        if slot is None:
            return StartResult.QUEUED
        try:
            self._pid.unlink(missing_ok=True)  # the number of a dead renderer may be anybody's by now
            os.write(lock, b"started\n")
            self._pid.write_text(str(self._spawn(lock, slot)))
        finally:
            os.close(slot)
        return StartResult.RUNNING

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
    scene = Scene(
        folder.portrait,
        levels,
        frame_rate=request.frame_rate,
        max_side=request.max_side,
        face=request.face,
    )
    with av.open(str(folder.part), "w", format="mp4", options={"movflags": "+faststart"}) as output:
        _encode(output, folder, scene, request, frames)
    folder.part.replace(folder.video)


def _encode(
    output: OutputContainer, folder: PreviewFolder, scene: Scene, request: PreviewRequest, frames: int
) -> None:
    video = _video_stream(output, scene.size, request.frame_rate)
    report, scaler = _Reporter(folder, frames), VideoReformatter()
    with open_sound(folder.voice) as sound:
        packets = _encoded(sound, _audio_stream(output, sound))
        heard = -1.0
        for number in range(frames):
            # Sound goes in just ahead of its picture: the file is interleaved, and plays while it loads.
            while heard <= number / request.frame_rate and (packet := next(packets, None)):
                heard = float((packet.pts or 0) * packet.time_base)
                output.mux(packet)
            output.mux(video.encode(_picture(scene.frame(number), number, scaler)))
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


def _picture(pixels: Pixels, number: int, scaler: VideoReformatter) -> VideoFrame:
    frame = VideoFrame.from_ndarray(pixels, format="rgb24")
    frame = scaler.reformat(
        frame, format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG
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

"""Renders one preview: `python -m avatar.media.preview_render FOLDER`, a child process of the preview provider.

It is confined like all that decodes (`avatar.media.confined`). Reads `request.json`, the portrait and the voice in the
folder; writes `progress.json` while it works, and at the end `video.mp4` or `failure.json`.
"""

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import av
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter
from av.video.stream import VideoStream

from avatar.errors import AvatarError
from avatar.media.decoder_limits import Bounds, confine
from avatar.media.preview_request import PreviewFolder, PreviewRequest, Progress
from avatar.media.preview_scene import Pixels, Scene, frame_levels
from avatar.media.sound import Sound, open_sound, read_mono, resampled
from avatar.media.voice import mp3_rate

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

"""The picture of a video file as it lies there: its packets, and what another picture must match to join it."""

from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

from av.container import InputContainer
from av.error import FFmpegError
from av.video.stream import VideoStream

from tasks.errors import VideoRejected
from tasks.media.avc import is_usual
from tasks.media.sound import open_media, reason

#: What every browser plays inside H.264.
PLAIN_PIXELS = ("yuv420p", "yuvj420p")
#: Frames per second for a picture that does not tell its own.
USUAL_RATE = Fraction(25)


@dataclass(frozen=True)
class Track:
    """The picture of a part as it lies in its file.

    Attributes:
        times: when each packet is shown, in the file's order, seconds from the beginning of the part.
        seconds: when the last frame ends.
        whole: whether its packets make a picture without anything before or beside them.
    """

    path: Path
    codec: str
    pixels: str
    size: tuple[int, int]
    rate: Fraction
    extradata: bytes
    times: list[Fraction] = field(repr=False)
    seconds: Fraction
    whole: bool

    @property
    def kind(self) -> tuple[str, str, tuple[int, int], bytes]:
        """What two pictures must have in common to share a track."""
        return self.codec, self.pixels, self.size, self.extradata

    @property
    def is_plain(self) -> bool:
        """Whether browsers play it."""
        return self.codec == "h264" and self.pixels in PLAIN_PIXELS and is_usual(self.extradata)


class _Packet(NamedTuple):
    """When a packet is shown, in ticks of its stream; whether it begins a picture; whether it is left out."""

    pts: int | None
    is_keyframe: bool
    is_discard: bool


def scan_track(path: Path) -> Track:
    """Read when each packet is shown, without decoding.

    Raises:
        VideoRejected: not a video, or without picture.
    """
    try:
        with open_media(path) as container:
            stream = picture_of(container, path)
            # Not the packets themselves, which would hold the whole file in memory.
            packets = [
                _Packet(packet.pts, packet.is_keyframe, packet.is_discard)
                for packet in container.demux(stream)
                if packet.size
            ]
            return _describe(path, stream, packets, _origin(container))
    except (FFmpegError, OSError) as error:
        raise VideoRejected(f"{path.name} cannot be read as a video: {reason(error)}.") from error


def picture_of(container: InputContainer, path: Path) -> VideoStream:
    stream = container.streams.best("video")
    if not isinstance(stream, VideoStream):
        raise VideoRejected(f"{path.name} has no picture in it.")
    return stream


def _origin(container: InputContainer) -> Fraction:
    """When the file begins: whichever of picture and sound comes first."""
    streams = [*container.streams.video, *container.streams.audio]
    starts = [(stream.start_time or 0) * (stream.time_base or Fraction(0)) for stream in streams]
    return min(starts, default=Fraction(0))


def _describe(path: Path, stream: VideoStream, packets: list[_Packet], origin: Fraction) -> Track:
    context, rate = stream.codec_context, stream.average_rate or USUAL_RATE
    timed = bool(packets) and all(packet.pts is not None for packet in packets)
    tick = stream.time_base or Fraction(1, 1000)
    times = [(packet.pts or 0) * tick - origin for packet in packets]
    return Track(
        path=path,
        codec=context.codec.canonical_name,
        pixels=context.pix_fmt or "",
        size=(stream.width, stream.height),
        rate=Fraction(rate),
        extradata=bytes(context.extradata or b""),
        times=times,
        seconds=max(times, default=Fraction(0)) + 1 / Fraction(rate),
        # An edit list that begins inside a group of pictures leaves packets that are decoded but not shown.
        whole=timed and packets[0].is_keyframe and not any(packet.is_discard for packet in packets),
    )

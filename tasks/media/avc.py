"""H.264's parameter sets, and pictures re-encoded so that one MP4 track can hold them."""

import errno
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
from av.error import FFmpegError
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from tasks.errors import VideoRejected
from tasks.media.sound import open_media, reason

#: An avcC record (ISO/IEC 14496-15, 5.3.3.1): version, profile, compatibility, level, length size, sets.
AVCC_VERSION, LEVEL_BYTE, LENGTH_SIZE_BYTE, COUNT_MASK = 1, 3, 4, 0x1F
#: The length size of a unit, less one, in the two low bits.
FOUR_BYTES = 3
#: Where the exp-Golomb id begins in a unit: after its type, and in an SPS after profile and level.
SPS_ID_BYTE, PPS_ID_BYTE = 4, 1


@dataclass(frozen=True)
class ParameterSets:
    """The sequence and picture parameter sets of an H.264 track."""

    head: bytes
    sps: tuple[bytes, ...]
    pps: tuple[bytes, ...]
    rest: bytes = b""

    @classmethod
    def read(cls, avcc: bytes) -> "ParameterSets":
        """Read an avcC record.

        Raises:
            ValueError: it is not one.
        """
        if not avcc or avcc[0] != AVCC_VERSION:
            raise ValueError("not an avcC record")
        sps, at = _units(avcc, 5, COUNT_MASK)
        pps, at = _units(avcc, at, 0xFF)
        return cls(avcc[:5], sps, pps, avcc[at:])

    def write(self) -> bytes:
        sps = bytes([0xE0 | len(self.sps)]) + b"".join(len(unit).to_bytes(2) + unit for unit in self.sps)
        pps = bytes([len(self.pps)]) + b"".join(len(unit).to_bytes(2) + unit for unit in self.pps)
        return self.head + sps + pps + self.rest

    @property
    def ids(self) -> set[int]:
        """Every id in use."""
        found = {_exp_golomb(unit, SPS_ID_BYTE) for unit in self.sps}
        return found | {_exp_golomb(unit, PPS_ID_BYTE) for unit in self.pps}

    def joined(self, other: "ParameterSets") -> "ParameterSets":
        """Both in one record, the level being the higher of the two. Their ids must differ."""
        head = bytearray(self.head)
        head[LEVEL_BYTE] = max(head[LEVEL_BYTE], other.head[LEVEL_BYTE])
        return ParameterSets(bytes(head), self.sps + other.sps, self.pps + other.pps, self.rest)


def is_usual(extradata: bytes) -> bool:
    """Whether it is an avcC record of units whose lengths take four bytes, as every writer makes them."""
    head = extradata[: LENGTH_SIZE_BYTE + 1]
    return len(head) > LENGTH_SIZE_BYTE and head[0] == AVCC_VERSION and head[-1] & FOUR_BYTES == FOUR_BYTES


def _units(avcc: bytes, at: int, mask: int) -> tuple[tuple[bytes, ...], int]:
    count, at, units = avcc[at] & mask, at + 1, []
    for _ in range(count):
        size = int.from_bytes(avcc[at : at + 2])
        units.append(avcc[at + 2 : at + 2 + size])
        at += 2 + size
    return tuple(units), at


def _exp_golomb(unit: bytes, start: int) -> int:
    bits = "".join(f"{byte:08b}" for byte in unit[start : start + 8])
    zeros = bits.index("1")
    return int(bits[zeros : 2 * zeros + 1], 2) - 1


def encode_picture(
    source: Path, target: Path, *, size: tuple[int, int], rate: Fraction, set_id: int, seconds: Fraction
) -> None:
    """Re-encode the picture of a video as H.264 without B-frames, an MP4 without sound.

    Args:
        source: the video.
        target: where to write.
        size: width and height in pixels.
        rate: frames per second.
        set_id: the id its parameter sets get.
        seconds: how much of it.

    Raises:
        VideoRejected: it does not decode.
    """
    try:
        with open_media(source) as container, av.open(str(target), "w", format="mp4") as output:
            stream = _add_stream(output.add_stream("libx264", rate=rate), size, set_id)
            for number, frame in enumerate(_at_rate(container.decode(video=0), rate)):
                if number >= seconds * rate:
                    break
                ready = frame.reformat(width=size[0], height=size[1], format="yuv420p")
                ready.pts, ready.time_base = number, 1 / rate
                output.mux(stream.encode(ready))
            output.mux(stream.encode(None))
    except (FFmpegError, OSError, IndexError) as error:
        if getattr(error, "errno", None) == errno.ENOSPC:
            raise
        raise VideoRejected(f"{source.name} does not decode as a video: {reason(error)}.") from error


def _add_stream(stream: object, size: tuple[int, int], set_id: int) -> VideoStream:
    if not isinstance(stream, VideoStream):
        raise TypeError("libx264 is not a video codec")
    stream.width, stream.height = size
    stream.pix_fmt = "yuv420p"
    stream.options = {
        "preset": "veryfast", "crf": "18", "bf": "0", "x264-params": f"sps-id={set_id}",
    }  # fmt: skip
    return stream


def _at_rate(frames: Iterator[VideoFrame], rate: Fraction) -> Iterator[VideoFrame]:
    """At each tick of `rate` the frame that is on show then, from the first frame on."""
    shown, ticks, start = None, 0, 0.0
    for frame in frames:
        if shown is None:
            shown, start = frame, frame.time or 0.0
        while ticks / rate < (frame.time or 0.0) - start - 1e-4:
            yield shown
            ticks += 1
        shown = frame
    if shown is not None:
        yield shown

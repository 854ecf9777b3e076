"""Videos from the provider.

The text goes on with where the file is
kept: nothing that was paid for is thrown away, published unseen, or bought again.
"""

import struct
from collections.abc import Callable
from pathlib import Path

import av

from tests.cases import FileCase
from tests.media.recordings import EXAMPLES, write_video


def content(data: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(data)


def altered(change: Callable[[bytes], bytes], **options) -> Callable[[Path], object]:
    def write(path: Path) -> None:
        write_video(path, **options)
        path.write_bytes(change(path.read_bytes()))

    return write


def beginning(share: float) -> Callable[[bytes], bytes]:
    return lambda data: data[: int(len(data) * share)]


def first_pictures(number: int) -> Callable[[Path], object]:
    """The beginning, to the end of a picture: what is lost is lost whole."""

    def write(path: Path) -> None:
        write_video(path, seconds=4)
        with av.open(str(path)) as container:
            ends = [packet.pos + packet.size for packet in container.demux(video=0) if packet.size]
        path.write_bytes(path.read_bytes()[: ends[number - 1]])

    return write


def box(name: bytes, offset: int, new: bytes) -> Callable[[bytes], bytes]:
    """Other bytes in a box, counted from its name."""

    def change(data: bytes) -> bytes:
        place = data.index(name) + offset
        return data[:place] + new + data[place + len(new) :]

    return change


def scrambled(data: bytes) -> bytes:
    """The pictures overwritten, the index whole."""
    start = data.index(b"mdat") + 4
    return data[:start] + bytes(len(data) - start)


CASES = [
    FileCase("no bytes at all", "video.mp4 does not decode as a video: Invalid data found when processing input.", "video.mp4", content(b"")),
    FileCase("a web page", "video.mp4 does not decode as a video: Invalid data found when processing input.", "video.mp4", content(b"<html><body>Not found</body></html>")),
    FileCase("JSON", "video.mp4 does not decode as a video: Invalid data found when processing input.", "video.mp4", content(b'{"detail": "expired"}')),
    FileCase("sound alone", "video.mp4 has no picture in it.", "video.mp4", lambda path: path.write_bytes((EXAMPLES / "speech.mp3").read_bytes())),
    FileCase("a playlist of other addresses", "video.mp4 does not decode as a video: Invalid data found when processing input.", "video.mp4", content(b"#EXTM3U\n#EXTINF:3,\nhttp://169.254.169.254/latest\n")),
    FileCase("the first 60 of 100 pictures, its index in front", "video.mp4 is cut short: 60 of 100 frames decode.", "video.mp4", first_pictures(60)),
    FileCase("the first 70 %, its index behind", "video.mp4 does not decode as a video: Invalid data found when processing input.", "video.mp4", altered(beginning(0.7), seconds=4, faststart=False)),
    FileCase("its pictures overwritten", "video.mp4 does not decode as a video: Invalid data found when processing input.", "video.mp4", altered(scrambled)),
    FileCase("no picture stored", "video.mp4: not one frame of its picture could be decoded.", "video.mp4", altered(box(b"stsz", 4, struct.pack(">III", 0, 0, 0)))),
    FileCase("an index of 4 billion entries", "video.mp4 does not decode as a video: Invalid data found when processing input.", "video.mp4", altered(box(b"stsz", 12, b"\xff\xff\xff\xff"))),
    FileCase("pictures that claim 65,535 pixels a side", "accepted", "video.mp4", altered(box(b"avc1", 28, b"\xff\xff\xff\xff"))),
    FileCase("a frame rate of 4 GHz", "video.mp4 is cut short: 1 of 50 frames decode.", "video.mp4", altered(box(b"mdhd", 16, b"\xff\xff\xff\xff"))),
]  # fmt: skip

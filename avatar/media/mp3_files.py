"""MP3 files frame by frame, and the frames of AAC (ADTS), which need no header before them either."""

import re
from dataclasses import dataclass, field
from pathlib import Path

from avatar.media.file_ranges import Data, FileRange, open_mapped

__all__ = [
    "Mp3",
    "adts_follow",
    "bare_frames_follow",
    "frames_follow",
    "mp3_begins",
    "past_tags",
    "read_mp3",
    "split_mp3",
]

# MPEG audio layer III, frame by frame (ISO/IEC 11172-3, 2.4.2.3).
RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}
KBITS = {
    True: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    False: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
MPEG1, LAYER3, MONO = 3, 1, 3
SYNC = re.compile(rb"\xff[\xe2\xe3\xf2\xf3\xfa\xfb]")
MP3_BEGINS = re.compile(rb"ID3[\x02-\x04]\0|" + SYNC.pattern)
#: Longest stretch that is searched for the next frame.
LOST_BYTES = 2**20
#: What may stand behind the last frame: tags, or the beginning of a frame that was cut off.
TAGS_BEHIND, LEFT_OVER = (b"TAG", b"APETAGEX", b"LYRICSBE"), 2048
OTHER_LAYER = re.compile(rb"\xff[\xe4-\xe7\xf4-\xf7\xfc-\xff]")


@dataclass
class Mp3:
    """What an MP3 is made of.

    Attributes:
        pieces: where each of the files that were glued together begins and ends, tags left out.
        first, last: where its frames begin and end.
        is_unbroken: whether frame follows frame, of one form, with nothing between.
        is_bare: whether there is nothing before and after them but tags.
        frames: how many there are.
        counted: how many its index tells of; none if it has no index.
    """

    pieces: list[FileRange] = field(default_factory=list)
    first: int = 0
    last: int = 0
    is_unbroken: bool = True
    is_bare: bool = True
    frames: int = 0
    counted: int | None = None

    @property
    def is_true(self) -> bool:
        """Whether its index, if it has one, counts the frames that are there. Some writers count the index, too."""
        return self.counted is None or abs(self.counted - self.frames) <= 1

    @property
    def is_index_short(self) -> bool:
        return self.counted is not None and self.counted < self.frames - 1


def read_mp3(path: Path) -> Mp3 | None:
    """The parts of an MP3; None if not one frame is found, or it is of another layer."""
    with open_mapped(path) as data:
        return split_mp3(data)


def split_mp3(data: Data) -> Mp3 | None:
    """As `read_mp3`, of what is at hand."""
    return _Walk(data).walk()


class _Walk:
    """From frame to frame through an MP3."""

    def __init__(self, data: Data) -> None:
        self._data = data
        self._mp3 = Mp3()
        self._form: tuple[int, int, bool] | None = None
        self._begins: list[int] = []
        self._ends: list[int] = []

    def walk(self) -> Mp3 | None:
        at = past_tags(self._data, 0)
        if OTHER_LAYER.match(self._data, at):
            return None
        while True:
            frame = frame_at(self._data, at)
            if frame is None:
                at = self._next(at)
                if at < 0:
                    break
                continue
            self._see(at, *frame)
            at += frame[0]
        return self._finished() if self._begins else None

    def _next(self, at: int) -> int:
        """Where frames go on after something that is none; -1 at the end."""
        beyond = past_tags(self._data, at)
        if beyond != at and frame_at(self._data, beyond):
            self._begin(beyond)
            return beyond
        tagged = self._data[at : at + 8].startswith(TAGS_BEHIND)
        for start in (found.start() for found in SYNC.finditer(self._data, at, at + LOST_BYTES)):
            if frames_follow(self._data, start, 2):
                self._mp3.is_unbroken = self._mp3.is_unbroken and not self._begins
                if tagged:
                    self._begin(start)
                return start
        return -1

    def _see(self, at: int, size: int, form: tuple[int, int, bool]) -> None:
        head = self._data[at : at + min(size, 64)]
        index = next((spot for mark in (b"Xing", b"Info", b"VBRI") if (spot := head.find(mark)) > 0), None)
        if index is not None or self._form not in (None, form) or not self._begins:
            self._begin(at)
        self._mp3.is_unbroken = self._mp3.is_unbroken and self._form in (None, form)
        if index is None:
            self._mp3.frames += 1
        elif len(self._begins) == 1:
            self._mp3.counted = _frames_told(head, index, self._data[at : at + 64 + index])
        # A frame that holds an index may have a form of its own.
        self._form = form if index is None else None
        self._mp3.last = at + size

    def _begin(self, at: int) -> None:
        if not self._begins or self._begins[-1] != at:
            self._ends += [self._mp3.last] if self._begins else []
            self._begins.append(at)

    def _finished(self) -> Mp3:
        mp3, begins = self._mp3, self._begins
        mp3.first = begins[0]
        mp3.pieces = [
            FileRange(one, other) for one, other in zip(begins, [*self._ends, mp3.last], strict=True)
        ]
        rest = self._data[mp3.last : mp3.last + 8]
        mp3.is_bare = past_tags(self._data, 0) == mp3.first
        mp3.is_bare &= len(self._data) - mp3.last < LEFT_OVER or rest.startswith(TAGS_BEHIND)
        return mp3


def _frames_told(head: bytes, index: int, whole: bytes) -> int | None:
    if head[index : index + 4] == b"VBRI":
        return int.from_bytes(whole[index + 14 : index + 18])
    flags = int.from_bytes(whole[index + 4 : index + 8])
    return int.from_bytes(whole[index + 8 : index + 12]) if flags & 1 else None


def frame_at(data: Data, at: int) -> tuple[int, tuple[int, int, bool]] | None:
    """Bytes of the frame that begins here, and its version, rate (Hz) and whether it is mono; None if none does."""
    head = data[at : at + 4]
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:  # noqa: PLR2004 - sync
        return None
    version, layer = head[1] >> 3 & 3, head[1] >> 1 & 3
    kbits, rate = head[2] >> 4, head[2] >> 2 & 3
    if version not in RATES or layer != LAYER3 or kbits in (0, 15) or rate == 3:  # noqa: PLR2004 - reserved
        return None
    hertz = RATES[version][rate]
    per_frame = 144 if version == MPEG1 else 72
    size = per_frame * KBITS[version == MPEG1][kbits] * 1000 // hertz + (head[2] >> 1 & 1)
    return size, (version, hertz, head[3] >> 6 == MONO)


def mp3_begins(head: bytes) -> int:
    """Where three frames of an MP3 follow one another, or a tag of one begins; -1 if nowhere."""
    begins = (found.start() for found in MP3_BEGINS.finditer(head))
    return next((at for at in begins if head[at : at + 3] == b"ID3" or frames_follow(head, at, 3)), -1)


def frames_follow(data: Data, at: int, many: int) -> bool:
    """Whether so many frames follow one another from here on."""
    for _ in range(many):
        if (frame := frame_at(data, at)) is None:
            return False
        at += frame[0]
    return True


def bare_frames_follow(data: Data, at: int) -> bool:
    """Whether frames without a header before them begin here: of MP3, or of AAC (ADTS, ISO/IEC 13818-7, 6.2)."""
    return frames_follow(data, at, 3) or adts_follow(data, at, 3)


def adts_follow(data: Data, at: int, many: int) -> bool:
    for _ in range(many):
        head = data[at : at + 7]
        if len(head) < 7 or head[0] != 0xFF or head[1] & 0xF6 != 0xF0:  # noqa: PLR2004 - its header, its sync
            return False
        size = (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5
        if size <= 7:  # noqa: PLR2004 - its header
            return False
        at += size
    return True


def past_tags(data: Data, at: int) -> int:
    """Where the ID3 tags that begin here end; here, if none does."""
    while data[at : at + 3] == b"ID3":
        packed = data[at + 6 : at + 10]
        size = sum((byte & 0x7F) << 7 * (3 - place) for place, byte in enumerate(packed))
        at += 10 + size + 10 * bool(data[at + 5] & 0x10)
    return at

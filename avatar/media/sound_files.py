"""WAV, MP3 and other sound files, part by part: what is in them, and whether their headers tell the truth.

Speech services glue their pieces together as they come: file after file, each with its header, or `data` after
`data`. Decoders read the first, or hear the other headers as clicks. What streams writes a placeholder for its length.
"""

import io
import mmap
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from avatar.media.ogg_files import forms_begin

__all__ = ["FileRange", "Mp3", "RangeReader", "Wav", "mp3_begins", "read_mp3", "read_wav", "split_files"]

#: Bytes of a WAV's sizes from which they are no claim, but what is written where the length is not known yet.
PLACEHOLDER = 2**30
PCM, EXTENSIBLE, RIFF_HEAD = 1, 0xFFFE, 12
INNER_WAV = re.compile(rb"RIFF....WAVEfmt ", re.DOTALL)
#: Where another file of the same kind begins inside one, by FFmpeg's name of the kind.
BEGINNINGS = {
    "flac": re.compile(rb"fLaC[\x00\x80]\x00\x00\x22"),
    "matroska": re.compile(rb"\x1aE\xdf\xa3[\x80-\xff\x01\x10-\x7f].{0,64}?\x42\x82", re.DOTALL),
    "aiff": re.compile(rb"FORM....AIF[FC]", re.DOTALL),
}

Data = bytes | mmap.mmap


@dataclass(frozen=True)
class FileRange:
    """A part of a file that can be decoded by itself: from `start` to before `end`, behind a header of our own."""

    start: int
    end: int
    head: bytes = b""


class RangeReader(io.RawIOBase):
    """A piece as a file to read."""

    def __init__(self, path: Path, piece: FileRange) -> None:
        self._file = path.open("rb")
        self._piece, self._at = piece, 0
        self._size = len(piece.head) + piece.end - piece.start

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        head = self._piece.head
        if self._at < len(head):
            found = head[self._at : self._at + len(buffer)]
        else:
            self._file.seek(self._piece.start + self._at - len(head))
            found = self._file.read(max(0, min(len(buffer), self._size - self._at)))
        buffer[: len(found)] = found
        self._at += len(found)
        return len(found)

    def close(self) -> None:
        self._file.close()
        super().close()


@contextmanager
def open_mapped(path: Path) -> Iterator[Data]:
    with path.open("rb") as file:
        if not path.stat().st_size:
            yield b""
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            yield data


@dataclass
class Wav:
    """What a WAV is made of.

    Attributes:
        pieces: what of it is sound, in order, each behind a true header.
        is_true: whether its headers are, so that every reader sees the same.
        is_whole: whether a reader of its first header comes to its end, and over no other header.
        announced: bytes its header claims, itself included; 0 if it claims nothing.
        size: bytes it has.
        told: the size as it stands in the header.
    """

    pieces: list[FileRange] = field(default_factory=list)
    is_true: bool = True
    is_whole: bool = True
    announced: int = 0
    size: int = 0
    told: int = 0

    @property
    def is_long_placeholder(self) -> bool:
        """Whether its length is a placeholder that readers take for a claim: not the highest there is."""
        return PLACEHOLDER <= self.told < 0x7FFF_0000  # noqa: PLR2004


def read_wav(path: Path) -> Wav | None:
    """The parts of a WAV; None for RF64 and what does not begin as a WAV."""
    with open_mapped(path) as data:
        if data[:4] != b"RIFF" or data[8:12] != b"WAVE":
            return None
        told, size = int.from_bytes(data[4:8], "little"), len(data)
        wav = Wav(size=size, told=told, announced=told + 8 if 0 < told < PLACEHOLDER else 0)
        wav.is_true = size - 1 <= told + 8 <= size
        form, at = b"", RIFF_HEAD
        while at + 8 <= size:
            kind, claimed = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
            start = at + 8
            if kind == b"RIFF" and data[start : start + 4] == b"WAVE":
                at, wav.is_true, wav.is_whole = start + 4, False, False
                continue
            if kind == b"fmt ":
                form = bytes(data[start : start + claimed])
                wav.is_true = wav.is_true and _is_consistent(form)
            if kind != b"data" or len(form) < 16:  # noqa: PLR2004 - the shortest there is
                at = start + claimed + claimed % 2
                continue
            at = _read_data(wav, data, form, start, claimed)
        return wav if wav.pieces else None


def _read_data(wav: Wav, data: Data, form: bytes, start: int, claimed: int) -> int:
    """Add a `data` chunk to the pieces; where to go on."""
    end = start + claimed
    unknown = claimed == 0 or end > len(data)
    if unknown or not _goes_on(data, end):
        # Readers that believe the header stop where it says; those that do not, go on to the end.
        wav.is_true, wav.is_whole = False, wav.is_whole and (unknown or end >= len(data))
        inner = INNER_WAV.search(data, start)
        end = inner.start() if inner else len(data)
        wav.is_whole = wav.is_whole and not inner
    if wav.pieces:
        wav.is_true = wav.is_whole = False
    wav.pieces.append(FileRange(start, end, wav_header(form, end - start)))
    return end + (end - start) % 2 * (not unknown)


def _goes_on(data: Data, end: int) -> bool:
    """Whether a file ends here, or another chunk begins."""
    for at in {end, end + end % 2}:
        name, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        if at >= len(data) - 1 or (len(name) == 4 and all(32 <= byte < 127 for byte in name)):  # noqa: PLR2004 - printable
            return at >= len(data) - 1 or size <= len(data) or name in (b"RIFF", b"data")
    return not any(data[end : end + 4096]) and len(data) - end < 4096  # noqa: PLR2004 - padding of a writer


def _is_consistent(form: bytes) -> bool:
    if len(form) < 16:  # noqa: PLR2004
        return False
    tag, channels, rate, per_second, block, bits = struct.unpack("<HHIIHH", form[:16])
    return tag not in (PCM, EXTENSIBLE) or (block == channels * bits // 8 and per_second == rate * block)


def wav_header(form: bytes, size: int) -> bytes:
    """The header of a WAV of `size` bytes of sound; plain PCM is described anew, anything else as it was."""
    tag, channels, rate, _, _, bits = struct.unpack("<HHIIHH", form[:16])
    if tag == PCM:
        form = struct.pack(
            "<HHIIHH", PCM, channels, rate, rate * channels * bits // 8, channels * bits // 8, bits
        )
    form += b"\0" * (len(form) % 2)
    total = min(4 + 8 + len(form) + 8 + size, 2**32 - 1)
    parts = (b"RIFF", struct.pack("<I", total), b"WAVEfmt ", struct.pack("<I", len(form)), form, b"data")
    return b"".join(parts) + struct.pack("<I", min(size, 2**32 - 1))


# MPEG audio layer III, frame by frame (ISO/IEC 11172-3, 2.4.2.3).
RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}
KBITS = {
    True: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    False: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
MPEG1, LAYER3, MONO = 3, 1, 3
#: Longest stretch that is searched for the next frame.
LOST_BYTES = 2**20
#: What may stand behind the last frame: tags, or the beginning of a frame that was cut off.
TAGS_BEHIND, LEFT_OVER = (b"TAG", b"APETAGEX", b"LYRICSBE"), 2048
SYNC = re.compile(rb"\xff[\xe2\xe3\xf2\xf3\xfa\xfb]")
MP3_BEGINS = re.compile(rb"ID3[\x02-\x04]\0|" + SYNC.pattern)
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
        at = self._past_tags(0)
        if OTHER_LAYER.match(self._data, at):
            return None
        while True:
            frame = _frame_at(self._data, at)
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
        beyond = self._past_tags(at)
        if beyond != at and _frame_at(self._data, beyond):
            self._begin(beyond)
            return beyond
        tagged = self._data[at : at + 8].startswith(TAGS_BEHIND)
        for start in (found.start() for found in SYNC.finditer(self._data, at, at + LOST_BYTES)):
            if _follow(self._data, start, 2):
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

    def _past_tags(self, at: int) -> int:
        while self._data[at : at + 3] == b"ID3":
            packed = self._data[at + 6 : at + 10]
            size = sum((byte & 0x7F) << 7 * (3 - place) for place, byte in enumerate(packed))
            at += 10 + size + 10 * bool(self._data[at + 5] & 0x10)
        return at

    def _finished(self) -> Mp3:
        mp3, begins = self._mp3, self._begins
        mp3.first = begins[0]
        mp3.pieces = [
            FileRange(one, other) for one, other in zip(begins, [*self._ends, mp3.last], strict=True)
        ]
        rest = self._data[mp3.last : mp3.last + 8]
        mp3.is_bare = self._past_tags(0) == mp3.first
        mp3.is_bare &= len(self._data) - mp3.last < LEFT_OVER or rest.startswith(TAGS_BEHIND)
        return mp3


def _frames_told(head: bytes, index: int, whole: bytes) -> int | None:
    if head[index : index + 4] == b"VBRI":
        return int.from_bytes(whole[index + 14 : index + 18])
    flags = int.from_bytes(whole[index + 4 : index + 8])
    return int.from_bytes(whole[index + 8 : index + 12]) if flags & 1 else None


def _frame_at(data: Data, at: int) -> tuple[int, tuple[int, int, bool]] | None:
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
    return next((at for at in begins if head[at : at + 3] == b"ID3" or _follow(head, at, 3)), -1)


def _follow(data: Data, at: int, many: int) -> bool:
    """Whether so many frames follow one another from here on."""
    for _ in range(many):
        if (frame := _frame_at(data, at)) is None:
            return False
        at += frame[0]
    return True


def split_files(path: Path, kind: str) -> list[FileRange]:
    """The files that were glued together in one, in order; of one that was not, the one. `kind` is FFmpeg's name.

    Ogg is made to be glued so, and is one piece however many are in it, unless they differ in form.
    """
    whole = [FileRange(0, path.stat().st_size)]
    if kind == "wav":
        return wav.pieces if (wav := read_wav(path)) and not wav.is_whole else whole
    if kind == "mp3":
        return mp3.pieces if (mp3 := read_mp3(path)) and len(mp3.pieces) > 1 else whole
    with open_mapped(path) as data:
        finders = {"mp4": _boxes_begin, "ogg": forms_begin}
        marks = BEGINNINGS[kind].finditer(data) if kind in BEGINNINGS else ()
        begins = finders[kind](data) if kind in finders else [mark.start() for mark in marks]
        if len(begins) < 2 or begins[0] != 0:  # noqa: PLR2004 - one file
            return whole
        return [FileRange(one, other) for one, other in zip(begins, [*begins[1:], len(data)], strict=True)]


def _boxes_begin(data: Data) -> list[int]:
    """Where the MP4s begin: each `ftyp` after which there is a `moov` of its own."""
    begins: list[int] = []
    at, has_index = 0, False
    while at + 8 <= len(data):
        size, kind = struct.unpack(">I4s", data[at : at + 8])
        size = int.from_bytes(data[at + 8 : at + 16]) if size == 1 else size
        if size < 8:  # noqa: PLR2004 - to the end, or damaged
            break
        if kind == b"ftyp" and (has_index or not begins):
            begins.append(at)
            has_index = False
        has_index = has_index or kind == b"moov"
        at += size
    if len(begins) > 1 and not has_index:
        begins.pop()
    return begins

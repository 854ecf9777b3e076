"""WAV and other sound files, part by part: what is in them, and whether their headers tell the truth.

Speech services glue their pieces together as they come: file after file, each with its header, or `data` after
`data`; those of two services also kind after kind. Decoders read the first, or hear the other headers as clicks. What
streams writes a placeholder for its length.
"""

import mmap
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path

from avatar.media.file_ranges import Data, FileRange, open_mapped
from avatar.media.mp3_files import adts_follow, bare_frames_follow, frames_follow, past_tags, split_mp3

__all__ = ["Wav", "read_wav", "split_files"]

#: Bytes of a WAV's sizes from which they are no claim, but what is written where the length is not known yet.
PLACEHOLDER = 2**30
PCM, EXTENSIBLE, RIFF_HEAD = 1, 0xFFFE, 12
#: How a file begins, by FFmpeg's name of its kind, and which bytes of that are searched for, how far from its first.
BEGINNINGS = {
    "wav": (re.compile(rb"RIFF....WAVEfmt ", re.DOTALL), b"WAVEfmt ", 8),
    "flac": (re.compile(rb"fLaC[\x00\x80]\x00\x00\x22"), b"fLaC", 0),
    "matroska": (
        re.compile(rb"\x1aE\xdf\xa3[\x80-\xff\x01\x10-\x7f].{0,64}?\x42\x82", re.DOTALL),
        b"\x1aE\xdf\xa3",
        0,
    ),
    "aiff": (re.compile(rb"FORM....AIF[FC]", re.DOTALL), b"AIF", 8),
    "ogg": (re.compile(rb"OggS\x00\x02"), b"OggS\x00\x02", 0),
    "mp4": (re.compile(rb"\x00\x00\x00.ftyp[ -~]{4}", re.DOTALL), b"ftyp", 4),
    "mp3": (re.compile(rb"ID3[\x02-\x04]\x00"), b"ID3", 0),
}
#: A frame of bare AAC, of the profiles Main and LC.
ADTS = re.compile(
    rb"\xff[\xf0\xf1\xf8\xf9][\x00-\x33\x40-\x73][\x00-\x03\x20-\x23\x40-\x43\x60-\x63\x80-\x83\xa0-\xa3\xc0-\xc3\xe0-\xe3]"
)
#: So many frames in a row are no chance.
MANY = 12


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
        return _Chunks(data).walk()


class _Chunks:
    """From chunk to chunk through a WAV."""

    def __init__(self, data: Data) -> None:
        told, size = int.from_bytes(data[4:8], "little"), len(data)
        self._data = data
        self._wav = Wav(size=size, told=told, announced=told + 8 if 0 < told < PLACEHOLDER else 0)
        self._wav.is_true = size - 1 <= told + 8 <= size

    @cached_property
    def _begins(self) -> list[int]:
        """Where other files begin, looked for only if the chunks do not tell where their sound ends."""
        return [begin for begin, _ in _files_begin(self._data, "wav") if begin]

    def walk(self) -> Wav | None:
        data, wav, form, at = self._data, self._wav, b"", RIFF_HEAD
        while at + 8 <= wav.size:
            kind, claimed = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
            start = at + 8
            if kind == b"RIFF" and data[start : start + 4] == b"WAVE":
                at, wav.is_true, wav.is_whole = start + 4, False, False
            elif wav.pieces and self._is_beginning(at):
                at = self._read_other(at)
            elif kind == b"data" and len(form) >= 16:  # noqa: PLR2004 - the shortest there is
                at = self._read_sound(form, start, claimed)
            else:
                if kind == b"fmt ":
                    form = bytes(data[start : start + claimed])
                    wav.is_true = wav.is_true and _is_consistent(form)
                at = start + claimed + claimed % 2
        return wav if wav.pieces else None

    def _read_sound(self, form: bytes, start: int, claimed: int) -> int:
        """Add a `data` chunk to the pieces; where to go on."""
        data, wav, end = self._data, self._wav, start + claimed
        unknown = claimed == 0 or end > len(data)
        other = not unknown and self._is_beginning(end)
        if unknown or other or not _goes_on(data, end):
            # Readers that believe the header stop where it says; those that do not, go on to the end.
            wav.is_true, wav.is_whole = False, wav.is_whole and (unknown or end >= len(data))
            end = end if other else _next_of(self._begins, start + 1, len(data))
            wav.is_whole = wav.is_whole and end == len(data)
        if wav.pieces:
            wav.is_true = wav.is_whole = False
        wav.pieces.append(FileRange(start, end, wav_header(form, end - start)))
        return end + (end - start) % 2 * (not unknown)

    def _is_beginning(self, at: int) -> bool:
        """Whether another file begins just here."""
        kinds = (kind for kind in BEGINNINGS if _begins_at(self._data, at, kind))
        return any(kinds) or bare_frames_follow(self._data, at)

    def _read_other(self, at: int) -> int:
        """Add a file of another kind to the pieces; where to go on."""
        end = _next_of(self._begins, at + 1, len(self._data))
        self._wav.pieces.append(FileRange(at, end))
        self._wav.is_true = self._wav.is_whole = False
        return end


def _next_of(begins: list[int], at: int, otherwise: int) -> int:
    return next((begin for begin in begins if begin >= at), otherwise)


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


def _files_begin(data: Data, first: str) -> list[tuple[int, str]]:
    """Where files begin of the kinds that are met glued together, and FFmpeg's names of those, in order.

    Bare AAC is looked for behind those kinds alone: MP2 and streams of television have such frames in them.
    """
    begins = [(at, "aac") for at in _adts_begins(data) if first in BEGINNINGS]
    for kind, (_, sought, before) in BEGINNINGS.items():
        at = data.find(sought)
        while at >= 0:
            start = at - before
            if start >= 0 and _begins_at(data, start, kind):
                begins.append((start, kind))
            at = data.find(sought, at + 1)
    return sorted(begins)


def _begins_at(data: Data, at: int, kind: str) -> bool:
    """Whether a file of the kind begins here: others have tags of ID3 and the head of a FLAC in them, without frames."""
    if not BEGINNINGS[kind][0].match(data, at):
        return False
    if kind == "mp3":
        return frames_follow(data, past_tags(data, at), 3)
    if kind == "flac":
        at, is_last = at + 4, False
        while not is_last and at + 4 <= len(data):
            is_last = data[at] >= 0x80  # noqa: PLR2004 - the mark of the last block before the frames
            at += 4 + int.from_bytes(data[at + 1 : at + 4])
        return data[at : at + 2] in (b"\xff\xf8", b"\xff\xf9")
    return True


def split_files(path: Path, kind: str) -> list[FileRange]:
    """The files that were glued together in one, in order; of one that was not, the one. `kind` is FFmpeg's name.

    Ogg is made to be glued so, and is one piece however many are in it, unless they differ in form.
    """
    whole = [FileRange(0, path.stat().st_size)]
    if kind == "wav":
        return wav.pieces if (wav := read_wav(path)) and not wav.is_whole else whole
    with open_mapped(path) as data:
        found = _files_begin(data, kind)
        other = next((start for start, of in found if of != kind and start > 0), None)
        pieces = _same_kind(data, kind)
        if other is None:
            return pieces if len(pieces) > 1 else whole
        begins = [start for start, _ in found if start >= other]
        return [
            *(FileRange(each.start, min(each.end, other)) for each in pieces if each.start < other),
            *(FileRange(one, end) for one, end in zip(begins, [*begins[1:], len(data)], strict=True)),
        ]


def _adts_begins(data: Data) -> Iterator[int]:
    """Where bare AAC begins first; nothing if nowhere."""
    found = (each.start() for each in ADTS.finditer(data))
    return islice((at for at in found if adts_follow(data, at, MANY)), 1)


def _same_kind(data: Data, kind: str) -> list[FileRange]:
    """The files of a kind, from the first on."""
    if kind == "mp3":
        mp3 = split_mp3(data)
        return mp3.pieces if mp3 else [FileRange(0, len(data))]
    finders = {"mp4": _boxes_begin, "ogg": forms_begin}
    marks = BEGINNINGS[kind][0].finditer(data) if kind in BEGINNINGS else ()
    begins = finders[kind](data) if kind in finders else [mark.start() for mark in marks]
    begins = begins if begins and begins[0] == 0 else [0]
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


# Ogg files, page by page.
#: An Ogg page is no longer than this; its header tells whether it is the first of a stream, or the last.
PAGE_BYTES, PAGE_HEAD, PAGE_FLAGS, FIRST_PAGE, LAST_PAGE = 65_307, 27, 5, 2, 4


def forms_begin(data: bytes | mmap.mmap) -> list[int]:
    """Where the Oggs begin, if they differ in what their first pages say: FFmpeg's decoders keep to the first."""
    begins: list[int] = []
    forms: set[bytes] = set()
    at, opens = 0, False
    while data[at : at + 4] == b"OggS" and at + PAGE_HEAD <= len(data):
        sizes = data[at + PAGE_HEAD : at + PAGE_HEAD + data[at + PAGE_HEAD - 1]]
        end = at + PAGE_HEAD + len(sizes) + sum(sizes)
        if data[at + PAGE_FLAGS] & FIRST_PAGE:
            begins += [] if opens else [at]
            forms.add(bytes(data[at + PAGE_HEAD + len(sizes) : end]))
        opens = bool(data[at + PAGE_FLAGS] & FIRST_PAGE)
        at = end
    return begins if len(forms) > 1 else [0]


def ends_open(path: Path) -> bool:
    """Whether an Ogg ends without the page that is marked as its last."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - PAGE_BYTES))
        tail = file.read()
    page = tail[tail.rfind(b"OggS") :]
    return len(page) > PAGE_FLAGS and not page[PAGE_FLAGS] & LAST_PAGE

"""Picture files, part by part: whether every reader will see the same, what the numbers mean, what is not the picture.

What a decoder tolerates says little about what the next one does.
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from av import CodecContext, Packet
from av.error import FFmpegError
from av.video.codeccontext import VideoCodecContext
from numpy.typing import NDArray
from PIL import Image

from avatar.media.colour_spaces import Space, by_code, by_gamma

__all__ = [
    "Parts",
    "coded_colours",
    "deep_samples",
    "is_adobe_rgb",
    "is_raw",
    "jp2_profile",
    "parts_of",
    "unusual_jpeg",
]

#: JPEG's markers (ITU-T T.81 table B.1) that decide; of the frames those that every reader knows.
EOI, SOS, COM, APP0, APP1, APP2, APP14 = 0xD9, 0xDA, 0xFE, 0xE0, 0xE1, 0xE2, 0xEE
PROGRESSIVE = 0xC2
FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
LOSSLESS, JPEG_LS = (0xC3, 0xC7, 0xCB, 0xCF), 0xF7
USUAL_FRAMES = (0xC0, 0xC1, PROGRESSIVE)
NEXT_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])", re.DOTALL)
#: A JPEG's three channels are YCbCr, unless Adobe's segment says otherwise or they are called R, G and B.
YCC, RGB_NAMES = 1, b"RGB"
#: Of the picture itself, or needed to see it right.
PNG_KEPT = (
    b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"sRGB", b"iCCP", b"gAMA", b"cHRM", b"cICP", b"pHYs", b"bKGD",
    b"sBIT", b"hIST", b"tIME",
)  # fmt: skip
#: A comment no longer than this names the program that wrote the file; programs do that, people hardly ever.
SHORT_COMMENT, PROGRAM = 100, (b"Software\0", b"Comment\0")
#: The segment that readers expect first; files of cameras have theirs instead.
JFIF = b"\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00"
PNG_MARK, PNG_GREY, PNG_RGB = b"\x89PNG\r\n\x1a\n", 0, 2
BYTE = 8


@dataclass
class Parts:
    """What a JPEG or PNG is made of.

    Attributes:
        plain: whether every reader decodes it, and to the same 8-bit picture.
        kept: the picture without anything else, byte for byte as it lies there.
        stripped: whether `kept` lacks anything of the file.
        deep: whether it has more than 8 bits a channel.
        space: what its numbers mean, unless an ICC profile tells it.
        profile_counts: whether an ICC profile in it, if any, tells its colours.
        profile: an ICC profile that its decoder does not hand over.
        coefficients: bytes a decoder holds beside the picture itself.
    """

    plain: bool = True
    kept: bytearray = field(default_factory=bytearray)
    stripped: bool = False
    deep: bool = False
    space: Space | None = None
    profile_counts: bool = True
    profile: bytes | None = None
    coefficients: int = 0


def parts_of(data: bytes, image: Image.Image) -> Parts | None:
    """The parts of a JPEG or PNG; None for any other kind, or one that does not follow its own rules."""
    read = {"JPEG": _jpeg, "MPO": _jpeg, "PNG": _png}.get(image.format or "")
    try:
        return read(data) if read else None
    except (struct.error, IndexError):
        return None


def _jpeg(data: bytes) -> Parts:
    parts = Parts(kept=bytearray(data[:2]))
    for marker, start, end in _segments(data):
        body = data[start + 4 : end]
        if marker in FRAMES:
            _read_frame(parts, marker, body)
        elif marker == APP14 and body.startswith(b"Adobe") and body[11] != YCC:
            parts.plain = False
        if _is_of_the_picture(marker, body):
            parts.kept += data[start:end]
    parts.stripped = len(parts.kept) < len(data)
    if parts.stripped and not parts.kept.startswith((b"\xff\xd8\xff\xe0", b"\xff\xd8\xff\xee")):
        parts.kept[2:2] = JFIF
    return parts


def unusual_jpeg(data: bytes) -> str:
    """What a JPEG is that hardly any reader takes; nothing if it is of the usual kinds."""
    for marker, start, _ in _segments(data):
        if marker == JPEG_LS:
            return "a JPEG-LS"
        if marker in LOSSLESS:
            return "a lossless JPEG"
        if marker in FRAMES:
            depth = data[start + 4]
            return f"a JPEG of {depth} bits a channel" if depth != BYTE else ""
    return ""


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Marker, beginning and end of each segment up to the picture's end; a scan's data belongs to its header."""
    at = 2
    while found := NEXT_MARKER.search(data, at):
        start, marker = found.end() - 2, found.group(1)[0]
        if marker == EOI:
            yield marker, start, start + 2
            return
        end = start + 2 + int.from_bytes(data[start + 2 : start + 4])
        if marker == SOS:
            following = NEXT_MARKER.search(data, end)
            end = following.start() if following else len(data)
        yield marker, start, end
        at = end


def _read_frame(parts: Parts, marker: int, body: bytes) -> None:
    depth, height, width, channels = struct.unpack(">BHHB", body[:6])
    names = bytes(body[6 + 3 * channel] for channel in range(channels))
    parts.deep = depth > BYTE
    if marker not in USUAL_FRAMES or depth != BYTE or channels not in (1, 3) or names == RGB_NAMES:
        parts.plain = False
    if marker == PROGRESSIVE:
        sampled = [body[7 + 3 * channel] for channel in range(channels)]
        most = [max(value >> 4 for value in sampled), max(value & 15 for value in sampled)]
        share = sum((value >> 4) * (value & 15) for value in sampled) / (most[0] * most[1])
        parts.coefficients = int(2 * width * height * share)


def _is_of_the_picture(marker: int, body: bytes) -> bool:
    if marker == APP2:
        return body.startswith(b"ICC_PROFILE\0")
    if marker == APP0:
        return body.startswith(b"JFIF\0")
    if marker == COM:
        return len(body) <= SHORT_COMMENT
    return marker == APP14 or not APP0 <= marker <= 0xEF  # noqa: PLR2004 - APP15


def _png(data: bytes) -> Parts:
    parts = Parts(kept=bytearray(data[:8]))
    seen: dict[bytes, bytes] = {}
    for kind, start, end in _chunks(data):
        seen.setdefault(kind, data[start + 8 : end - 4])
        if kind in PNG_KEPT or _names_program(kind, data[start + 8 : end - 4]):
            parts.kept += data[start:end]
    depth, colours = seen[b"IHDR"][8], seen[b"IHDR"][9]
    parts.deep = depth > BYTE
    parts.plain = depth == BYTE and colours in (PNG_GREY, PNG_RGB) and b"tRNS" not in seen
    parts.stripped = len(parts.kept) < len(data)
    parts.space, parts.profile_counts = _png_space(seen)
    return parts


def _names_program(kind: bytes, body: bytes) -> bool:
    return kind == b"tEXt" and body.startswith(PROGRAM) and len(body) <= SHORT_COMMENT


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    at = len(PNG_MARK)
    while at + 12 <= len(data):
        size, kind = struct.unpack(">I4s", data[at : at + 8])
        yield kind, at, at + 12 + size
        if kind == b"IEND":
            return
        at += 12 + size


def _png_space(seen: dict[bytes, bytes]) -> tuple[Space | None, bool]:
    """PNG (third edition) 4.3: `cICP` goes before an ICC profile, that before `sRGB`, that before the others."""
    if len(code := seen.get(b"cICP", b"")) == 4:  # noqa: PLR2004 - primaries, transfer, matrix, range
        return by_code(code[0], code[1]), False
    if b"iCCP" in seen or b"sRGB" in seen:
        return None, b"iCCP" in seen
    if b"gAMA" not in seen and b"cHRM" not in seen:
        return None, True
    gamma = struct.unpack(">I", seen[b"gAMA"])[0] if b"gAMA" in seen else None
    points = struct.unpack(">8I", seen[b"cHRM"]) if b"cHRM" in seen else None
    return by_gamma(gamma, points), True


def coded_colours(data: bytes) -> tuple[Space | None, bytes | None]:
    """What the `colr` properties of an AVIF's or HEIF's main picture say by code points (ISO/IEC 23008-12), and by ICC.

    Of a picture that is put together from tiles, as phones store it, they may be told of the tiles alone.

    Raises:
        HighRange: brightness beyond white.
    """
    space, profile = None, None
    try:
        for kind, body in _properties(data):
            if kind == b"colr" and body[:4] == b"nclx":
                space = by_code(*struct.unpack(">HH", body[4:8]))
            elif kind == b"colr" and body[:4] in (b"prof", b"rICC"):
                profile = body[4:]
    except (struct.error, IndexError):
        return None, None
    return space, profile


def jp2_profile(data: bytes) -> bytes | None:
    """The ICC profile of a JPEG 2000 (ISO/IEC 15444-1, I.5.3.3), which Pillow does not hand over."""
    for kind, body in _boxes(dict(_boxes(data)).get(b"jp2h", b"")):
        if kind == b"colr" and body[:1] in (b"\2", b"\3"):
            return body[3:]
    return None


def _properties(data: bytes) -> list[tuple[bytes, bytes]]:
    """Name and content of each property that the main picture has, or of its first tile if it has no colours."""
    meta = dict(_boxes(dict(_boxes(data)).get(b"meta", bytes(4))[4:]))
    within = dict(_boxes(meta[b"iprp"])) if b"iprp" in meta else {}
    if b"pitm" not in meta or b"ipma" not in within:
        return []
    main = int.from_bytes(meta[b"pitm"][4:])
    listed = list(_boxes(within.get(b"ipco", b"")))
    for item in (main, _first_tile(meta.get(b"iref", b""), main)):
        numbers = _associated(within[b"ipma"], item)
        found = [listed[number - 1] for number in numbers if 0 < number <= len(listed)]
        if any(kind == b"colr" for kind, _ in found):
            return found
    return []


def _first_tile(iref: bytes, item: int) -> int:
    """The first of the items that one is derived from; 0 if it is a picture of its own."""
    size = 4 if iref[:1] == b"\1" else 2
    for kind, body in _boxes(iref[4:]):
        if kind == b"dimg" and int.from_bytes(body[:size]) == item:
            return int.from_bytes(body[size + 2 : size + 2 + size])
    return 0


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 0
    while at + 8 <= len(data):
        size, kind = struct.unpack(">I4s", data[at : at + 8])
        head = 16 if size == 1 else 8
        if size == 1:
            size = int.from_bytes(data[at + 8 : at + 16])
        size = size or len(data) - at
        if size < head:
            return
        yield kind, data[at + head : at + size]
        at += size


def _associated(ipma: bytes, item: int) -> list[int]:
    """Numbers of the properties of an item, from 1."""
    id_bytes, wide = (4 if ipma[0] else 2), ipma[3] & 1
    count, at = int.from_bytes(ipma[4:8]), 8
    for _ in range(count):
        found, many = int.from_bytes(ipma[at : at + id_bytes]), ipma[at + id_bytes]
        at += id_bytes + 1
        if found == item:
            sizes = range(at, at + many * (1 + wide), 1 + wide)
            return [int.from_bytes(ipma[one : one + 1 + wide]) & (0x7FFF if wide else 0x7F) for one in sizes]
        at += many * (1 + wide)
    return []


def deep_samples(data: bytes) -> NDArray[np.uint16] | None:
    """The colours of a PNG of 16 bits a channel, of which Pillow keeps 8."""
    decoder = CodecContext.create("png", "r")
    if not isinstance(decoder, VideoCodecContext):
        return None
    try:
        frames = [*decoder.decode(Packet(data)), *decoder.decode(None)]
        return frames[0].to_ndarray(format="rgb48le").astype(np.uint16, copy=False) if frames else None
    except FFmpegError:
        return None


#: TIFF tags and values that only cameras' raw files have: DNGVersion; a preview before pictures of another kind.
DNG_VERSION, SUBFILE, SUB_IFDS, PREVIEW = 0xC612, 254, 330, 1


def is_raw(image: Image.Image) -> bool:
    """Whether what Pillow takes for a TIFF is a camera's raw file, of which it would show the preview."""
    tags = getattr(image, "tag_v2", {})
    return DNG_VERSION in tags or (tags.get(SUBFILE) == PREVIEW and SUB_IFDS in tags)


EXIF_IFD, INTEROP_IFD = 0x8769, 0xA005


def is_adobe_rgb(image: Image.Image) -> bool:
    """Whether a camera says so (Exif 2.3, 4.6.5): an uncalibrated space, and the rule `R03`."""
    exif = image.getexif()
    index = exif.get_ifd(EXIF_IFD).get(INTEROP_IFD)
    known = index if isinstance(index, dict) else exif.get_ifd(INTEROP_IFD)
    return str(known.get(1, "")).rstrip("\0") == "R03"

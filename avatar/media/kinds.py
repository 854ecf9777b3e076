"""What a file is, told from its first bytes: the one table of kinds, their names, and what to do about each.

`docs/bad-input.md` shows it. A name is believed only where the bytes tell nothing.
"""

import base64
import binascii
import codecs
import itertools
import re
import zipfile
from pathlib import Path
from typing import Literal, NamedTuple

from avatar.errors import InvalidInput

__all__ = [
    "HEAD",
    "KINDS",
    "Kind",
    "head_of",
    "kind_of",
    "not_read",
    "second_kind",
    "sniff",
    "sniff_file",
    "unreadable",
]

What = Literal["portrait", "voice"]

#: Bytes that tell a kind: as many zeros may stand in front of an MP3.
HEAD = 65536
#: Bytes at either end in which readers of web pages and of PDF look for a beginning.
ENDS = 1024
#: Bytes from which it can be told that a file was taken for text on its way.
ENOUGH = 512
HTML = (b"<!doctype html", b"<html", b"<script", b"<?php", b"<svg")
JPEG_OR_PNG, MP3_OR_WAV = "Use a JPEG or PNG file.", "Use an MP3 or WAV file."
DEVELOP = "Develop it, and export a JPEG."
BY_FFMPEG = "Convert it (`ffmpeg -i IN OUT.wav`)."


class Kind(NamedTuple):
    """A kind of file.

    Attributes:
        name: with its article, as in "it is a PDF".
        taken: what such files are read as.
        advice: what to do with one that is not read; for kinds that are read, with one that is no use.
        marks: offset and bytes, one of which such a file has. A dot stands for any byte.
        suffix: of the name it is stored under; none for kinds that are not stored.
        content_type: it is stored and sent with.
    """

    name: str
    taken: tuple[What, ...]
    advice: str
    marks: tuple[tuple[int, bytes], ...]
    suffix: str = "bin"
    content_type: str = "application/octet-stream"


def _ftyp(*brands: bytes) -> tuple[tuple[int, bytes], ...]:
    return tuple((4, b"ftyp" + brand) for brand in brands)


PICTURE: tuple[What, ...] = ("portrait",)
SOUND: tuple[What, ...] = ("voice",)
TAKEN_PICTURES = (
    Kind("a PNG as iPhone apps hold it (CgBI)", (), "Open it on the iPhone or Mac, and save or share it anew.", ((12, b"CgBI"),)),
    Kind("a PNG", PICTURE, JPEG_OR_PNG, ((0, b"\x89PNG\r\n\x1a\n"),), "png", "image/png"),
    Kind("a JPEG", PICTURE, JPEG_OR_PNG, ((0, b"\xff\xd8\xff"),), "jpg", "image/jpeg"),
    Kind("a WebP", PICTURE, JPEG_OR_PNG, ((0, b"RIFF....WEBP"),), "webp", "image/webp"),
    Kind("a GIF", PICTURE, JPEG_OR_PNG, ((0, b"GIF8"),), "gif", "image/gif"),
    Kind("a HEIC or HEIF", PICTURE, "Export it as JPEG; on the iPhone: Settings, Camera, Formats, Most Compatible.", _ftyp(b"hei[cxms]", b"hev[cxms]", b"mif[12]", b"msf1"), "heic", "image/heic"),
    Kind("an AVIF", PICTURE, JPEG_OR_PNG, _ftyp(b"avi[fs]"), "avif", "image/avif"),
)  # fmt: skip
OTHER_PICTURES = (
    Kind("a JPEG XL", (), "Export it as JPEG or PNG (`djxl IN.jxl OUT.png`).", ((0, b"\xff\x0a"), (0, b"\0\0\0\x0cJXL \r\n\x87\n"))),
    Kind("a camera's raw picture (Canon)", (), DEVELOP, ((8, b"CR\x02"), *_ftyp(b"crx "), (6, b"HEAPCCDR"))),
    Kind("a camera's raw picture", (), DEVELOP, ((0, b"FUJIFILMCCD-RAW"), (0, b"IIRO"), (0, b"IIRS"), (0, b"MMOR"), (0, b"IIU\0"), (0, b"FOVb"), (0, b"\0MRM"))),
    Kind("a Photoshop document (PSD)", (), "Export it as JPEG or PNG.", ((0, b"8BPS"),)),
    Kind("a GIMP document (XCF)", (), "Export it as JPEG or PNG.", ((0, b"gimp xcf"),)),
    Kind("an OpenEXR picture", (), "Export it as JPEG or PNG.", ((0, b"\x76\x2f\x31\x01"),)),
    Kind("a Radiance HDR picture", (), "Export it as JPEG or PNG.", ((0, b"#\\?RADIANCE"), (0, b"#\\?RGBE"))),
    Kind("a DDS texture", (), "Export it as JPEG or PNG.", ((0, b"DDS \\|"),)),
    Kind("a picture of a rare kind (QOI, PCX, SGI, PAM)", (), "Export it as JPEG or PNG.", ((0, b"qoif"), (0, b"\x0a[\x02-\x05]\x01"), (0, b"\x01\xda[\0\1][\1\2]"), (0, b"P7\n"))),
    Kind("an icon (ICO)", PICTURE, JPEG_OR_PNG, ((0, b"\0\0\1\0[\1-\x20]\0"),), "ico", "image/x-icon"),
    Kind("a DjVu document", (), "Export its picture as JPEG.", ((0, b"AT&TFORM"),)),
    Kind("a TIFF", PICTURE, JPEG_OR_PNG, ((0, b"II[*+]\0"), (0, b"MM\0[*+]")), "tif", "image/tiff"),
    Kind("a JPEG 2000", PICTURE, JPEG_OR_PNG, ((0, b"\0\0\0\x0cjP  "), (0, b"\xff\x4f\xff\x51")), "jp2", "image/jp2"),
    Kind("a BMP", PICTURE, JPEG_OR_PNG, ((0, b"BM....\0\0\0\0"),), "bmp", "image/bmp"),
)  # fmt: skip
TAKEN_SOUNDS = (
    Kind("a WAV of reversed bytes (RIFX)", (), "Export it as MP3 or WAV.", ((0, b"RIFX....WAVE"),)),
    Kind("a WAV", SOUND, MP3_OR_WAV, ((0, b"(RIFF|RF64)....WAVE"),), "wav", "audio/wav"),
    Kind("an MP3", SOUND, MP3_OR_WAV, ((0, b"ID3"), (0, b"\xff[\xe2\xe3\xf2\xf3\xfa\xfb]")), "mp3", "audio/mpeg"),
    Kind("an AAC stream", SOUND, MP3_OR_WAV, ((0, b"\xff[\xf0\xf1\xf8\xf9]"), (0, b"ADIF")), "aac", "audio/aac"),
    Kind("an Ogg", SOUND, MP3_OR_WAV, ((0, b"OggS"),), "ogg", "audio/ogg"),
    Kind("a FLAC", SOUND, MP3_OR_WAV, ((0, b"fLaC"),), "flac", "audio/flac"),
    Kind("an M4A", SOUND, MP3_OR_WAV, _ftyp(b"M4[AB]"), "m4a", "audio/mp4"),
    Kind("an MP4 or QuickTime file", SOUND, MP3_OR_WAV, (*_ftyp(b""), (4, b"(moov|mdat|wide|free|skip)")), "mp4", "video/mp4"),
    Kind("a Matroska or WebM", SOUND, MP3_OR_WAV, ((0, b"\x1aE\xdf\xa3"),), "mkv", "video/x-matroska"),
    Kind("an AIFF", SOUND, MP3_OR_WAV, ((0, b"FORM....AIF[FC]"),), "aiff", "audio/aiff"),
    Kind("an AMR", SOUND, MP3_OR_WAV, ((0, b"#!AMR"),), "amr", "audio/amr"),
    Kind("a Core Audio file", SOUND, MP3_OR_WAV, ((0, b"caff"),), "caf", "audio/x-caf"),
    Kind("a Windows Media file", SOUND, MP3_OR_WAV, ((0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11"),), "wma", "audio/x-ms-wma"),
    Kind("an AVI", SOUND, MP3_OR_WAV, ((0, b"RIFF....AVI "),), "avi", "video/x-msvideo"),
    Kind("a Flash video", SOUND, MP3_OR_WAV, ((0, b"FLV\x01"),), "flv", "video/x-flv"),
    Kind("a Sun audio file", SOUND, MP3_OR_WAV, ((0, b"\\.snd"),), "au", "audio/basic"),
    Kind("a Wave64", SOUND, MP3_OR_WAV, ((0, b"riff.\x91\xcf\x11"),), "w64", "audio/x-w64"),
    Kind("an MPEG sound of layer II (MP2)", SOUND, MP3_OR_WAV, ((0, b"\xff[\xf4\xf5\xfc\xfd]"),), "mp2", "audio/mpeg"),
    Kind("a Dolby Digital sound (AC-3)", SOUND, MP3_OR_WAV, ((0, b"\x0b\x77"),), "ac3", "audio/ac3"),
    Kind("an MPEG transport stream", SOUND, MP3_OR_WAV, ((0, b"G.{187}G"), (4, b"G.{191}G")), "ts", "video/mp2t"),
    Kind("an MPEG program stream", SOUND, MP3_OR_WAV, ((0, b"\0\0\x01\xba"),), "mpg", "video/mpeg"),
    Kind("a True Audio file (TTA)", SOUND, MP3_OR_WAV, ((0, b"TTA[12]"),), "tta", "audio/x-tta"),
    Kind("a WavPack", SOUND, MP3_OR_WAV, ((0, b"wvpk"),), "wv", "audio/x-wavpack"),
    Kind("a Monkey's Audio", SOUND, MP3_OR_WAV, ((0, b"MAC "),), "ape", "audio/x-ape"),
    Kind("an MXF", SOUND, MP3_OR_WAV, ((0, b"\x06\x0e\\+\x34\x02\x05\x01\x01"),), "mxf", "application/mxf"),
    Kind("a Sound Blaster VOC", SOUND, MP3_OR_WAV, ((0, b"Creative Voice File"),), "voc", "audio/x-voc"),
    Kind("an AAC stream (LATM)", SOUND, MP3_OR_WAV, ((0, b"\x56[\xe0-\xff]"),), "loas", "audio/aac"),
)  # fmt: skip
OTHERS = (
    Kind("notes without sound (MIDI)", (), "Export it as WAV from the program that plays it.", ((0, b"MThd"),)),
    Kind("a RealMedia file", (), "Export it as MP3 or WAV.", ((0, b"\\.RMF"), (0, b"\\.ra\xfd"))),
    Kind("a voice message as WeChat and QQ keep it (SILK)", (), "Save it as MP3 from the app that plays it.", ((0, b"\x02?#!SILK"),)),
    Kind("a dictation (DSS)", (), "Export it as WAV from the recorder's program.", ((0, b"\x02dss"), (0, b"\x03ds[2s]"))),
    Kind("a telephone's QCP or iLBC recording", (), "Export it as MP3 or WAV.", ((0, b"(RIFF|RIFX)....QLCM"), (0, b"#!iLBC"))),
    Kind("a NIST SPHERE file", (), "Convert it to WAV (`sph2pipe -f wav IN OUT.wav`).", ((0, b"NIST_1A"),)),
    Kind("a Musepack file", (), "Export it as MP3 or WAV.", ((0, b"MP\\+"), (0, b"MPCK"))),
    Kind("a DTS sound", (), BY_FFMPEG, ((0, b"\x7f\xfe\x80\x01"), (0, b"\xfe\x7f\x01\x80"))),
    Kind("a Dolby TrueHD or MLP sound", (), BY_FFMPEG, ((4, b"\xf8\x72\x6f[\xba\xbb]"),)),
    Kind("a Codec 2 recording", (), BY_FFMPEG, ((0, b"\xc0\xde\xc2"),)),
    Kind("a NUT or SoX file", (), BY_FFMPEG, ((0, b"nut/multimedia"), (0, b"\\.SoX|XoS\\."))),
    Kind("a television recording (WTV)", (), BY_FFMPEG, ((0, b"\xb7\xd8\0\x20\x37\x49\xda\x11"),)),
    Kind("a piece of a stream (m4s)", (), "Save the whole: a piece is no use without the first.", ((4, b"(styp|moof|sidx)"),)),
    Kind("a DSD recording", (), "Export it as MP3 or WAV.", ((0, b"DSD "), (0, b"FRM8"))),
    Kind("a playlist", (), "Give the sound itself.", ((0, b"#EXTM3U"), (0, b"ffconcat"), (0, b"\\[playlist\\]"))),
    Kind("a description of a stream (SDP)", (), "Give the sound itself.", ((0, b"v=0\r?\no="),)),
    Kind("an SVG drawing", (), "Export it as JPEG or PNG.", ()),
    Kind("a web page", (), "Perhaps a download that failed: fetch it again, and look at what came.", ()),
    Kind("a PDF", (), "Export its picture as JPEG.", ((0, b"%PDF-"),)),
    Kind("PostScript", (), "Export its picture as JPEG.", ((0, b"%!PS"),)),
    Kind("a ZIP archive, or a document that is one inside", (), "Unpack it.", ((0, b"PK\x03\x04"),)),
    Kind("compressed (gzip)", (), "Unpack it.", ((0, b"\x1f\x8b"),)),
    Kind("a file whose bytes were changed as if they were text", (), "Fetch it anew, as bytes: no text mode, no `response.text`.", ()),
    Kind("XML", (), "Perhaps a service's answer: look into it.", ((0, b"<\\?xml"),)),
    Kind("JSON", (), "Perhaps a service's answer: it tells what went wrong, or holds the file as base64.", ()),
    Kind("base64 text", (), "Decode it (`base64 -d IN > OUT`).", ()),
    Kind("a text", (), "Give the file itself; or it is a service's answer: look into it.", ()),
)  # fmt: skip
#: In the order in which they are tried.
KINDS = (*TAKEN_PICTURES, *OTHER_PICTURES, *TAKEN_SOUNDS, *OTHERS)
_NAMED = {kind.name: kind for kind in KINDS}
_PATTERNS = [(kind, offset, re.compile(mark, re.DOTALL)) for kind in KINDS for offset, mark in kind.marks]
UNKNOWN = Kind("of no kind that is known here", (), "", ())
#: GSM 06.10 has no header: every frame of 33 bytes begins with the same four bits.
GSM = Kind("a GSM recording", SOUND, MP3_OR_WAV, (), "gsm", "audio/x-gsm")
GSM_FRAME, GSM_MARK = 33, 0xD0
SPOILED = _NAMED["a file whose bytes were changed as if they were text"]
#: What has no header is known by its name alone: what it is, and FFmpeg's options for it.
BARE = {
    **dict.fromkeys((".g722", ".722"), ("G.722", "g722")),
    **dict.fromkeys((".al", ".alaw"), ("A-law", "alaw -ar 8000")),
    **dict.fromkeys((".ul", ".ulaw", ".mulaw"), ("µ-law", "mulaw -ar 8000")),
    **dict.fromkeys((".sbc", ".aptx"), ("Bluetooth sound", "sbc")),
}
#: Where a sound begins behind what a form, a download or a recorder put before it.
INNER = re.compile(b"RIFF....WAVEfmt |OggS\0\2|fLaC[\0\x80]\0\0\x22", re.DOTALL)


def kind_of(head: bytes) -> Kind:
    """The kind of a file that begins like this."""
    if (text := _text_kind(head)) is not None:
        return text
    if _is_spoiled(head):
        return SPOILED
    found = next((kind for kind, offset, mark in _PATTERNS if mark.match(head, offset)), None)
    if found is None and _is_gsm(head):
        return GSM
    if found is None and (rest := head.lstrip(b"\0")) != head and rest:
        # Recorders that fill gaps leave zeros in front.
        later = kind_of(rest)
        return later if later.suffix == "mp3" else UNKNOWN
    return found or UNKNOWN


def _is_gsm(head: bytes) -> bool:
    frames = head[: len(head) // GSM_FRAME * GSM_FRAME : GSM_FRAME]
    return len(frames) > 3 and all(byte & 0xF0 == GSM_MARK for byte in frames)  # noqa: PLR2004


def _is_spoiled(head: bytes) -> bool:
    """Whether it holds what only bytes that were read and written as text do: no byte alone, or no line end."""
    size = len(head) - head.count(0)
    if size < ENOUGH:
        return False
    # Of bytes that mean nothing, one in 256 is a line end.
    ends = head.count(b"\n")
    if ends == head.count(b"\r\n") and ends > 16 and size // 1024 < ends < size // 100:  # noqa: PLR2004
        return True
    if not _is_written(head):
        return False
    odd = sum(letter == "\ufffd" or "\x80" <= letter <= "\xff" for letter in head.decode(errors="ignore"))
    return odd > size // 16


def _text_kind(head: bytes) -> Kind | None:
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if b"<svg" in start and start.startswith(b"<"):
        return _NAMED["an SVG drawing"]
    if start.startswith(HTML):
        return _NAMED["a web page"]
    if not head or any(byte < 9 or 13 < byte < 32 for byte in head):  # noqa: PLR2004 - control characters
        return None
    if start.startswith((b"{", b"[{")):
        return _NAMED["JSON"]
    if start.startswith(b"data:") or _is_base64(head):
        return _NAMED["base64 text"]
    marked = any(mark.match(head, offset) for _, offset, mark in _PATTERNS)
    return None if marked or not _is_written(head) else _NAMED["a text"]


def _is_base64(head: bytes) -> bool:
    packed = b"".join(head.split())
    try:
        base64.b64decode(packed[: len(packed) // 4 * 4], validate=True)
    except binascii.Error:
        return False
    return len(packed) >= 64  # noqa: PLR2004 - longer than any word


def _is_written(head: bytes) -> bool:
    try:
        # The last letter may be cut.
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return True


def sniff(head: bytes) -> tuple[str, str]:
    """Suffix and content type by the first bytes, not by the name."""
    kind = kind_of(head)
    return kind.suffix, kind.content_type


def sniff_file(path: Path) -> tuple[str, str]:
    """Suffix and content type of a file by its content."""
    with path.open("rb") as file:
        return sniff(file.read(HEAD))


def head_of(path: Path, name: str) -> bytes:
    """The first bytes of a file.

    Raises:
        InvalidInput: it is not there, or empty.
    """
    if not path.is_file():
        raise InvalidInput(f"{name}: there is no such file.")
    with path.open("rb") as file:
        if head := file.read(HEAD):
            return head
    raise InvalidInput(f"{name} is empty (0 bytes).", hint="Copy or download it again.")


def not_read(name: str, kind: str, what: What, advice: str) -> InvalidInput:
    """A kind that is known, and not taken for what it was given."""
    return InvalidInput(f"{name} is {kind}, which is not read as a {what}.", hint=advice)


def unreadable(path: Path, name: str, what: What) -> InvalidInput:
    """Why a file is no portrait or no voice: what it is, and what to do."""
    with path.open("rb") as file:
        head = file.read(HEAD)
    kind, noun = kind_of(head), "picture" if what == "portrait" else "sound"
    instead = JPEG_OR_PNG if what == "portrait" else MP3_OR_WAV
    if what in kind.taken:
        return InvalidInput(
            f"{name} is {kind.name}, but damaged, or it claims what no {noun} can.", hint=instead
        )
    if kind.taken:
        other = kind.taken[0]
        return InvalidInput(f"{name} is {kind.name}, which is no {noun}: is it the {other}?", hint=instead)
    if kind is not UNKNOWN:
        return not_read(name, kind.name, what, kind.advice)
    return _unknown(head, name, what, instead)


def _unknown(head: bytes, name: str, what: What, instead: str) -> InvalidInput:
    suffix = Path(name).suffix.lower()
    if what == "voice" and (inner := INNER.search(head)):
        at, kind = inner.start(), kind_of(head[inner.start() :])
        return InvalidInput(
            f"{name} is {kind.name} behind {at} bytes that are none of it.",
            hint=f"Leave them out: `tail -c +{at + 1} {name} > OUT.{kind.suffix}`.",
        )
    if what == "voice" and suffix in BARE:
        bare, options = BARE[suffix]
        return InvalidInput(
            f"{name} is {bare} by its name, which has no header to know it by.",
            hint=f"Convert it (`ffmpeg -f {options} -i {name} voice.wav`).",
        )
    if (
        what == "voice"
        and suffix in (".wav", ".wave", ".pcm", ".raw", ".bin", ".s16", "")
        and _is_smooth(head)
    ):
        return InvalidInput(
            f"{name} has no header: it seems to be bare samples (PCM), whose rate only their maker knows.",
            hint=f"Give it a header, with the right rate: `ffmpeg -f s16le -ar 24000 -ac 1 -i {name} with-header.wav`.",
        )
    noun = "picture" if what == "portrait" else "sound"
    return InvalidInput(f"{name} is no {noun} of a kind that is known here.", hint=instead)


def _is_smooth(head: bytes) -> bool:
    """Whether it could be 16-bit samples of a sound: neighbours differ by less than any two do."""
    values = [
        int.from_bytes(head[at : at + 2], "little", signed=True)
        for at in range(0, min(len(head), ENDS) - 1, 2)
    ]
    if len(values) < 64:  # noqa: PLR2004 - too few to tell
        return False
    steps = sum(abs(one - other) for one, other in itertools.pairwise(values)) / len(values)
    apart = sum(abs(one - other) for one, other in zip(values, values[len(values) // 2 :], strict=False))
    return steps < max(64.0, 2 * apart / (len(values) / 2))


def second_kind(path: Path) -> str | None:
    """What else a picture would be taken for by another program: an archive, a PDF, a page that runs scripts.

    Phones append data of their own to their pictures, which is none of these.
    """
    with path.open("rb") as file:
        head = file.read(ENDS)
        file.seek(max(0, path.stat().st_size - ENDS))
        tail = file.read(ENDS)
    if b"%PDF-" in head:
        return "a PDF"
    if any(mark in end.lower() for mark in HTML for end in (head, tail)):
        return "a web page or a script"
    return "a ZIP archive" if _is_archive(path) else None


def _is_archive(path: Path) -> bool:
    # The mark alone is in one picture of a hundred thousand by chance; a directory of files is not.
    if not zipfile.is_zipfile(path):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return bool(archive.infolist())
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError):
        return False

"""Files put together part by part, as no library here writes them."""

import struct
from fractions import Fraction

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

#: CIE xy of red, green, blue and white.
P3 = ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), (0.3127, 0.3290))
ADOBE = ((0.640, 0.330), (0.210, 0.710), (0.150, 0.060), (0.3127, 0.3290))
PROPHOTO = ((0.7347, 0.2653), (0.1596, 0.8404), (0.0366, 0.0001), (0.3457, 0.3585))
BT2020 = ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046), (0.3127, 0.3290))
SRGB = ((0.640, 0.330), (0.300, 0.600), (0.150, 0.060), (0.3127, 0.3290))
D50 = np.array([0.9642, 1.0, 0.8249])
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])


def to_d50(primaries) -> NDArray[np.float64]:
    """Light of the primaries to XYZ, adapted to D50, as ICC wants it."""
    xyz = np.array([(x / y, 1, (1 - x - y) / y) for x, y in primaries]).T
    columns, white = xyz[:, :3], xyz[:, 3]
    light = columns * np.linalg.solve(columns, white)
    scale = np.diag((BRADFORD @ D50) / (BRADFORD @ white))
    return np.linalg.inv(BRADFORD) @ scale @ BRADFORD @ light


def in_srgb(values, primaries, gamma: float) -> NDArray[np.uint8]:
    """Stored values (0 to 1) of a space with a plain gamma, as 8-bit sRGB, worked out by way of D50."""
    light = np.clip((values**gamma) @ (np.linalg.inv(to_d50(SRGB)) @ to_d50(primaries)).T, 0, 1)
    coded = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return np.round(coded * 255).astype(np.uint8)


def icc(primaries, gamma: float) -> bytes:
    """An ICC profile of three primaries and a plain gamma."""
    red, green, blue = to_d50(primaries).T
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)
    tags = {
        b"rXYZ": _xyz(red), b"gXYZ": _xyz(green), b"bXYZ": _xyz(blue), b"wtpt": _xyz(D50),
        b"rTRC": curve, b"gTRC": curve, b"bTRC": curve,
        b"desc": b"desc" + bytes(4) + struct.pack(">I", 5) + b"test\0" + bytes(79),
        b"cprt": b"text" + bytes(4) + b"none\0\0\0\0",
    }  # fmt: skip
    at, listed, body = 128 + 4 + 12 * len(tags), b"", b""
    for name, data in tags.items():
        listed += name + struct.pack(">II", at + len(body), len(data))
        body += data
    head = struct.pack(">I4sI4s4s4s", at + len(body), b"none", 0x0210_0000, b"mntr", b"RGB ", b"XYZ ")
    head += bytes(12) + b"acsp" + bytes(28) + _s15(D50) + bytes(48)
    return head + struct.pack(">I", len(tags)) + listed + body


def _xyz(values) -> bytes:
    return b"XYZ " + bytes(4) + _s15(values)


def _s15(values) -> bytes:
    return struct.pack(">3i", *(round(float(value) * 65536) for value in values))


def heic(image: Image.Image, *, profile: bytes | None = None, code: tuple[int, int] | None = None) -> bytes:
    """A HEIC of one picture: HEVC in the boxes of ISO/IEC 23008-12."""
    encoder = av.CodecContext.create("libx265", "w")
    encoder.width, encoder.height, encoder.pix_fmt = *image.size, "yuv444p"
    encoder.time_base, encoder.framerate = Fraction(1, 25), Fraction(25)
    encoder.color_range, encoder.colorspace = 2, 5
    encoder.options = {"crf": "4", "preset": "ultrafast", "x265-params": "log-level=none:keyint=1:range=full"}
    frame = av.VideoFrame.from_image(image).reformat(
        format="yuv444p", dst_colorspace="ITU601", dst_color_range="JPEG"
    )
    frame.pts = 0
    data = b"".join(bytes(packet) for packet in [*encoder.encode(frame), *encoder.encode(None)])
    units = [unit.rstrip(b"\0") for unit in data.replace(b"\0\0\0\1", b"\0\0\1").split(b"\0\0\1") if unit]
    sets = [unit for unit in units if unit[0] >> 1 & 63 in (32, 33, 34)]
    picture = b"".join(struct.pack(">I", len(unit)) + unit for unit in units if unit[0] >> 1 & 63 < 32)
    colour = b"nclx" + struct.pack(">HHHB", *(code or (1, 13)), 5, 0x80)
    properties = [
        box(b"hvcC", _hvcc(sets)),
        box(b"ispe", bytes(4) + struct.pack(">II", *image.size)),
        box(b"colr", colour),
        *([box(b"colr", b"prof" + profile)] if profile else []),
    ]
    return _heif(picture, properties)


def _hvcc(sets: list[bytes]) -> bytes:
    level = next(unit for unit in sets if unit[0] >> 1 & 63 == 33)[3:15]
    head = b"\x01" + level + b"\xf0\x00\xfc\xff\xf8\xf8\x00\x00\x0f" + bytes([len(sets)])
    return head + b"".join(
        bytes([unit[0] >> 1 & 63]) + struct.pack(">HH", 1, len(unit)) + unit for unit in sets
    )


def _heif(picture: bytes, properties: list[bytes]) -> bytes:
    ftyp = box(b"ftyp", b"heic" + bytes(4) + b"mif1heic")

    def meta(at: int) -> bytes:
        hdlr = box(b"hdlr", bytes(8) + b"pict" + bytes(13))
        infe = box(b"infe", b"\x02\0\0\0" + struct.pack(">HH", 1, 0) + b"hvc1\0")
        iinf = box(b"iinf", bytes(4) + struct.pack(">H", 1) + infe)
        iloc = box(b"iloc", bytes(4) + b"\x44\x00" + struct.pack(">HHHHII", 1, 1, 0, 1, at, len(picture)))
        used = bytes([len(properties), 0x81, *range(2, len(properties) + 1)])
        ipma = box(b"ipma", bytes(4) + struct.pack(">IH", 1, 1) + used)
        iprp = box(b"iprp", box(b"ipco", b"".join(properties)) + ipma)
        return box(b"meta", bytes(4) + hdlr + box(b"pitm", bytes(4) + b"\0\1") + iinf + iloc + iprp)

    return ftyp + meta(len(ftyp) + len(meta(0)) + 8) + box(b"mdat", picture)


def box(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data) + 8) + name + data

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
    curve = _curve(gamma)
    colours = {b"rXYZ": _xyz(red), b"gXYZ": _xyz(green), b"bXYZ": _xyz(blue)}
    return _profile(b"mntr", b"RGB ", b"XYZ ", colours | {b"rTRC": curve, b"gTRC": curve, b"bTRC": curve})


def grey_icc(gamma: float) -> bytes:
    """An ICC profile of a plain gamma, of grey pictures."""
    return _profile(b"mntr", b"GRAY", b"XYZ ", {b"kTRC": _curve(gamma)})


#: How light each ink makes the paper at its full (0 to 1): the profile of `cmyk_icc` knows nothing but greys.
INKS = np.array([0.7, 0.6, 0.9, 0.15])


def cmyk_icc() -> bytes:
    """An ICC profile of four inks, each of which darkens the paper by a share of its own."""
    corners = np.array([[corner >> 3 - ink & 1 for ink in range(4)] for corner in range(16)])
    grid = np.zeros((16, 3), np.uint8)
    grid[:, 0] = np.round(255 * np.prod(np.where(corners, INKS, 1.0), axis=1))
    grid[:, 1:] = 128
    same = bytes(range(256))
    identity = struct.pack(">9i", *(65536 * (number % 4 == 0) for number in range(9)))
    table = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + identity + same * 4 + grid.tobytes() + same * 3
    return _profile(b"prtr", b"CMYK", b"Lab ", {b"A2B0": table})


def cmyk_light(inks: NDArray[np.float64]) -> NDArray[np.float64]:
    """What `cmyk_icc` means: the lightness of the inks (0 to 1), as stored values of sRGB."""
    lightness = np.prod(1 - inks * (1 - INKS), axis=-1) * 100
    light = np.where(lightness > 8, ((lightness + 16) / 116) ** 3, lightness / 903.3)
    coded = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return np.repeat(coded[..., None], 3, axis=-1)


def from_lab(samples: NDArray[np.float64]) -> NDArray[np.float64]:
    """CIE Lab in bytes (ICC's encoding, of D50) as stored values of sRGB."""
    lightness, a, b = np.moveaxis(samples - [0, 128, 128], -1, 0)
    f = (lightness / 2.55 + 16) / 116
    near = np.stack([f + a / 500, f, f - b / 200], axis=-1)
    xyz = np.where(near > 6 / 29, near**3, (near - 16 / 116) * 3 * (6 / 29) ** 2) * D50
    light = np.clip(xyz @ np.linalg.inv(to_d50(SRGB)).T, 0, 1)
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def _curve(gamma: float) -> bytes:
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)


def _profile(kind: bytes, colours: bytes, by: bytes, tags: dict[bytes, bytes]) -> bytes:
    tags = tags | {
        b"wtpt": _xyz(D50),
        b"desc": b"desc" + bytes(4) + struct.pack(">I", 5) + b"test\0" + bytes(79),
        b"cprt": b"text" + bytes(4) + b"none\0\0\0\0",
    }
    at, listed, body = 128 + 4 + 12 * len(tags), b"", b""
    for name, written in tags.items():
        data = written + bytes(-len(written) % 4)
        listed += name + struct.pack(">II", at + len(body), len(data))
        body += data
    head = struct.pack(">I4sI4s4s4s", at + len(body), b"none", 0x0210_0000, kind, colours, by)
    head += bytes(12) + b"acsp" + bytes(28) + _s15(D50) + bytes(48)
    return head + struct.pack(">I", len(tags)) + listed + body


def _xyz(values) -> bytes:
    return b"XYZ " + bytes(4) + _s15(values)


def _s15(values) -> bytes:
    return struct.pack(">3i", *(round(float(value) * 65536) for value in values))


#: What undoes an EXIF orientation, as HEIF says it: mirrored about a vertical axis (1), then turned left by quarters.
TURNS = {1: (), 2: (1, 0), 3: (None, 2), 4: (1, 2), 5: (1, 1), 6: (None, 3), 7: (1, 3), 8: (None, 1)}


def heic(
    image: Image.Image,
    *,
    profile: bytes | None = None,
    code: tuple[int, int] | None = None,
    turned: int = 1,
    grid: bool = False,
    burst: bool = False,
) -> bytes:
    """A HEIC: HEVC in the boxes of ISO/IEC 23008-12.

    Args:
        image: the main picture.
        profile: ICC.
        code: of its primaries and transfer.
        turned: as EXIF numbers it.
        grid: put together from two tiles, as phones store pictures; its colours are told of the tiles alone.
        burst: with another picture behind the main one.
    """
    half = image.width // 16 * 8
    tiles = [image.crop((at, 0, at + half, image.height)) for at in (0, half)] if grid else [image]
    tiles += [image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)] if burst else []
    units = [_hevc(tile) for tile in tiles]
    colour = b"nclx" + struct.pack(">HHHB", *(code or (1, 13)), 5, 0x80)
    properties = [
        box(b"hvcC", _hvcc([unit for unit in units[0] if unit[0] >> 1 & 63 in (32, 33, 34)])),
        box(b"ispe", bytes(4) + struct.pack(">II", *tiles[0].size)),
        box(b"colr", colour),
        *([box(b"colr", b"prof" + profile)] if profile else []),
    ]
    if turn := TURNS[turned]:
        properties += [box(b"imir", bytes([turn[0]]))] if turn[0] is not None else []
        properties += [box(b"irot", bytes([turn[1]]))] if turn[1] else []
    pictures = [
        b"".join(struct.pack(">I", len(unit)) + unit for unit in each if unit[0] >> 1 & 63 < 32)
        for each in units
    ]
    return _heif(pictures, properties, (2 * half, image.height) if grid else None)


def _hevc(image: Image.Image) -> list[bytes]:
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
    return [unit.rstrip(b"\0") for unit in data.replace(b"\0\0\0\1", b"\0\0\1").split(b"\0\0\1") if unit]


def _hvcc(sets: list[bytes]) -> bytes:
    level = next(unit for unit in sets if unit[0] >> 1 & 63 == 33)[3:15]
    head = b"\x01" + level + b"\xf0\x00\xfc\xff\xf8\xf8\x00\x00\x0f" + bytes([len(sets)])
    return head + b"".join(
        bytes([unit[0] >> 1 & 63]) + struct.pack(">HH", 1, len(unit)) + unit for unit in sets
    )


def _heif(pictures: list[bytes], properties: list[bytes], grid: tuple[int, int] | None) -> bytes:
    """The pictures, numbered from 1, and behind them the grid that they are the tiles of."""
    ftyp = box(b"ftyp", b"heic" + bytes(4) + b"mif1heic")
    items = [(b"hvc1", data) for data in pictures]
    if grid:
        items.append((b"grid", bytes([0, 0, 0, len(pictures) - 1]) + struct.pack(">HH", *grid)))
    main = len(items) if grid else 1
    used = {number: [0x81, *range(2, len(properties) + 1)] for number in range(1, len(pictures) + 1)}
    if grid:
        used[main] = [len(properties) + 1]
        properties = [*properties, box(b"ispe", bytes(4) + struct.pack(">II", *grid))]

    def meta(at: int) -> bytes:
        hdlr = box(b"hdlr", bytes(8) + b"pict" + bytes(13))
        infes = [
            box(
                b"infe",
                bytes([2, 0, 0, bool(grid) and number != main])
                + struct.pack(">HH", number, 0)
                + kind
                + b"\0",
            )
            for number, (kind, _) in enumerate(items, 1)
        ]
        iinf = box(b"iinf", bytes(4) + struct.pack(">H", len(items)) + b"".join(infes))
        places = b""
        for number, (_, data) in enumerate(items, 1):
            places += struct.pack(">HHHII", number, 0, 1, at, len(data))
            at += len(data)
        iloc = box(b"iloc", bytes(4) + b"\x44\x00" + struct.pack(">H", len(items)) + places)
        kept = b"".join(struct.pack(">HB", number, len(each)) + bytes(each) for number, each in used.items())
        ipma = box(b"ipma", bytes(4) + struct.pack(">I", len(used)) + kept)
        iprp = box(b"iprp", box(b"ipco", b"".join(properties)) + ipma)
        tiles = struct.pack(f">HH{len(pictures)}H", main, len(pictures), *range(1, len(pictures) + 1))
        iref = box(b"iref", bytes(4) + box(b"dimg", tiles)) if grid else b""
        pitm = box(b"pitm", bytes(4) + struct.pack(">H", main))
        return box(b"meta", bytes(4) + hdlr + pitm + iinf + iref + iloc + iprp)

    data = b"".join(each for _, each in items)
    return ftyp + meta(len(ftyp) + len(meta(0)) + 8) + box(b"mdat", data)


def with_profile(jp2: bytes, profile: bytes) -> bytes:
    """A JPEG 2000 with an ICC profile, which Pillow does not write."""
    at, outer = jp2.index(b"colr") - 4, jp2.index(b"jp2h") - 4
    size, whole = (int.from_bytes(jp2[place : place + 4]) for place in (at, outer))
    colours = box(b"colr", b"\2\0\0" + profile)
    head = jp2[:outer] + (whole - size + len(colours)).to_bytes(4) + jp2[outer + 4 : at]
    return head + colours + jp2[at + size :]


def box(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data) + 8) + name + data

"""Colours: what the numbers of a picture mean, and the same colours as sRGB.

A picture tells it by an ICC profile, by code points (CICP, ITU-T H.273: AVIF and HEIF's `nclx`, PNG's `cICP`), by
PNG's `gAMA` and `cHRM`, or not at all, which means sRGB.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

__all__ = [
    "ADOBE_RGB",
    "HighRange",
    "Space",
    "by_code",
    "by_gamma",
    "convert",
    "convert_by_profile",
    "is_close",
    "pieces",
    "to_eight_bits",
]

Matrix = NDArray[np.float64]
Point = tuple[float, float]

D65: Point = (0.3127, 0.3290)
#: Steps of 255 by which a picture may be off before it is converted.
CLOSE = 2.0
#: What a conversion works on at once: all of a large picture would take gigabytes.
BAND_PIXELS = 1_000_000


class HighRange(ValueError):
    """Its transfer function is PQ or HLG, which have brightness beyond white: sRGB has no number for that."""


@dataclass(frozen=True)
class Space:
    """An RGB colour space: CIE xy of its primaries and of its white, and its transfer function.

    Attributes:
        gamma: exponent from the stored value to light; 0 stands for sRGB's curve.
        screen: exponent of the screen it is to look right on; 0 stands for sRGB's curve.
    """

    red: Point
    green: Point
    blue: Point
    white: Point = D65
    gamma: float = 0.0
    screen: float = 0.0

    def to_light(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Stored values, 0 to 1, as light, 0 to 1."""
        if self.gamma:
            return values**self.gamma
        return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)  # noqa: PLR2004 - IEC 61966-2-1

    def to_xyz(self) -> Matrix:
        """Light of the three primaries to CIE XYZ."""
        columns = np.array([_xyz(point) for point in (self.red, self.green, self.blue)]).T
        return columns * np.linalg.solve(columns, _xyz(self.white))


SRGB = Space((0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
#: Cameras set to Adobe RGB tell it by an EXIF field alone.
ADOBE_RGB = Space((0.64, 0.33), (0.21, 0.71), (0.15, 0.06), gamma=563 / 256)

#: Colour primaries by code (H.273 table 2). Those not here mean nothing to a portrait, or BT.709 as sRGB has it.
PRIMARIES = {
    4: Space((0.67, 0.33), (0.21, 0.71), (0.14, 0.08), (0.310, 0.316)),
    5: Space((0.64, 0.33), (0.29, 0.60), (0.15, 0.06)),
    6: Space((0.630, 0.340), (0.310, 0.595), (0.155, 0.070)),
    7: Space((0.630, 0.340), (0.310, 0.595), (0.155, 0.070)),
    9: Space((0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),
    11: Space((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), (0.314, 0.351)),
    12: Space((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
}
#: Transfer by code (table 3). BT.709's (1, 6, 14, 15) is what encoders write for pictures meant as sRGB.
GAMMAS = {4: 2.2, 5: 2.8, 8: 1.0, 17: 2.6}
#: PQ and HLG.
HIGH_RANGE = (16, 18)


def by_code(primaries: int, transfer: int) -> Space:
    """The space of two CICP code points.

    Raises:
        HighRange: brightness beyond white.
    """
    if transfer in HIGH_RANGE:
        raise HighRange
    space = PRIMARIES.get(primaries, SRGB)
    return Space(space.red, space.green, space.blue, space.white, GAMMAS.get(transfer, 0.0))


def by_gamma(gamma: int | None, chromaticities: tuple[int, ...] | None) -> Space:
    """The space of PNG's `gAMA` and `cHRM` chunks, in their units of 1/100000.

    Such files are meant for a screen of gamma 2.2 (PNG, 13.13), which is what writers call sRGB here.
    """
    exponent, screen = (100_000 / gamma, 2.2) if gamma else (0.0, 0.0)
    if not chromaticities or 0 in chromaticities:
        return Space(SRGB.red, SRGB.green, SRGB.blue, gamma=exponent, screen=screen)
    white, red, green, blue = (
        (chromaticities[at] / 100_000, chromaticities[at + 1] / 100_000) for at in range(0, 8, 2)
    )
    return Space(red, green, blue, white, exponent, screen)


def _xyz(point: Point) -> NDArray[np.float64]:
    x, y = point
    return np.array([x / y, 1.0, (1 - x - y) / y])


#: Bradford's cone responses, in which whites are adapted to one another.
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])


def _to_srgb_light(space: Space) -> Matrix:
    ratio = (BRADFORD @ _xyz(D65)) / (BRADFORD @ _xyz(space.white))
    adapted = np.linalg.inv(BRADFORD) @ np.diag(ratio) @ BRADFORD
    both: Matrix = np.linalg.inv(SRGB.to_xyz()) @ adapted @ space.to_xyz()
    return both


def _encode(light: NDArray[np.float64], screen: float) -> NDArray[np.uint8]:
    light = np.clip(light, 0.0, 1.0)
    if screen:
        return (light ** (1 / screen) * 255).round().astype(np.uint8)
    values = np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)  # noqa: PLR2004 - IEC 61966-2-1
    return (values * 255).round().astype(np.uint8)


def _converted(space: Space, samples: NDArray[np.uint8] | NDArray[np.uint16]) -> NDArray[np.uint8]:
    """Rows x columns, with 3 channels or (grey) without, as 8-bit sRGB."""
    full = np.iinfo(samples.dtype).max
    light = space.to_light(np.arange(full + 1) / full)[samples]
    in_srgb = light if samples.ndim == 2 else light @ _to_srgb_light(space).T  # noqa: PLR2004 - grey
    return _encode(in_srgb, space.screen)


def is_close(space: Space) -> bool:
    """Whether its numbers are sRGB's, as near as an eye can tell."""
    return _is_close(_converted(space, _probe_colours()))


def _is_close(converted: NDArray[np.uint8]) -> bool:
    off = np.abs(converted.astype(int) - _probe_colours().astype(int))
    return bool(off.max() <= CLOSE)


def _probe_colours() -> NDArray[np.uint8]:
    """Colours from all over the cube, as a picture of one row."""
    steps = np.linspace(0, 255, 9).round().astype(np.uint8)
    return np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(1, -1, 3)


def bands(width: int, height: int) -> Iterator[tuple[int, int]]:
    """First row and the row after the last of each piece of a picture."""
    rows = max(1, BAND_PIXELS // width)
    for top in range(0, height, rows):
        yield top, min(top + rows, height)


def convert(image: Image.Image, space: Space, deep: NDArray[np.uint16] | None = None) -> Image.Image:
    """The picture (L, RGB or RGBA) in sRGB.

    Args:
        image: as it was decoded to 8 bits; gives the size, and the transparency.
        space: what its numbers mean.
        deep: its samples in 16 bits, if it has as many.
    """
    mode = "L" if image.mode == "L" else "RGB"
    done = Image.new(mode, image.size)
    for top, end in bands(*image.size):
        box = (0, top, image.width, end)
        band = np.asarray(image.crop(box).convert(mode)) if deep is None else deep[top:end]
        done.paste(Image.fromarray(_converted(space, band)), box)
    if image.mode == "RGBA":
        done.putalpha(image.getchannel("A"))
    return done


def convert_by_profile(image: Image.Image, profile: bytes) -> Image.Image | None:
    """The picture in sRGB by its ICC profile; None if its numbers are sRGB's already, or the profile is another kind's.

    Raises:
        ValueError: the profile cannot be read.
    """
    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        if (made_for := source.profile.xcolor_space.strip()) not in (_channels(image), "LAB"):
            return None
        target = ImageCms.createProfile("sRGB")
        if made_for == "RGB":
            colours = Image.fromarray(_probe_colours())
            seen = ImageCms.profileToProfile(colours, source, target, outputMode="RGB")
            if seen is None or _is_close(np.asarray(seen)):
                return None
        if image.mode in ("RGB", "RGBA"):
            # In place: a second picture beside a large one would not fit into memory.
            ImageCms.profileToProfile(image, source, target, inPlace=True)
            return image
        return ImageCms.profileToProfile(image, source, target, outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, TypeError) as error:
        raise ValueError(str(error)) from error


def _channels(image: Image.Image) -> str:
    return {"L": "GRAY", "CMYK": "CMYK", "LAB": "Lab"}.get(image.mode, "RGB")


def pieces(image: Image.Image) -> Iterator[tuple[tuple[int, int, int, int], Image.Image]]:
    """The picture in pieces of some rows: work on all of a large one at once would take gigabytes."""
    for top, end in bands(*image.size):
        box = (0, top, image.width, end)
        yield box, image.crop(box)


def to_eight_bits(image: Image.Image) -> Image.Image:
    """A grey picture of more bits, reduced by what seems to be its full scale."""
    highest = np.max([np.asarray(band).astype(np.float64).max(initial=0.0) for _, band in pieces(image)])
    full = 1.0 if highest <= 1 else 255.0 if highest <= 255 else 65535.0  # noqa: PLR2004 - usual full scales
    reduced = Image.new("L", image.size)
    for box, band in pieces(image):
        values = np.asarray(band).astype(np.float64) / full * 255
        reduced.paste(Image.fromarray(np.clip(values, 0, 255).round().astype(np.uint8)), box)
    return reduced

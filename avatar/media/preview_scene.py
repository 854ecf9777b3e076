"""The picture of a preview: the whole portrait, gently moving, a mouth and a waveform that follow the voice, a mark."""

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, ImageOps

from avatar.media.faces import can_search, find_face
from avatar.media.facts import Box
from avatar.media.sound import Samples

__all__ = ["BAR_COLOUR", "Scene", "canvas_size", "frame_levels"]

Pixels = NDArray[np.uint8]
Plane = NDArray[np.float32]
Colour = tuple[int, int, int]

MARK = "PREVIEW"
#: Share of the scene in view, and by how much it breathes; the rest is room for the camera to move in.
VIEW, BREATH = 0.96, 0.01
#: Share of the scene's sides that the portrait has: wherever the camera looks, it sees all of it.
PORTRAIT = 0.9
#: How much of its brightness the blurred border around the portrait keeps.
BORDER = 0.55
#: dB between the loudest syllables and a closed mouth.
RANGE_DB = 30.0
#: Where the mouth is in a face's box, and its size: shares of the box's sides.
MOUTH_DOWN, MOUTH_WIDTH, MOUTH_HEIGHT = 0.79, 0.17, 0.085
#: Under this level (0 to 1) the portrait's own mouth is left as it is.
CLOSED = 0.12
#: Frames of the waveform to each side of the one that is heard.
REACH = 50
BAR_COLOUR, COMING_COLOUR, EDGE_COLOUR = (126, 226, 255), (92, 112, 128), (255, 196, 0)
LIP_COLOUR, THROAT_COLOUR = (196, 92, 92), (52, 14, 20)
#: What the time code is written in.
GLYPHS = "0123456789:./ "


def frame_levels(samples: Samples, sample_rate: int, frame_rate: int, frames: int) -> Plane:
    """How loud the voice is during each frame, 0 (closed) to 1 (its own loudest syllables)."""
    step = sample_rate / frame_rate
    edges = np.minimum((np.arange(frames + 1) * step).astype(int), len(samples))
    power = np.concatenate([[0.0], np.cumsum(samples.astype(np.float64) ** 2)])
    mean = (power[edges[1:]] - power[edges[:-1]]) / np.maximum(np.diff(edges), 1)
    decibels = 10 * np.log10(np.maximum(mean, 1e-10))
    loudest = np.percentile(decibels, 95)
    levels: Plane = np.clip((decibels - loudest) / RANGE_DB + 1, 0, 1).astype(np.float32)
    return levels


def canvas_size(width: int, height: int, max_side: int) -> tuple[int, int]:
    """The portrait's shape with its longest side at `max_side`, both sides even as yuv420p needs."""
    scale = max_side / max(width, height)
    return max(2, round(width * scale / 2) * 2), max(2, round(height * scale / 2) * 2)


class Scene:
    """Draws the frames of one preview.

    Args:
        portrait: the image file.
        levels: one loudness per frame (`frame_levels`).
        frame_rate: frames per second.
        max_side: longest side of the picture, in pixels.
        face: where the portrait's face is, if that is known; else it is looked for.
    """

    def __init__(
        self, portrait: Path, levels: Plane, *, frame_rate: int, max_side: int, face: Box | None = None
    ) -> None:
        with Image.open(portrait, formats=("JPEG", "PNG")) as image:
            ImageOps.exif_transpose(image, in_place=True)
            upright = image.convert("RGB")
        self.size = canvas_size(*upright.size, max_side)
        self._scene, place = _staged(upright, self.size)
        self._levels = levels
        self._frame_rate = frame_rate
        self._nods = np.convolve(levels, np.hanning(11) / np.hanning(11).sum(), "same")
        self._meter = _Meter(self.size)
        self._mark = _draw_mark(self.size)
        self._clock = _Clock(self.size, len(levels) / frame_rate)
        face = face or (find_face(upright) if can_search() else None)
        self._mouth = _Mouth(levels, self._mouth_at(face, place) if face else None)

    @staticmethod
    def _mouth_at(face: Box, place: tuple[int, int, int, int]) -> tuple[float, ...]:
        """Across, down, half the width and half the height of the mouth on the scene, in its pixels."""
        left, top, width, height = place
        return (
            left + (face[0] + face[2] / 2) * width,
            top + (face[1] + face[3] * MOUTH_DOWN) * height,
            MOUTH_WIDTH * face[2] * width,
            MOUTH_HEIGHT * face[3] * height,
        )

    def frame(self, number: int) -> Pixels:
        """The frame as height x width x 3 bytes of RGB."""
        camera = self._camera(number)
        pixels = np.array(self._scene.resize(self.size, Image.Resampling.BILINEAR, box=camera))
        margin = self.mark_corner[0]
        _lay(pixels, self._mark, *self.mark_corner)
        self._clock.draw(pixels, number / self._frame_rate, margin)
        self._meter.draw(pixels, self._levels, number)
        self._mouth.draw(pixels, number, camera, self._meter.top)
        return pixels

    @property
    def mark_corner(self) -> tuple[int, int]:
        """Left and top of the mark."""
        margin = round(min(self.size) * 0.035)
        return margin, margin

    @property
    def mark_size(self) -> tuple[int, int]:
        return self._mark.shape[1], self._mark.shape[0]

    def _camera(self, number: int) -> tuple[float, float, float, float]:
        """The part of the scene in view: a slow breath in and out, a sway, a nod with the voice."""
        seconds = number / self._frame_rate
        width, height = self._scene.size
        share = VIEW + BREATH * math.cos(seconds * 2 * math.pi / 9)
        across, down = width * (1 - share), height * (1 - share)
        left = across * (0.5 + 0.42 * math.sin(seconds * 2 * math.pi / 5.3))
        nod = 0.18 * float(self._nods[number])
        top = down * (0.4 + 0.34 * math.sin(seconds * 2 * math.pi / 7.1) + nod)
        return left, top, left + width * share, top + height * share


def _staged(portrait: Image.Image, size: tuple[int, int]) -> tuple[Image.Image, tuple[int, int, int, int]]:
    """The portrait in the middle of a blurred border, and where it is: left, top, width, height."""
    room = (round(size[0] / VIEW), round(size[1] / VIEW))
    blurred = portrait.resize((12, 12), Image.Resampling.BOX).resize(room, Image.Resampling.BICUBIC)
    scene = blurred.point([round(value * BORDER) for value in range(256)] * 3)
    width, height = round(room[0] * PORTRAIT), round(room[1] * PORTRAIT)
    left, top = (room[0] - width) // 2, (room[1] - height) // 2
    scene.paste(portrait.resize((width, height), Image.Resampling.LANCZOS), (left, top))
    return scene, (left, top, width, height)


def _lay(pixels: Pixels, plate: Plane, left: int, top: int) -> None:
    """Blend a plate (RGB and alpha, colours 0-255, alpha 0-1) onto the picture."""
    height, width = plate.shape[:2]
    region = pixels[top : top + height, left : left + width]
    alpha = plate[..., 3:]
    region[:] = (region * (1 - alpha) + plate[..., :3] * alpha).astype(np.uint8)


def _tint(region: Pixels, coverage: Plane, colour: Colour) -> None:
    alpha = coverage[..., None]
    region[:] = (region * (1 - alpha) + np.asarray(colour, np.float32) * alpha).astype(np.uint8)


def _plate(image: Image.Image) -> Plane:
    plate = np.asarray(image.convert("RGBA")).astype(np.float32)
    plate[..., 3] /= 255
    return plate


def _draw_mark(size: tuple[int, int]) -> Plane:
    font = ImageFont.load_default(size=max(10, round(min(size) * 0.042)))
    left, top, right, bottom = font.getbbox(MARK)
    pad = round((bottom - top) * 0.7)
    box = (math.ceil(right - left) + 2 * pad, math.ceil(bottom - top) + 2 * pad)
    box = (min(box[0], size[0]), min(box[1], size[1]))
    image = Image.new("RGBA", box, (0, 0, 0, 0))
    draw = ImageDraw.Draw(image)
    draw.rounded_rectangle((0, 0, box[0] - 1, box[1] - 1), radius=box[1] // 3, fill=(*EDGE_COLOUR, 235))
    draw.text((pad - left, pad - top), MARK, font=font, fill=(24, 24, 24, 255))
    return _plate(image)


def clock_text(seconds: float) -> str:
    """Minutes, seconds and tenths, as in 1:02.5."""
    tenths = int(seconds * 10 + 1e-6)
    return f"{tenths // 600}:{tenths // 10 % 60:02}.{tenths % 10}"


class _Clock:
    """The time in this part of the voice, and how long it is: it begins anew where two parts are joined."""

    def __init__(self, size: tuple[int, int], seconds: float) -> None:
        font = ImageFont.load_default(size=max(9, round(min(size) * 0.036)))
        self._whole = clock_text(seconds)
        width = math.ceil(max(font.getlength(glyph) for glyph in GLYPHS))
        height = math.ceil(font.getbbox(GLYPHS)[3] * 1.3)
        self._glyphs = {glyph: self._draw(glyph, font, (width, height)) for glyph in GLYPHS}

    @staticmethod
    def _draw(
        glyph: str, font: "ImageFont.ImageFont | ImageFont.FreeTypeFont", box: tuple[int, int]
    ) -> Pixels:
        image = Image.new("RGB", box, (12, 16, 24))
        ImageDraw.Draw(image).text((box[0] / 2, box[1] / 2), glyph, font=font, fill="white", anchor="mm")
        return np.asarray(image)

    def draw(self, pixels: Pixels, seconds: float, margin: int) -> None:
        text = f" {clock_text(seconds)} / {self._whole} "
        written = np.concatenate([self._glyphs[letter] for letter in text], axis=1)
        height, width = written.shape[:2]
        if width + 2 * margin <= pixels.shape[1] and height + margin <= pixels.shape[0]:
            pixels[margin : margin + height, -margin - width : -margin] = written


class _Meter:
    """A dark strip near the bottom through which the waveform runs; what is heard is in its middle.

    An amber line shows where this part of the voice begins or ends.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        width, height = max(16, round(size[0] * 0.9)), max(8, round(min(size) * 0.09))
        self.top = round(size[1] * 0.955) - height
        self._left = (size[0] - width) // 2
        self._strip = self._draw_strip(width, height)
        across = np.arange(width) + 0.5 - width / 2
        self._y = np.abs(np.arange(height, dtype=np.float32) + 0.5 - height / 2)[:, None]
        pitch = width / (2 * REACH + 1)
        self._bar = np.rint(across / pitch).astype(int)
        # Thin bars have no room for gaps between them.
        self._solid = np.abs(across / pitch - self._bar) <= (0.36 if pitch >= 3 else 0.5)  # noqa: PLR2004 - pixels
        self._half = height / 2 * 0.8

    @staticmethod
    def _draw_strip(width: int, height: int) -> Plane:
        image = Image.new("RGBA", (width * 4, height * 4), (0, 0, 0, 0))
        box = (0, 0, width * 4 - 1, height * 4 - 1)
        ImageDraw.Draw(image).rounded_rectangle(box, radius=height, fill=(12, 16, 24, 190))
        return _plate(image.resize((width, height), Image.Resampling.LANCZOS))

    def draw(self, pixels: Pixels, levels: Plane, number: int) -> None:
        _lay(pixels, self._strip, self._left, self.top)
        height, width = self._strip.shape[:2]
        region = pixels[self.top : self.top + height, self._left : self._left + width]
        shown = self._bar + number
        inside = (shown >= 0) & (shown < len(levels))
        reach = np.where(
            inside & self._solid, levels[np.clip(shown, 0, len(levels) - 1)] * self._half + 0.5, 0
        )
        drawn = self._y < reach[None, :]
        region[drawn & (self._bar <= 0)[None, :]] = BAR_COLOUR
        region[drawn & (self._bar > 0)[None, :]] = COMING_COLOUR
        region[:, (shown == -1) | (shown == len(levels))] = EDGE_COLOUR
        region[:, width // 2] = (255, 255, 255)


class _Mouth:
    """A mouth that opens with the voice: on the face, where one was found, else above the waveform."""

    def __init__(self, levels: Plane, at: "tuple[float, ...] | None") -> None:
        # What opens and closes within two frames is a flicker.
        self._open = np.convolve(np.pad(levels, 1, "edge"), [0.25, 0.5, 0.25], "valid")
        self._at = at

    def draw(self, pixels: Pixels, number: int, camera: tuple[float, ...], bottom: int) -> None:
        size = (pixels.shape[1], pixels.shape[0])
        across, down, half_width, half_height = self._place(size, camera, bottom)
        opening = float(self._open[number])
        if opening < CLOSED:
            return
        half_height *= 0.25 + 0.75 * opening
        half_width *= 1.08 - 0.16 * opening
        left, top = max(0, math.floor(across - half_width) - 2), max(0, math.floor(down - half_height) - 2)
        right, end = math.ceil(across + half_width) + 3, math.ceil(down + half_height) + 3
        region = pixels[top:end, left:right]
        x = np.arange(left, left + region.shape[1], dtype=np.float64)[None, :] + 0.5 - across
        y = np.arange(top, top + region.shape[0], dtype=np.float64)[:, None] + 0.5 - down
        rim = max(1.0, 0.16 * half_width)
        _tint(region, _ellipse(x, y, half_width, half_height), LIP_COLOUR)
        _tint(region, _ellipse(x, y, half_width - rim, half_height - rim * 0.8), THROAT_COLOUR)

    def _place(self, size: tuple[int, int], camera: tuple[float, ...], bottom: int) -> tuple[float, ...]:
        if self._at is None:
            height = min(size) * 0.035
            return size[0] / 2, bottom - 1.6 * height, height * 1.5, height
        scale = size[0] / (camera[2] - camera[0])
        across, down, half_width, half_height = self._at
        return (
            (across - camera[0]) * scale,
            (down - camera[1]) * scale,
            half_width * scale,
            half_height * scale,
        )


def _ellipse(x: NDArray[np.float64], y: NDArray[np.float64], across: float, down: float) -> Plane:
    if min(across, down) <= 0:
        return np.zeros(np.broadcast_shapes(x.shape, y.shape), np.float32)
    distance = np.hypot(x / across, y / down)
    coverage: Plane = np.clip((1 - distance) * min(across, down) + 0.5, 0, 1).astype(np.float32)
    return coverage

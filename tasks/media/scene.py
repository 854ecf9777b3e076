"""The picture of a preview: the portrait gently moving, a mouth and a meter that follow the voice, and a mark."""

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, ImageOps

from tasks.media.sound import Samples

Pixels = NDArray[np.uint8]
Plane = NDArray[np.float32]

MARK = "PREVIEW"
#: Share of the portrait in view; the rest is room for the camera to move in.
VIEW = 0.93
#: dB between the loudest syllables and a closed mouth.
RANGE_DB = 30.0
BARS_EACH_SIDE = 12
BAR_COLOUR, LIP_COLOUR, THROAT_COLOUR = (126, 226, 255), (255, 122, 122), (74, 16, 26)


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
    """

    def __init__(self, portrait: Path, levels: Plane, *, frame_rate: int, max_side: int) -> None:
        with Image.open(portrait, formats=("JPEG", "PNG")) as image:
            ImageOps.exif_transpose(image, in_place=True)
            upright = image.convert("RGB")
        self.size = canvas_size(*upright.size, max_side)
        room = (round(self.size[0] / VIEW), round(self.size[1] / VIEW))
        self._portrait = upright.resize(room, Image.Resampling.LANCZOS)
        self._levels = levels
        self._frame_rate = frame_rate
        self._nods = np.convolve(levels, np.hanning(11) / np.hanning(11).sum(), "same")
        self._meter = _Meter(self.size)
        self._mark = _draw_mark(self.size)

    def frame(self, number: int) -> Pixels:
        """The frame as height x width x 3 bytes of RGB."""
        view = self._portrait.resize(self.size, Image.Resampling.BILINEAR, box=self._camera(number))
        pixels = np.array(view)
        _lay(pixels, self._mark, *self.mark_corner)
        self._meter.draw(pixels, self._levels, number)
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
        """The part of the portrait in view: a slow breath in and out, a sway, a nod with the voice."""
        seconds = number / self._frame_rate
        width, height = self._portrait.size
        share = VIEW + 0.02 * math.cos(seconds * 2 * math.pi / 9)
        across, down = width * (1 - share), height * (1 - share)
        left = across * (0.5 + 0.42 * math.sin(seconds * 2 * math.pi / 5.3))
        nod = 0.18 * float(self._nods[number])
        top = down * (0.45 + 0.34 * math.sin(seconds * 2 * math.pi / 7.1) + nod)
        return left, top, left + width * share, top + height * share


def _lay(pixels: Pixels, plate: Plane, left: int, top: int) -> None:
    """Blend a plate (RGB and alpha, colours 0-255, alpha 0-1) onto the picture."""
    height, width = plate.shape[:2]
    region = pixels[top : top + height, left : left + width]
    alpha = plate[..., 3:]
    region[:] = (region * (1 - alpha) + plate[..., :3] * alpha).astype(np.uint8)


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
    draw.rounded_rectangle((0, 0, box[0] - 1, box[1] - 1), radius=box[1] // 3, fill=(255, 196, 0, 235))
    draw.text((pad - left, pad - top), MARK, font=font, fill=(24, 24, 24, 255))
    return _plate(image)


class _Meter:
    """A dark strip near the bottom: in its middle a mouth, to both sides bars that carry the sound outwards."""

    def __init__(self, size: tuple[int, int]) -> None:
        width = max(16, round(min(size[0] * 0.8, size[1] * 0.62)))
        height = max(8, min(round(width * 0.16), size[1] // 4))
        self._corner = ((size[0] - width) // 2, round(size[1] * 0.955) - height)
        self._strip = self._draw_strip(width, height)
        self._half = height / 2
        across = np.arange(width, dtype=np.float32) + 0.5 - width / 2
        self._x, self._y = np.meshgrid(across, np.arange(height, dtype=np.float32) + 0.5 - height / 2)
        self._mouth_width = height * 0.62
        pitch = (width / 2 - self._mouth_width * 1.3 - height * 0.3) / BARS_EACH_SIDE
        place = (np.abs(across) - self._mouth_width * 1.3) / pitch
        self._bar = np.clip(np.floor(place), 0, BARS_EACH_SIDE - 1).astype(int)
        self._bar_x = (place - self._bar - 0.5) * pitch
        self._bar_radius = pitch * 0.3

    @staticmethod
    def _draw_strip(width: int, height: int) -> Plane:
        image = Image.new("RGBA", (width * 4, height * 4), (0, 0, 0, 0))
        box = (0, 0, width * 4 - 1, height * 4 - 1)
        ImageDraw.Draw(image).rounded_rectangle(box, radius=height * 2, fill=(12, 16, 24, 178))
        return _plate(image.resize((width, height), Image.Resampling.LANCZOS))

    def draw(self, pixels: Pixels, levels: Plane, number: int) -> None:
        left, top = self._corner
        _lay(pixels, self._strip, left, top)
        height, width = self._strip.shape[:2]
        region = pixels[top : top + height, left : left + width]
        _tint(region, self._bars(levels, number), BAR_COLOUR)
        opening = self._half * (0.12 + 0.6 * float(levels[number]))
        _tint(region, self._ellipse(self._mouth_width, opening), LIP_COLOUR)
        _tint(region, self._ellipse(self._mouth_width * 0.74, opening - self._half * 0.16), THROAT_COLOUR)

    def _bars(self, levels: Plane, number: int) -> Plane:
        """Coverage of the bars: the innermost shows this frame's level, each further one an earlier frame's."""
        ages = np.arange(BARS_EACH_SIDE)
        history = np.where(number >= ages, levels[np.maximum(number - ages, 0)], 0)
        fading = 1 - 0.5 * ages / BARS_EACH_SIDE
        reach = (self._half * 0.7 * history * fading)[self._bar][None, :]
        beyond = np.maximum(np.abs(self._y) - reach, 0)
        distance = np.hypot(self._bar_x[None, :], beyond)
        coverage: Plane = np.clip(self._bar_radius - distance + 0.5, 0, 1).astype(np.float32)
        return coverage

    def _ellipse(self, across: float, down: float) -> Plane:
        if down <= 0:
            return np.zeros_like(self._x)
        distance = np.hypot(self._x / across, self._y / down)
        coverage: Plane = np.clip((1 - distance) * min(across, down) + 0.5, 0, 1)
        return coverage


def _tint(region: Pixels, coverage: Plane, colour: tuple[int, int, int]) -> None:
    alpha = coverage[..., None]
    region[:] = (region * (1 - alpha) + np.asarray(colour, np.float32) * alpha).astype(np.uint8)

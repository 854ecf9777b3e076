"""Watching a picture go by: where it shows nothing or stands still, and the stills taken of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path

import numpy as np
from av.audio.frame import AudioFrame
from av.container import InputContainer
from av.error import FFmpegError
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from avatar.errors import VideoRejected
from avatar.media.facts import Stills
from avatar.media.sound import as_float, open_media, reason

# Watching a picture go by: where it shows nothing, and where it stands still.
Grey = NDArray[np.float32]

#: Seconds between looks. Faults worth refusing a video for last longer, and most of the cost is in looking.
LOOK_SECONDS = 0.1
#: Side of the small grey copy that is looked at, and of the blocks it is compared in, in pixels.
SIDE, BLOCK = 128, 8
#: A picture that varies less than this (standard deviation, 0-255) shows one colour.
BLANK_SPREAD = 5.0
#: A picture is another one when the block that changed most did so by this much on average (0-255). In
#: tests/media/clips.py a mouth of a twentieth of the width, on a picture otherwise still, does so by up to 4; a
#: frozen picture by up to 2, and by up to 7 in its first second when it is poorly encoded (the bound on seconds
#: allows for that). It is compared with the last one that differed, not with the one before, so that slow motion
#: adds up: a drift of 1 % of the width a second shows within half a second.
CHANGED = 3.0
#: Shorter stretches are not kept.
SHORTEST = 0.25


@dataclass(frozen=True)
class TimeRange:
    """A part of a video, in seconds from its beginning."""

    start: float
    end: float

    @property
    def seconds(self) -> float:
        return self.end - self.start


class PictureWatch:
    """Sees every frame of a video in order, and tells where it was blank and where it was still.

    Attributes:
        blank: stretches of one colour, black or another.
        still: stretches in which nothing changed.
    """

    def __init__(self) -> None:
        self.blank: list[TimeRange] = []
        self.still: list[TimeRange] = []
        self._next = 0.0
        self._now = 0.0
        self._blank_since: float | None = None
        self._still_since = 0.0
        self._shown: Grey | None = None
        self._scaler = VideoReformatter()  # kept: making one takes longer than scaling a frame

    def __call__(self, frame: VideoFrame | AudioFrame) -> None:
        if not isinstance(frame, VideoFrame):
            return
        self._now = max(self._now, frame.time or 0.0)
        if self._shown is None or self._now >= self._next:
            self._next = self._now + LOOK_SECONDS - 0.001
            self._look(grey_copy(frame, self._scaler))

    def finish(self, end: float) -> None:
        """The picture ended at `end` seconds."""
        self._now = max(self._now, end)
        self._end_still()
        self._end_blank()

    def _look(self, grey: Grey) -> None:
        if grey.std() >= BLANK_SPREAD:
            self._end_blank()
        elif self._blank_since is None:
            self._blank_since = self._now
        if self._shown is None or change(grey, self._shown) >= CHANGED:
            self._end_still()
            self._shown = grey

    def _end_still(self) -> None:
        if self._now - self._still_since >= SHORTEST:
            self.still.append(TimeRange(self._still_since, self._now))
        self._still_since = self._now

    def _end_blank(self) -> None:
        if self._blank_since is not None and self._now > self._blank_since:
            self.blank.append(TimeRange(self._blank_since, self._now))
        self._blank_since = None


def grey_copy(frame: VideoFrame, scaler: VideoReformatter) -> Grey:
    """The frame as `SIDE` x `SIDE` brightnesses, 0 to 255."""
    small = scaler.reformat(frame, SIDE, SIDE, "gray", interpolation="AREA", threads=1)
    return small.to_ndarray().astype(np.float32)


def change(one: Grey, other: Grey) -> float:
    """The mean difference in the block that differs most, 0 to 255."""
    blocks = np.abs(one - other).reshape(SIDE // BLOCK, BLOCK, SIDE // BLOCK, BLOCK)
    return float(blocks.mean(axis=(1, 3)).max())


# Still pictures of a video, for pages and lists.
#: A frame darker than this on average (0-255) opens a fade-in.
DARK = 16
#: A frame whose brightness varies less than this (standard deviation, 0-255) shows nothing.
FLAT = 8
#: Frames that may become the poster: 4 s at 25 frames per second. Only every fifth is looked at.
PATIENCE, STRIDE = 100, 5
#: A frame is inside a fade when it varies less than this share of the liveliest frame.
FADED = 0.85
#: A frame is as sharp as the sharpest from this share on; the first such frame is taken.
SHARP = 0.9
#: The voice is loud in a frame from this share of the loudest on, within so many seconds of it.
LOUD, AROUND = 0.8, 0.04
#: Longest side of the poster, in pixels.
POSTER_SIDE = 1280
#: Pictures in a contact strip, pixels between them, and the height of each.
STRIP_FRAMES, GAP, STRIP_HEIGHT = 8, 4, 180
#: Of the time written on each of them, in pixels.
CODE_HEIGHT = 14


@dataclass(frozen=True)
class _Look:
    """A frame, and how bright (mean), lively (deviation) and sharp (difference of neighbours) it is, 0 to 255."""

    frame: VideoFrame
    brightness: float
    variation: float
    sharpness: float

    @property
    def tells(self) -> bool:
        return self.brightness >= DARK and self.variation >= FLAT


class StillsWatch:
    """Sees every frame of a video in order, and keeps what its stills need. Decoding is most of their cost.

    Args:
        seconds: how long the video should be; the strip's frames are spread over that.
    """

    def __init__(self, seconds: float) -> None:
        self._waiting = [seconds * (number + 0.5) / STRIP_FRAMES for number in range(STRIP_FRAMES)]
        self._strip: list[Image.Image] = []
        self._looks: list[_Look] = []
        self._seen, self._start = 0, 0.0
        self._on_show: VideoFrame | None = None
        self._judging, self._drawing = VideoReformatter(), VideoReformatter()
        self._heard: list[tuple[float, float]] = []

    def __call__(self, frame: VideoFrame | AudioFrame) -> None:
        if isinstance(frame, AudioFrame):
            if self._seen <= PATIENCE:
                self._heard.append((frame.time or 0.0, float(np.abs(as_float(frame)).mean())))
            return
        if self._on_show is None:
            self._start = frame.time or 0.0
        if self._seen <= PATIENCE and self._seen % STRIDE == 0:
            self._looks.append(_look(frame, self._judging))
        self._seen += 1
        now = (frame.time or 0.0) - self._start
        while self._waiting and now > self._waiting[0]:
            self._strip.append(_small(self._on_show or frame, self._waiting[0], self._drawing))
            del self._waiting[0]
        self._on_show = frame

    def write(self, stills: Stills) -> None:
        """Write both; moments after the end show the last frame."""
        poster = Image.fromarray(self._telling().to_ndarray(format="rgb24"))
        poster.thumbnail((POSTER_SIDE, POSTER_SIDE), Image.Resampling.LANCZOS)
        poster.save(stills.poster, "JPEG", quality=88, optimize=True, progressive=True)
        if self._on_show is not None:
            self._strip += [_small(self._on_show, moment, self._drawing) for moment in self._waiting]
        _beside(self._strip).save(stills.contact, "JPEG", quality=85, optimize=True)

    def _telling(self) -> VideoFrame:
        """The frame for the poster: of those that are clear and sharp, the first in which the voice is loud."""
        liveliest = max(self._looks, key=lambda look: look.variation)
        clear = [look for look in self._looks if look.tells and look.variation >= FADED * liveliest.variation]
        if not clear:
            return liveliest.frame
        sharpest = max(look.sharpness for look in clear)
        sharp = [look.frame for look in clear if look.sharpness >= SHARP * sharpest]
        loud = LOUD * max((self._loudness(frame) for frame in sharp), default=0.0)
        return next(frame for frame in sharp if self._loudness(frame) >= loud)

    def _loudness(self, frame: VideoFrame) -> float:
        """Of the sound around a frame: mouths that speak are open."""
        now = frame.time or 0.0
        return max((level for time, level in self._heard if abs(time - now) <= AROUND), default=0.0)


def _beside(images: list[Image.Image]) -> Image.Image:
    strip = Image.new("RGB", (sum(image.width + GAP for image in images) - GAP, STRIP_HEIGHT))
    for number, image in enumerate(images):
        strip.paste(image, (number * (image.width + GAP), 0))
    return strip


def last_frame(video: Path, target: Path) -> None:
    """As `avatar.media.decoder_calls.last_frame` says."""
    with _opened(video) as (container, stream):
        if stream.duration:
            container.seek(stream.duration + (stream.start_time or 0), stream=stream)
        frame = None
        for frame in container.decode(stream):  # noqa: B007 - the last one is wanted
            pass
        if frame is None:
            raise VideoRejected(f"{video.name}: its last frame does not decode.")
        Image.fromarray(frame.to_ndarray(format="rgb24")).save(target, "PNG")


@contextmanager
def _opened(video: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    try:
        with open_media(video) as container:
            stream = container.streams.best("video")
            if not isinstance(stream, VideoStream):
                raise VideoRejected(f"{video.name} has no picture in it.")
            yield container, stream
    except (FFmpegError, OSError) as error:
        raise VideoRejected(f"{video.name} does not decode as a video: {reason(error)}.") from error


def _small(frame: VideoFrame, moment: float, scaler: VideoReformatter) -> Image.Image:
    """A picture of the strip, with the time at which it is shown."""
    width = max(1, round(frame.width * STRIP_HEIGHT / frame.height))
    small = scaler.reformat(frame, width, STRIP_HEIGHT, "rgb24", interpolation="AREA", threads=1)
    image = Image.fromarray(small.to_ndarray())
    font, draw = _font(), ImageDraw.Draw(image)
    code = f"{int(moment) // 60}:{moment % 60:04.1f}"
    draw.rectangle(
        (0, STRIP_HEIGHT - CODE_HEIGHT - 7, font.getlength(code) + 9, STRIP_HEIGHT), fill=(12, 16, 24)
    )
    draw.text((5, STRIP_HEIGHT - CODE_HEIGHT - 5), code, font=font, fill="white")
    return image


@cache
def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=CODE_HEIGHT)


def _look(frame: VideoFrame, scaler: VideoReformatter) -> _Look:
    grey = grey_copy(frame, scaler)
    sharpness = float(np.abs(np.diff(grey, axis=0)).mean() + np.abs(np.diff(grey, axis=1)).mean())
    return _Look(frame, float(grey.mean()), float(grey.std()), sharpness)


def thumbnail(image: bytes, max_side: int, max_bytes: int) -> bytes:
    """A small JPEG: at most `max_side` pixels a side and `max_bytes` long."""
    with Image.open(BytesIO(image), formats=("JPEG", "PNG")) as opened:
        small = opened.convert("RGB")
    small.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    while True:
        for quality in (85, 75, 65, 50, 35):
            jpeg = _jpeg(small, quality)
            if len(jpeg) <= max_bytes:
                return jpeg
        small = small.resize((max(1, small.width // 2), max(1, small.height // 2)))
        if small.size == (1, 1):
            return _jpeg(small, 35)


def _jpeg(image: Image.Image, quality: int) -> bytes:
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=quality, optimize=True)
    return buffer.getvalue()

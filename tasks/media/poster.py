"""Still pictures of a video, for pages and lists."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from PIL import Image

from tasks.errors import VideoRejected
from tasks.media.confined import confined
from tasks.media.sound import open_media, reason

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
#: Side of the small grey copy that is judged, in pixels.
JUDGED_SIDE = 128
#: Pixels between the pictures of a contact strip, and the height of each.
GAP, STRIP_HEIGHT = 4, 180


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


@confined(VideoRejected)
def make_poster(video: Path, target: Path, *, max_side: int = 1280) -> None:
    """Write as JPEG an early frame that shows something sharply, no side longer than `max_side` pixels.

    Raises:
        VideoRejected: no frame could be decoded.
    """
    image = Image.fromarray(_telling_frame(video).to_ndarray(format="rgb24"))
    image.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    image.save(target, "JPEG", quality=88, optimize=True, progressive=True)


@confined(VideoRejected)
def make_contact(video: Path, target: Path, *, frames: int = 8) -> None:
    """Write as JPEG a strip of `frames` frames, evenly from the beginning to the end of the video.

    Raises:
        VideoRejected: it does not decode.
    """
    with _opened(video) as (container, stream):
        seconds = (
            float((stream.duration or 0) * (stream.time_base or 0)) or (container.duration or 0) / 1_000_000
        )
        start = float((stream.start_time or 0) * (stream.time_base or 0))
        moments = [start + seconds * (number + 0.5) / frames for number in range(frames)]
        images = [_small(_frame_at(container, stream, moment)) for moment in moments]
    width = sum(image.width + GAP for image in images) - GAP
    strip = Image.new("RGB", (width, STRIP_HEIGHT))
    for number, image in enumerate(images):
        strip.paste(image, (number * (image.width + GAP), 0))
    strip.save(target, "JPEG", quality=85, optimize=True)


@confined(VideoRejected)
def last_frame(video: Path, target: Path) -> None:
    """Write the last frame as PNG, in full size: the portrait that a following segment goes on from.

    Raises:
        VideoRejected: it does not decode.
    """
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
            stream.thread_type = "AUTO"
            yield container, stream
    except (FFmpegError, OSError) as error:
        raise VideoRejected(f"{video.name} does not decode as a video: {reason(error)}.") from error


def _frame_at(container: InputContainer, stream: VideoStream, seconds: float) -> VideoFrame:
    """The frame on show at that moment, the last one if the video is over."""
    container.seek(int(seconds / (stream.time_base or 1)), stream=stream)
    frame = None
    for following in container.decode(stream):
        if frame is not None and (following.time or 0.0) > seconds:
            break
        frame = following
    if frame is None:
        raise VideoRejected(f"No frame decodes {seconds:.1f} s into the video.")
    return frame


def _small(frame: VideoFrame) -> Image.Image:
    width = max(1, round(frame.width * STRIP_HEIGHT / frame.height))
    return Image.fromarray(frame.to_ndarray(format="rgb24")).resize(
        (width, STRIP_HEIGHT), Image.Resampling.LANCZOS
    )


def _telling_frame(video: Path) -> VideoFrame:
    looks = _looks(video)
    if not looks:
        raise VideoRejected(f"{video.name} has no picture to make a poster of.")
    liveliest = max(looks, key=lambda look: look.variation)
    clear = [look for look in looks if look.tells and look.variation >= FADED * liveliest.variation]
    if not clear:
        return liveliest.frame
    sharpest = max(look.sharpness for look in clear)
    return next(look.frame for look in clear if look.sharpness >= SHARP * sharpest)


def _looks(video: Path) -> list[_Look]:
    looks = []
    with _opened(video) as (container, stream):
        for number, frame in enumerate(container.decode(stream)):
            if number % STRIDE == 0:
                looks.append(_look(frame))
            if number >= PATIENCE:
                break
    return looks


def _look(frame: VideoFrame) -> _Look:
    small = frame.reformat(width=JUDGED_SIDE, height=JUDGED_SIDE, format="gray", interpolation="AREA")
    grey = small.to_ndarray().astype(np.float32)
    sharpness = float(np.abs(np.diff(grey, axis=0)).mean() + np.abs(np.diff(grey, axis=1)).mean())
    return _Look(frame, float(grey.mean()), float(grey.std()), sharpness)


def thumbnail(image: Path | bytes, max_side: int = 320, max_bytes: int = 40_000) -> bytes:
    """A small JPEG for a data URI: at most `max_side` pixels a side and `max_bytes` long."""
    # Pictures that were drawn here, and so decoded here.
    with Image.open(BytesIO(image) if isinstance(image, bytes) else image, formats=("JPEG", "PNG")) as opened:
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

"""Still pictures of a video, for pages and lists."""

from io import BytesIO
from pathlib import Path

import numpy as np
from av.error import FFmpegError
from av.video.frame import VideoFrame
from PIL import Image

from tasks.errors import VideoRejected
from tasks.media.sound import open_media

#: A frame darker than this on average (0-255) opens a fade-in.
DARK = 16
#: A frame whose brightness varies less than this (standard deviation, 0-255) shows nothing.
FLAT = 8
#: Frames looked at before settling for the liveliest of them: 4 s at 25 frames per second.
PATIENCE = 100


def make_poster(video: Path, target: Path, *, max_side: int = 1280) -> None:
    """Write as JPEG the first frame that shows something, no side longer than `max_side` pixels.

    Raises:
        VideoRejected: no frame could be decoded.
    """
    image = Image.fromarray(_first_telling_frame(video).to_ndarray(format="rgb24"))
    image.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    image.save(target, "JPEG", quality=88, optimize=True, progressive=True)


def _first_telling_frame(video: Path) -> VideoFrame:
    liveliest, variation = None, -1.0
    try:
        with open_media(video) as container:
            for number, frame in enumerate(container.decode(video=0)):
                brightness = _brightness(frame)
                if brightness.mean() >= DARK and brightness.std() >= FLAT:
                    return frame
                if brightness.std() > variation:
                    liveliest, variation = frame, float(brightness.std())
                if number >= PATIENCE:
                    break
    except (FFmpegError, OSError, IndexError) as error:
        raise VideoRejected(f"{video.name} has no picture to make a poster of: {error}") from error
    if liveliest is None:
        raise VideoRejected(f"{video.name} has no picture to make a poster of.")
    return liveliest


def _brightness(frame: VideoFrame) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """A small grey copy, which is enough to judge by."""
    return frame.reformat(width=64, height=64, format="gray").to_ndarray().astype(np.uint8)


def thumbnail(image: Path | bytes, max_side: int = 320, max_bytes: int = 40_000) -> bytes:
    """A small JPEG for a data URI: at most `max_side` pixels a side and `max_bytes` long."""
    with Image.open(BytesIO(image) if isinstance(image, bytes) else image) as opened:
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

"""What a provider does with the URLs it is given: fetch, decode, refuse."""

import io
from typing import Any

import aiohttp
import av
from PIL import Image

from tests.sandbox.options import Options

ERROR_PAGES = "https://docs.fal.ai/errors/#"


class Unusable(Exception):
    """An input the provider refuses, with fal's documented error type and context."""

    def __init__(self, kind: str, field: str, message: str, **context: Any) -> None:
        super().__init__(message)
        self.kind, self.field, self.message, self.context = kind, field, message, context

    def detail(self, body: dict[str, Any]) -> dict[str, Any]:
        """One entry of fal's `detail` list (fal.ai/docs … errors.md)."""
        entry = {
            "loc": ["body", self.field],
            "msg": self.message,
            "type": self.kind,
            "url": ERROR_PAGES + self.kind,
            "input": body.get(self.field),
        }
        return entry | ({"ctx": self.context} if self.context else {})


async def fetch(session: aiohttp.ClientSession, url: Any, field: str, limit: int, seconds: float) -> bytes:
    """Download an input, with no header of the customer's, and stop when it is over the limit."""
    if not isinstance(url, str) or not url:
        raise Unusable("missing", field, "Field required")
    try:
        async with session.get(url, timeout=aiohttp.ClientTimeout(total=seconds)) as answer:
            answer.raise_for_status()
            data = bytearray()
            async for piece in answer.content.iter_chunked(1 << 16):
                data += piece
                if len(data) > limit:
                    raise Unusable(
                        "file_too_large", field, f"File size exceeds {limit} bytes", max_size=limit
                    )
    except (aiohttp.ClientError, TimeoutError, ValueError, OSError) as error:
        text = "Failed to download the file. Make sure the URL is publicly accessible."
        raise Unusable("file_download_error", field, text) from error
    return bytes(data)


def check_image(data: bytes, options: Options) -> None:
    """Refuse what Kling's image rules refuse: JPEG or PNG, 300 px and more, 1:2.5 to 2.5:1."""
    try:
        image = Image.open(io.BytesIO(data))
        image.load()
    except Exception as error:  # Pillow raises many kinds for a damaged file
        raise Unusable("image_load_error", "image_url", "Failed to load the image") from error
    if image.format not in {"JPEG", "PNG"}:
        raise Unusable(
            "unsupported_image_format",
            "image_url",
            f"Unsupported format {image.format}",
            supported_formats=["jpeg", "png"],
        )
    short, long = sorted(image.size)
    if short < options.min_image_side:
        side = options.min_image_side
        raise Unusable("image_too_small", "image_url", "Image too small", min_width=side, min_height=side)
    if long > options.max_aspect * short:
        # The aspect rule has no documented error type; the generic one is used.
        raise Unusable("value_error", "image_url", "Image aspect ratio must be between 1:2.5 and 2.5:1")


def check_audio(data: bytes, options: Options) -> float:
    """Refuse what is not MP3 or WAV, or too short or long; returns its length in seconds."""
    try:
        container_name, seconds = measure(data)
    except Exception as error:  # PyAV raises many kinds for a damaged file
        raise Unusable("audio_load_error", "audio_url", "Failed to load the audio") from error
    if container_name not in {"mp3", "wav"}:
        raise Unusable(
            "unsupported_audio_format",
            "audio_url",
            f"Unsupported format {container_name}",
            supported_formats=["mp3", "wav"],
        )
    if seconds > options.max_seconds:
        limit = {"max_duration": options.max_seconds, "provided_duration": seconds}
        raise Unusable("audio_duration_too_long", "audio_url", "Audio is too long", **limit)
    if seconds < options.min_seconds:
        limit = {"min_duration": options.min_seconds, "provided_duration": seconds}
        raise Unusable("audio_duration_too_short", "audio_url", "Audio is too short", **limit)
    return seconds


def measure(data: bytes) -> tuple[str, float]:
    """Container name and decoded length in seconds."""
    with av.open(io.BytesIO(data), "r") as container:
        rate = container.streams.audio[0].rate
        samples = sum(frame.samples for frame in container.decode(audio=0))
        return container.format.name, samples / rate

"""Small good files of every format that is read: what the fuzz begins with."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from tests.media.recordings import encode, tone, write_video

RATE = 16000


def drawn(side: int = 24) -> Image.Image:
    across = np.linspace(0, 255, side).astype(np.uint8)
    pixels = np.stack(
        [np.tile(across, (side, 1)), np.tile(across[:, None], (1, side)), np.full((side, side), 90)], axis=2
    )
    return Image.fromarray(pixels.astype(np.uint8))


def see_through() -> Image.Image:
    image = drawn()
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def deep() -> Image.Image:
    return Image.fromarray(np.linspace(0, 65535, 576).reshape(24, 24).astype(np.uint16))


#: By file name: the picture, and how it is saved.
PORTRAITS: dict[str, tuple[Callable[[], Image.Image], dict[str, object]]] = {
    "plain.png": (drawn, {}),
    "alpha.png": (see_through, {}),
    "palette.png": (lambda: drawn().quantize(8), {}),
    "deep.png": (deep, {}),
    "moving.png": (drawn, {"save_all": True, "append_images": [drawn().rotate(90)]}),
    "plain.jpg": (drawn, {"exif": turned()}),
    "progressive.jpg": (drawn, {"progressive": True}),
    "print.jpg": (lambda: drawn().convert("CMYK"), {}),
    "lossy.webp": (see_through, {}),
    "moving.webp": (drawn, {"save_all": True, "append_images": [drawn().rotate(90)], "lossless": True}),
    "plain.avif": (drawn, {}),
    "moving.gif": (drawn, {"save_all": True, "append_images": [drawn().rotate(90)]}),
    "plain.bmp": (drawn, {}),
    "packed.tif": (drawn, {"compression": "tiff_lzw"}),
    "deep.tif": (deep, {"compression": "tiff_adobe_deflate"}),
    "photo.tif": (drawn, {"compression": "jpeg"}),
    "plain.jp2": (drawn, {}),
    "plain.ppm": (drawn, {}),
    "packed.tga": (drawn, {"compression": "tga_rle"}),
    "plain.ico": (drawn, {"sizes": [(24, 24)]}),
}
#: By file name: the codec, and its rate in Hz.
VOICES = {
    "plain.wav": ("pcm_s16le", RATE),
    "float.wav": ("pcm_f32le", RATE),
    "adpcm.wav": ("adpcm_ms", RATE),
    "alaw.wav": ("pcm_alaw", 8000),
    "plain.mp3": ("libmp3lame", RATE),
    "plain.flac": ("flac", RATE),
    "plain.opus": ("libopus", RATE),
    "flac.ogg": ("flac", RATE),
    "plain.m4a": ("aac", RATE),
    "alac.m4a": ("alac", RATE),
    "plain.aac": ("aac", RATE),
    "plain.mka": ("libopus", RATE),
    "plain.webm": ("libopus", RATE),
    "plain.aiff": ("pcm_s16be", RATE),
    "plain.w64": ("pcm_s16le", RATE),
    "plain.caf": ("pcm_s16le", RATE),
    "plain.au": ("pcm_s16be", RATE),
    "plain.wv": ("wavpack", RATE),
    "plain.tta": ("tta", RATE),
    "plain.ac3": ("ac3", 32000),
    "plain.ts": ("mp2", RATE),
}


def portraits(folder: Path) -> dict[str, bytes]:
    for name, (make, how) in PORTRAITS.items():
        make().save(folder / name, **how)
    return _read(folder)


def voices(folder: Path) -> dict[str, bytes]:
    for name, (codec, rate) in VOICES.items():
        encode(folder / name, tone(0.4, rate), codec, rate)
    return _read(folder)


def videos(folder: Path) -> dict[str, bytes]:
    for name in ("front.mp4", "behind.mp4"):
        write_video(folder / name, seconds=0.4, sound=0.4, faststart=name == "front.mp4")
    return _read(folder)


def _read(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}

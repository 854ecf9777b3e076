"""Portraits: decoded fully, checked, and turned into what every provider accepts."""

import shutil
import struct
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageCms, ImageOps

from avatar.errors import InvalidInput
from avatar.media.confined import confined
from avatar.media.facts import PortraitFacts
from avatar.models import Limits

# What a file is that is no picture, or is something else beside being one.

#: Bytes at either end in which readers of web pages and of PDF look for a beginning.
ENDS = 1024
HTML = (b"<!doctype html", b"<html", b"<script", b"<?php", b"<svg")
PICTURES = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8")
SOUNDS = (b"ID3", b"OggS", b"fLaC", b"\xff\xfb")


def what_instead(path: Path) -> str:
    """In brackets, what a file is that Pillow cannot read, and what to do; nothing if that is not plain."""
    with path.open("rb") as file:
        head = file.read(ENDS)
    found = _told(head)
    return f" (it is {found})" if found else ""


def _told(head: bytes) -> str | None:
    is_iso, text = head[4:8] == b"ftyp", head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    known = (
        (is_iso and head[8:11] in (b"hei", b"hev", b"mif"), "HEIC, which phones write: export it as JPEG"),
        (is_iso or head.startswith(SOUNDS) or head[8:12] == b"WAVE", "sound or video: is it the voice?"),
        (b"<svg" in text, "an SVG drawing: export it as PNG"),
        (text.startswith(HTML), "a web page: perhaps a download that failed"),
        (head.startswith(b"%PDF-"), "a PDF: export its picture as JPEG"),
        (head.startswith(b"%!PS"), "PostScript: export its picture as JPEG"),
        (head.startswith(PICTURES) or head[8:12] == b"WEBP", "damaged, or claims what no picture can"),
    )
    return next((what for holds, what in known if holds), None)


def second_kind(path: Path) -> str | None:
    """What else a picture would be taken for by another program: an archive, a PDF, a page that runs scripts.

    Phones append data of their own to their pictures, which is none of these.
    """
    with path.open("rb") as file:
        head = file.read(ENDS)
        file.seek(max(0, path.stat().st_size - ENDS))
        tail = file.read(ENDS)
    if b"%PDF-" in head:
        return "a PDF"
    if any(mark in end.lower() for mark in HTML for end in (head, tail)):
        return "a web page or a script"
    return "a ZIP archive" if _is_archive(path) else None


def _is_archive(path: Path) -> bool:
    # The mark alone is in one picture of a hundred thousand by chance; a directory of files is not.
    if not zipfile.is_zipfile(path):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return bool(archive.infolist())
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError):
        return False


__all__ = ["PORTRAIT_SPEC", "PortraitFacts", "prepare_portrait"]

#: Names this preparation in identities: raise it when the same source would be prepared to another picture.
PORTRAIT_SPEC = "p1"

#: Formats read. Not EPS or PDF: Pillow hands those to an outside interpreter.
FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "JPEG2000", "PPM", "TGA", "ICO")
#: Pixels above which an image is refused undecoded: 8 bytes of upload can claim gigabytes of picture.
MAX_PIXELS = 90_000_000
BAND_PIXELS = 1_000_000
JPEG_QUALITIES = (95, 90, 85)
EXIF_ORIENTATION = 0x0112
PNG_BIT_DEPTH_OFFSET = 24
#: What Pillow's decoders raise over damaged files.
DAMAGED = (OSError, ValueError, SyntaxError, EOFError, RuntimeError, LookupError, TypeError, struct.error)


@dataclass
class _Draft:
    """A portrait under preparation, and what was done to it."""

    image: Image.Image
    profile: bytes | None = None
    notes: list[str] = field(default_factory=list)
    changed: bool = False

    def become(self, image: Image.Image, note: str = "") -> None:
        self.image, self.changed = image, True
        if note:
            self.notes.append(note)


@confined(InvalidInput)
def prepare_portrait(path: Path, target: Path, limits: Limits) -> PortraitFacts:
    """Write to `target` the portrait as a provider takes it: upright, opaque, 8-bit RGB (or grey), JPEG or PNG.

    A plain JPEG or PNG within the limits is copied byte for byte.

    Raises:
        InvalidInput: not an image, too small, too long-drawn, or too large; the text tells the number and the bound.
    """
    with _open(path) as image:
        draft = _Draft(image, profile=image.info.get("icc_profile"))
        _check_pixels(path.name, image)
        _refuse_second_kind(path)
        frames = _load(path.name, image)
        source_format = "JPEG" if image.format == "MPO" else str(image.format)
        _take_first_frame(draft, frames)
        _turn_upright(draft)
        _flatten(draft)
        _reduce_depth(draft, path)
        _check_shape(path.name, draft.image, limits)
        plain = not draft.changed and image.format in limits.image_formats
        if plain and path.stat().st_size <= limits.max_image_bytes:
            shutil.copyfile(path, target)
            return _facts(draft, source_format, target)
        draft.changed = True
        target_format = _write(draft, target, limits, path.name)
        return _facts(draft, target_format, target)


def _facts(draft: _Draft, image_format: str, target: Path) -> PortraitFacts:
    return PortraitFacts(
        width=draft.image.width,
        height=draft.image.height,
        format=image_format,
        size=target.stat().st_size,
        changed=draft.changed,
        notes=tuple(draft.notes),
    )


def _open(path: Path) -> Image.Image:
    if not path.is_file():
        raise InvalidInput(f"{path.name}: there is no such file.")
    if not path.stat().st_size:
        raise InvalidInput(f"{path.name} is empty (0 bytes).")
    try:
        return Image.open(path, formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InvalidInput(
            f"{path.name} claims too many pixels for a portrait; the bound is {MAX_PIXELS:,} in all."
        ) from error
    except DAMAGED as error:
        raise InvalidInput(
            f"{path.name} is not an image that Pillow can read{what_instead(path)}.",
            hint="Use a JPEG or PNG file.",
        ) from error


def _refuse_second_kind(path: Path) -> None:
    if kind := second_kind(path):
        raise InvalidInput(
            f"{path.name} is a picture and {kind} in one, which is not passed on.",
            hint="Save the picture anew, without what is hidden in it.",
        )


def _size(image: Image.Image) -> str:
    return f"{image.width}×{image.height} px"


def _check_pixels(name: str, image: Image.Image) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise InvalidInput(f"{name} is {_size(image)}; the bound is {MAX_PIXELS:,} pixels in all.")


def _load(name: str, image: Image.Image) -> int:
    """Decode the first picture; how many there are."""
    try:
        image.load()
        return int(getattr(image, "n_frames", 1))
    except DAMAGED as error:
        raise InvalidInput(
            f"{name} is damaged: its picture cannot be decoded to the end ({error})."
        ) from error


def _take_first_frame(draft: _Draft, frames: int) -> None:
    if frames > 1:
        # The second image of an MPO is a phone's own affair (depth, gain map), not a picture people know of.
        kind = "" if draft.image.format == "MPO" else f"has {frames} frames: the first is used"
        draft.become(draft.image.copy(), kind)


def _turn_upright(draft: _Draft) -> None:
    if draft.image.getexif().get(EXIF_ORIENTATION, 1) not in (0, 1):
        draft.become(ImageOps.exif_transpose(draft.image), "turned upright as its EXIF data says")


def _flatten(draft: _Draft) -> None:
    image = draft.image
    # Sixteen bits are reduced and not cut off, and what few have one transparent grey keep it.
    if not image.has_transparency_data or _is_deep(image):
        return
    flat, see_through = Image.new("RGB", image.size), False
    for box, band in _bands(image):
        layered = band.convert("RGBA")
        see_through = see_through or np.asarray(layered.getchannel("A")).min() < 255  # noqa: PLR2004 - opaque
        white = Image.new("RGBA", layered.size, "white")
        # fal was seen to flatten transparency onto black, so it is settled here.
        white.alpha_composite(layered)
        flat.paste(white.convert("RGB"), box)
    draft.become(flat, "transparency laid on white" if see_through else "")


def _bands(image: Image.Image) -> Iterator[tuple[tuple[int, int, int, int], Image.Image]]:
    """The picture in pieces of some rows: work on all of a large one at once would take gigabytes."""
    rows = max(1, BAND_PIXELS // image.width)
    for top in range(0, image.height, rows):
        box = (0, top, image.width, min(top + rows, image.height))
        yield box, image.crop(box)


def _reduce_depth(draft: _Draft, path: Path) -> None:
    image = draft.image
    if _is_deep(image):
        draft.become(_to_eight_bits(image), "reduced to 8 bits per channel")
    elif image.mode == "1":
        draft.become(image.convert("L"))
    elif image.mode not in ("RGB", "L"):
        draft.become(_to_rgb(image, draft.profile), f"converted from {image.mode} to RGB")
        # The profile described the former channels; only a palette's colours are RGB already.
        draft.profile = draft.profile if image.mode == "P" else None
    elif _has_deep_png_samples(image, path):
        draft.become(image.copy(), "reduced to 8 bits per channel")


def _is_deep(image: Image.Image) -> bool:
    """Whether it is a grey of more than 8 bits."""
    return image.mode in ("I", "F") or image.mode.startswith("I;")


def _to_rgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    if image.mode == "CMYK" and profile:
        try:
            inks = ImageCms.ImageCmsProfile(BytesIO(profile))
            colours = ImageCms.profileToProfile(image, inks, ImageCms.createProfile("sRGB"), outputMode="RGB")
        except ImageCms.PyCMSError:
            return image.convert("RGB")
        return colours or image.convert("RGB")
    return image.convert("RGB")


def _to_eight_bits(image: Image.Image) -> Image.Image:
    highest = np.max([np.asarray(band).astype(np.float64).max(initial=0.0) for _, band in _bands(image)])
    full = 1.0 if highest <= 1 else 255.0 if highest <= 255 else 65535.0  # noqa: PLR2004 - usual full scales
    reduced = Image.new("L", image.size)
    for box, band in _bands(image):
        values = np.asarray(band).astype(np.float64) / full * 255
        reduced.paste(Image.fromarray(np.clip(values, 0, 255).round().astype(np.uint8)), box)
    return reduced


def _has_deep_png_samples(image: Image.Image, path: Path) -> bool:
    """Whether a PNG holds 16 bits per channel, which Pillow reads as 8 without a word."""
    if image.format != "PNG":
        return False
    with path.open("rb") as file:
        return file.read(PNG_BIT_DEPTH_OFFSET + 1)[PNG_BIT_DEPTH_OFFSET] > 8  # noqa: PLR2004 - bits


def _check_shape(name: str, image: Image.Image, limits: Limits) -> None:
    short, long = sorted(image.size)
    size = f"{name} is {_size(image)}"
    if short < limits.min_image_side:
        raise InvalidInput(f"{size}; the provider needs at least {limits.min_image_side} px on each side.")
    if long > limits.max_aspect * short:
        ratio = f"{long / short:.2f}" if round(long / short, 2) > limits.max_aspect else f"{long / short:.4g}"
        raise InvalidInput(
            f"{size}, 1:{ratio}; the provider takes at most 1:{limits.max_aspect:g} (or {limits.max_aspect:g}:1)."
        )


def _write(draft: _Draft, target: Path, limits: Limits, name: str) -> str:
    bound = limits.max_image_bytes
    # A PNG of a photograph takes more than a byte per pixel: don't spend seconds on one that can't fit.
    if draft.image.width * draft.image.height <= bound and len(png := _encode(draft, "PNG")) <= bound:
        target.write_bytes(png)
        return "PNG"
    while min(draft.image.size) >= limits.min_image_side:
        for quality in JPEG_QUALITIES:
            jpeg = _encode(draft, "JPEG", quality=quality, subsampling=0)
            if len(jpeg) <= bound:
                draft.notes.append(f"compressed to fit {bound:,} bytes ({_size(draft.image)})")
                target.write_bytes(jpeg)
                return "JPEG"
        smaller = (draft.image.width * 3 // 4, draft.image.height * 3 // 4)
        draft.image = draft.image.resize(smaller, Image.Resampling.LANCZOS)
    raise InvalidInput(f"{name} does not fit into {bound:,} bytes at {limits.min_image_side} px or more.")


def _encode(draft: _Draft, image_format: str, **options: Any) -> bytes:
    buffer = BytesIO()
    draft.image.save(buffer, image_format, icc_profile=draft.profile, **options)
    return buffer.getvalue()

"""Portraits: decoded fully, checked, and turned into what every provider accepts."""

import struct
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from avatar.errors import InvalidInput
from avatar.media.colour_spaces import (
    ADOBE_RGB,
    HighRange,
    Space,
    convert,
    convert_by_profile,
    is_close,
    pieces,
    to_eight_bits,
)
from avatar.media.faces import can_search, find_face
from avatar.media.facts import PORTRAIT_SPEC, RECOLOURED_SPEC, PortraitFacts
from avatar.media.image_files import (
    Parts,
    coded_colours,
    deep_samples,
    is_adobe_rgb,
    is_raw,
    jp2_profile,
    parts_of,
    unusual_jpeg,
)
from avatar.media.kinds import DEVELOP, head_of, kind_of, not_read, second_kind, unreadable
from avatar.models import Limits

#: Formats read. Not EPS or PDF: Pillow hands those to an outside interpreter.
FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "JPEG2000", "PPM", "TGA", "ICO")
#: Pixels above which an image is refused undecoded: 8 bytes of upload can claim gigabytes of picture.
MAX_PIXELS = 90_000_000
#: Bytes beside the picture that its decoder may hold and still fit.
MAX_COEFFICIENTS = 350_000_000
JPEG_QUALITIES = (95, 90, 85)
EXIF_ORIENTATION, GPS_IFD = 0x0112, 0x8825
#: What undoes each orientation (Exif 2.3, 4.6.4) but the upright one.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
#: What Pillow's decoders raise over damaged files.
SMALLER = "Export it smaller."
DAMAGED = (OSError, ValueError, SyntaxError, EOFError, RuntimeError, LookupError, TypeError, struct.error)


@dataclass
class _Draft:
    """A portrait under preparation, and what was done to it.

    Attributes:
        changed: whether its picture is another than the source's.
        recoloured: whether its colours were converted.
    """

    image: Image.Image
    notes: list[str] = field(default_factory=list)
    changed: bool = False
    recoloured: bool = False

    def become(self, image: Image.Image, note: str = "") -> None:
        self.image, self.changed = image, True
        if note:
            self.notes.append(note)


def prepare_portrait(path: Path, target: Path, limits: Limits, name: str = "") -> PortraitFacts:
    """As `avatar.media.decoder_calls.prepare_portrait` says."""
    name = name or path.name
    with _open(path, name) as image:
        _check_pixels(name, image)
        _refuse_second_kind(path, name)
        data = path.read_bytes()
        parts = _parts(data, image, name)
        frames = _load(path, name, image)
        draft = _Draft(image)
        orientation = image.getexif().get(EXIF_ORIENTATION, 1)
        _take_first_frame(draft, frames)
        _to_srgb(draft, parts, data)
        if orientation in TURNS:
            draft.become(draft.image.transpose(TURNS[orientation]), "turned upright as its EXIF data says")
        _flatten(draft)
        _reduce_depth(draft, parts)
        _check_shape(name, draft.image, limits)
        return _finish(draft, image, _Source(name, len(data), parts), target, limits)


def _finish(
    draft: _Draft, image: Image.Image, source: "_Source", target: Path, limits: Limits
) -> PortraitFacts:
    """Write the file: the source's own parts where they are what is wanted, else a new one."""
    source_format, parts = "JPEG" if image.format == "MPO" else str(image.format), source.parts
    is_same = not draft.changed and not draft.recoloured
    as_bought = (
        draft.changed or image.format not in limits.image_formats or source.size > limits.max_image_bytes
    )
    spec = RECOLOURED_SPEC if draft.recoloured else PORTRAIT_SPEC if as_bought else ""
    _note_place(draft, image)
    fits = parts is not None and source_format in limits.image_formats
    if is_same and fits and parts and parts.plain and len(parts.kept) <= limits.max_image_bytes:
        target.write_bytes(parts.kept)
        return _facts(draft, source_format, target, spec, changed=parts.stripped)
    return _facts(draft, _write(draft, target, limits, source.name), target, spec, changed=True)


@dataclass(frozen=True)
class _Source:
    """The file as it came: what its user calls it, its bytes, what it is made of."""

    name: str
    size: int
    parts: Parts | None


def _note_place(draft: _Draft, image: Image.Image) -> None:
    xmp = str(image.info.get("xmp") or image.info.get("XML:com.adobe.xmp") or "")
    if image.getexif().get_ifd(GPS_IFD) or "GPSLatitude" in xmp:
        draft.notes.append("where it was taken (GPS) is not passed on")


def _facts(draft: _Draft, image_format: str, target: Path, spec: str, *, changed: bool) -> PortraitFacts:
    return PortraitFacts(
        width=draft.image.width,
        height=draft.image.height,
        format=image_format,
        size=target.stat().st_size,
        changed=changed,
        notes=tuple(draft.notes),
        spec=spec,
        searched=(searched := can_search()),
        face=find_face(draft.image) if searched else None,
    )


def _open(path: Path, name: str) -> Image.Image:
    head = head_of(path, name)
    if head[12:16] == b"CgBI":  # Pillow takes it for a PNG until it comes to the picture
        raise unreadable(path, name, "portrait")
    try:
        image = Image.open(path, formats=_formats(head))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InvalidInput(
            f"{name} claims too many pixels for a portrait; the bound is {MAX_PIXELS:,} in all.", hint=SMALLER
        ) from error
    except DAMAGED as error:
        raise _unusual(path, name) or unreadable(path, name, "portrait") from error
    if is_raw(image):
        raise not_read(name, "a camera's raw picture", "portrait", DEVELOP)
    return image


def _unusual(path: Path, name: str) -> InvalidInput | None:
    data = path.read_bytes()
    kind = unusual_jpeg(data) if data.startswith(b"\xff\xd8\xff") else ""
    return not_read(name, kind, "portrait", "Export it as a usual JPEG, or as PNG.") if kind else None


def _formats(head: bytes) -> tuple[str, ...]:
    if kind_of(head).suffix != "heic":
        return FORMATS
    import pi_heif

    pi_heif.register_heif_opener()
    return ("HEIF",)


def _refuse_second_kind(path: Path, name: str) -> None:
    if kind := second_kind(path):
        raise InvalidInput(
            f"{name} is a picture and {kind} in one, which is not passed on.",
            hint="Save the picture anew, without what is hidden in it.",
        )


def _size(image: Image.Image) -> str:
    return f"{image.width}×{image.height} px"


def _check_pixels(name: str, image: Image.Image) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise InvalidInput(
            f"{name} is {_size(image)}; the bound is {MAX_PIXELS:,} pixels in all.", hint=SMALLER
        )


def _parts(data: bytes, image: Image.Image, name: str) -> Parts | None:
    try:
        parts = parts_of(data, image)
        if parts is None and image.format in ("AVIF", "HEIF"):
            space, profile = coded_colours(data)
            return Parts(plain=False, space=space, profile=profile)
        if parts is None and image.format == "JPEG2000":
            return Parts(plain=False, profile=jp2_profile(data))
    except HighRange as error:
        raise InvalidInput(
            f"{name} is a picture of high dynamic range (HDR), which every screen shows in its own way.",
            hint="Export it without HDR, as JPEG or PNG.",
        ) from error
    if parts and parts.coefficients > MAX_COEFFICIENTS:
        raise InvalidInput(
            f"{name} is {_size(image)}, a progressive JPEG: one so large takes more than 1 GiB to decode.",
            hint="Export it smaller, or as a baseline JPEG.",
        )
    return parts


def _load(path: Path, name: str, image: Image.Image) -> int:
    """Decode the first picture; how many there are."""
    try:
        image.load()
        return int(getattr(image, "n_frames", 1))
    except DAMAGED as error:
        raise _unusual(path, name) or InvalidInput(
            f"{name} is damaged: its picture cannot be decoded to the end ({error}).",
            hint="Copy or download it again.",
        ) from error


def _take_first_frame(draft: _Draft, frames: int) -> None:
    if frames > 1:
        # The second image of an MPO is a phone's own affair (depth, gain map), not a picture people know of.
        many = {"MPO": "", "HEIF": f"holds {frames} pictures: the main one is used"}
        note = many.get(draft.image.format or "", f"has {frames} frames: the first is used")
        draft.notes += [note] if note else []
        if draft.image.format == "HEIF":
            # Each use of a HEIF of several pictures decodes it anew, and what was done to its colours is gone.
            draft.image = draft.image.copy()


def _to_srgb(draft: _Draft, parts: Parts | None, data: bytes) -> None:
    """Convert the colours, if they are others: by the profile, or by what else tells them."""
    image = draft.image
    profile = image.info.get("icc_profile") if parts is None or parts.profile_counts else None
    profile = profile or (parts.profile if parts else None)
    space = parts.space if parts else None
    if not profile and space is None and image.format in ("JPEG", "MPO") and is_adobe_rgb(image):
        space = ADOBE_RGB
    try:
        found = _by_profile(draft, profile) if profile else None
    except ValueError:
        draft.notes.append("its colour profile cannot be read: taken for sRGB")
        found = None
    if not profile and space and not is_close(space):
        found = _by_space(draft, space, parts, data)
    if found is not None:
        draft.recoloured = True
        draft.image = found
        draft.notes.append("colours converted to sRGB")


def _by_profile(draft: _Draft, profile: bytes) -> Image.Image | None:
    if draft.image.mode in ("CMYK", "LAB"):
        # Such pictures were always converted by their profile, under the name they have.
        mode = draft.image.mode
        if (done := convert_by_profile(draft.image, profile)) is not None:
            draft.become(done, f"converted from {mode} to RGB")
        return None
    return convert_by_profile(_in_colour_mode(draft.image), profile)


def _in_colour_mode(image: Image.Image) -> Image.Image:
    if _is_deep(image):
        return to_eight_bits(image)
    if image.mode in ("L", "RGB", "RGBA", "CMYK", "LAB"):
        return image
    return image.convert("RGBA" if image.has_transparency_data else "RGB")


def _by_space(draft: _Draft, space: Space, parts: Parts | None, data: bytes) -> Image.Image | None:
    image = draft.image
    if image.mode.startswith("I;16"):
        return convert(Image.new("L", image.size), space, np.asarray(image).astype(np.uint16))
    deep = deep_samples(data) if parts and parts.deep and image.mode in ("RGB", "RGBA") else None
    return convert(_in_colour_mode(image), space, deep)


def _flatten(draft: _Draft) -> None:
    image = draft.image
    # Sixteen bits are reduced and not cut off, and what few have one transparent grey keep it.
    if not image.has_transparency_data or _is_deep(image):
        return
    flat, see_through = Image.new("RGB", image.size), False
    for box, band in pieces(image):
        layered = band.convert("RGBA")
        see_through = see_through or np.asarray(layered.getchannel("A")).min() < 255  # noqa: PLR2004 - opaque
        white = Image.new("RGBA", layered.size, "white")
        # fal was seen to flatten transparency onto black, so it is settled here.
        white.alpha_composite(layered)
        flat.paste(white.convert("RGB"), box)
    draft.become(flat, "transparency laid on white" if see_through else "")


def _reduce_depth(draft: _Draft, parts: Parts | None) -> None:
    image = draft.image
    if _is_deep(image):
        draft.become(to_eight_bits(image), "reduced to 8 bits per channel")
    elif image.mode == "1":
        draft.become(image.convert("L"))
    elif image.mode not in ("RGB", "L"):
        draft.become(_to_rgb(image), f"converted from {image.mode} to RGB")
    elif parts and parts.deep:
        draft.become(image, "reduced to 8 bits per channel")


def _is_deep(image: Image.Image) -> bool:
    """Whether it is a grey of more than 8 bits."""
    return image.mode in ("I", "F") or image.mode.startswith("I;")


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "LAB":
        from PIL import ImageCms

        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        # Without the table that is interpolated otherwise: it is off by up to 40 of 255 at the gamut's edge.
        exact = ImageCms.Flags.NOOPTIMIZE
        return ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB", flags=exact) or image
    return image.convert("RGB")


def _check_shape(name: str, image: Image.Image, limits: Limits) -> None:
    short, long = sorted(image.size)
    size = f"{name} is {_size(image)}"
    if short < limits.min_image_side:
        raise InvalidInput(
            f"{size}; the provider needs at least {limits.min_image_side} px on each side.",
            hint="Use a larger one.",
        )
    if long > limits.max_aspect * short:
        ratio = f"{long / short:.2f}" if round(long / short, 2) > limits.max_aspect else f"{long / short:.4g}"
        raise InvalidInput(
            f"{size}, 1:{ratio}; the provider takes at most 1:{limits.max_aspect:g} (or {limits.max_aspect:g}:1).",
            hint="Crop it.",
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
    bare = draft.image.copy() if draft.image.info else draft.image
    bare.info = {}
    bare.save(buffer, image_format, icc_profile=None, **options)
    return buffer.getvalue()

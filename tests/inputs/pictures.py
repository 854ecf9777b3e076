"""Random portraits: a container, what its colours mean, how it is turned, what else is in it."""

import io
import random
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps

from avatar.errors import InvalidInput
from avatar.media.portrait import prepare_portrait
from avatar.models import Limits
from tests.inputs import files

#: Steps of 255 that a colour may be off. Of a lossy file that is turned or cut, as many more as decoders differ.
TOLERANCE = 3
SPACES = {
    "p3": (files.P3, 2.2),
    "adobe": (files.ADOBE, 2.2),
    "prophoto": (files.PROPHOTO, 1.8),
    "linear p3": (files.P3, 1.0),
}
CONTAINERS = ("jpeg", "progressive", "png", "webp", "tiff", "avif", "heic", "bmp", "gif", "png16")


@dataclass(frozen=True)
class Case:
    """A portrait to be made."""

    container: str
    colours: str
    turned: int
    extra: str
    seed: int

    def __str__(self) -> str:
        return f"{self.container}, {self.colours}, turned {self.turned}, {self.extra or 'nothing else'}"


def draw(rng: random.Random) -> Case:
    container = rng.choice(CONTAINERS)
    told = {
        "avif": ("none", "srgb icc", "p3", "adobe", "p3 by code", "hdr"),
        "heic": ("none", "p3", "adobe", "p3 by code", "hdr"),
        "bmp": ("none",),
        "gif": ("none",),
        "png": ("none", "srgb icc", *SPACES, "gamma 1", "gamma 1/1.8", "grey gamma"),
        "png16": ("none", "gamma 1", "gamma 1/1.8"),
    }
    colours = rng.choice(told.get(container, ("none", "srgb icc", "p3", "adobe", "prophoto", "arithmetic")))
    if colours == "arithmetic" and container != "jpeg":
        colours = "none"
    turned = rng.randint(1, 8) if container in ("jpeg", "progressive", "webp", "tiff", "png") else 1
    extra = (
        rng.choice(("", "gps", "comment", "behind")) if container in ("jpeg", "progressive", "png") else ""
    )
    return Case(container, colours, turned, extra, rng.randrange(2**32))


def carry_out(case: Case, folder: Path) -> str:
    """What is wrong with what is sent; nothing if it is right, `refused` and why if it is not taken."""
    path, target = folder / f"portrait.{case.container}", folder / "ready"
    path.write_bytes(_make(case))
    try:
        prepare_portrait(path, target, Limits())
    except InvalidInput as error:
        return "" if case.colours == "hdr" and "high dynamic range" in error.message else f"refused: {error}"
    if case.colours == "hdr":
        return "taken, though nobody knows its colours"
    with Image.open(target) as image:
        image.load()
        if image.format not in ("JPEG", "PNG") or image.mode not in ("RGB", "L"):
            return f"sent as {image.format} of {image.mode}"
        if image.getexif():
            return "its EXIF data are sent"
        sent, wanted = np.asarray(image.convert("RGB")).astype(int), _wanted(case, path)
    if sent.shape != wanted.shape:
        return f"{sent.shape[1]}×{sent.shape[0]} px instead of {wanted.shape[1]}×{wanted.shape[0]}"
    off = np.abs(sent - wanted).max()
    return f"colours are off by {off}" if off > TOLERANCE else ""


def _picture(seed: int) -> NDArray[np.uint8]:
    """Patches, a gradient, and soft noise."""
    rng = np.random.default_rng(seed)
    height, width = (int(side) * 8 for side in rng.integers(40, 60, 2))
    small = rng.integers(0, 256, (height // 80 + 1, width // 80 + 1, 3)).astype(np.uint8)
    pixels = np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)).copy()
    pixels[:80, :80], pixels[:80, -80:], pixels[-80:, :80] = (230, 30, 30), (30, 200, 30), (30, 30, 230)
    return pixels


def _make(case: Case) -> bytes:
    image = Image.fromarray(_picture(case.seed))
    if case.container == "heic":
        profile = files.icc(*SPACES[case.colours]) if case.colours in SPACES else None
        return files.heic(image, profile=profile, code=_code(case))
    if case.container == "png16":
        return _png(_deep(case), case)
    if case.colours == "grey gamma":
        return _png(np.asarray(image.convert("L")), case)
    data = io.BytesIO()
    image.save(data, **_options(case))
    saved = data.getvalue()
    if case.container == "png":
        saved = _with_chunks(saved, case)
    if case.container == "avif" and _code(case):
        at = saved.index(b"nclx")
        saved = saved[: at + 4] + bytes([0, _code(case)[0], 0, _code(case)[1]]) + saved[at + 8 :]
    return saved + (bytes(300) if case.extra == "behind" else b"")


def _code(case: Case) -> tuple[int, int] | None:
    return {"p3 by code": (12, 13), "hdr": (9, 16)}.get(case.colours)


def _options(case: Case) -> dict:
    kinds = {"progressive": "jpeg", "png16": "png"}
    options: dict = {"format": kinds.get(case.container, case.container)}
    if case.container in ("jpeg", "progressive"):
        options |= {"quality": 92, "progressive": case.container == "progressive"}
    if case.container in ("avif", "webp"):
        options |= {"quality": 95}
    if case.colours in SPACES:
        options["icc_profile"] = files.icc(*SPACES[case.colours])
    elif case.colours == "srgb icc":
        options["icc_profile"] = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    if case.turned != 1:
        exif[0x0112] = case.turned
    if case.extra == "gps":
        exif[0x8825] = {1: "N", 2: (48.0, 8.0, 0.0)}
    if exif:
        options["exif"] = exif
    if case.extra == "comment" and options["format"] == "jpeg":
        options["comment"] = b"a person's words " * 20
    return options


def _gamma(case: Case) -> int | None:
    return {"gamma 1": 100_000, "grey gamma": 100_000, "gamma 1/1.8": 55_556}.get(case.colours)


def _with_chunks(saved: bytes, case: Case) -> bytes:
    """A PNG with a `gAMA`, and words that nobody asked for."""
    from tests.cases.portraits import chunk

    more = b""
    if (gamma := _gamma(case)) is not None:
        more += chunk(b"gAMA", gamma.to_bytes(4))
    if case.extra == "comment":
        more += chunk(b"iTXt", b"Author\0\0\0\0\0somebody")
    return saved[:33] + more + saved[33:]


def _deep(case: Case) -> NDArray[np.uint16]:
    return (_picture(case.seed).astype(np.uint16) * 257 + 100).clip(0, 65535)


def _png(pixels: NDArray, case: Case) -> bytes:
    """Pillow does not write 16-bit colour; FFmpeg does."""
    form = "gray" if pixels.ndim == 2 else "rgb48be"
    encoder = av.CodecContext.create("png", "w")
    encoder.height, encoder.width, encoder.pix_fmt, encoder.time_base = *pixels.shape[:2], form, 1
    native = av.VideoFrame.from_ndarray(pixels, format="gray" if form == "gray" else "rgb48le")
    frame = native.reformat(format=form)
    frame.pts = 0
    saved = b"".join(bytes(packet) for packet in [*encoder.encode(frame), *encoder.encode(None)])
    return _with_chunks(_without_gamma(saved), case)


def _without_gamma(saved: bytes) -> bytes:
    at, kept = 8, saved[:8]
    while at < len(saved):
        size = int.from_bytes(saved[at : at + 4]) + 12
        if saved[at + 4 : at + 8] not in (b"gAMA", b"cHRM", b"sRGB", b"cICP", b"iCCP"):
            kept += saved[at : at + size]
        at += size
    return kept


def _wanted(case: Case, path: Path) -> NDArray[np.int_]:
    """What a reader that minds colours shows of the file: decoded, then converted by other means than the product's."""
    if case.container == "png16":
        values = _deep(case) / 65535
    else:
        import pi_heif

        pi_heif.register_heif_opener()
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image)
            values = np.asarray(upright.convert("RGB")) / 255
    if case.colours in SPACES:
        return files.in_srgb(values, *SPACES[case.colours]).astype(int)
    if case.colours == "p3 by code":
        light = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
        return files.in_srgb(light, files.P3, 1.0).astype(int)
    if (gamma := _gamma(case)) is not None:
        values = values ** (100_000 / gamma / 2.2)
    return np.round(values * 255).astype(int)

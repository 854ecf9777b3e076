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
from avatar.media.decoder_calls import prepare_portrait
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
#: How a file of each form may tell its colours.
BY_PROFILE = ("none", "srgb icc", *SPACES)
TOLD = {
    "jpeg": BY_PROFILE,
    "progressive": BY_PROFILE,
    "grey jpeg": ("none", "grey icc"),
    "cmyk": ("none", "cmyk icc"),
    "mpo": BY_PROFILE,
    "gain map": BY_PROFILE,
    "png": (*BY_PROFILE, "gamma 1", "gamma 1/1.8", "grey gamma", "p3 by code", "2020 by code", "hdr", "hlg"),
    "png16": ("none", "gamma 1", "gamma 1/1.8", "p3 by code"),
    "grey png": ("none", "grey icc"),
    "grey png16": ("none", "gamma 1"),
    "palette": BY_PROFILE,
    "moving png": ("none",),
    "webp": BY_PROFILE,
    "moving webp": ("none",),
    "tiff": BY_PROFILE,
    "tiff16": ("none",),
    "lab": ("none",),
    "avif": ("none", "srgb icc", "p3", "adobe", "p3 by code", "2020 by code", "hdr", "hlg"),
    "heic": ("none", "p3", "adobe", "p3 by code", "2020 by code", "hdr", "hlg"),
    "heic grid": ("none", "p3", "p3 by code"),
    "heic burst": ("none", "p3", "p3 by code"),
    "bmp": ("none",),
    "gif": ("none",),
    "jp2": ("none", "p3", "adobe"),
}
#: Code points of primaries and transfer (H.273).
CODES = {"p3 by code": (12, 13), "2020 by code": (9, 14), "hdr": (9, 16), "hlg": (9, 18)}
TURNED = ("jpeg", "progressive", "mpo", "gain map", "webp", "tiff", "png", "avif", "heic", "cmyk")
EXTRAS = ("", "gps", "xmp", "comment", "behind")


@dataclass(frozen=True)
class Case:
    """A portrait to be made."""

    form: str
    colours: str
    turned: int
    extra: str
    name: str
    seed: int

    def __str__(self) -> str:
        called = f", called {self.name}" if self.name else ""
        return f"{self.form}, {self.colours}, turned {self.turned}, {self.extra or 'nothing else'}{called}"


def draw(rng: random.Random) -> Case:
    form = rng.choice(sorted(TOLD))
    return Case(
        form,
        rng.choice(TOLD[form]),
        rng.randint(1, 8) if form in TURNED else 1,
        rng.choice(EXTRAS) if form in ("jpeg", "progressive", "png") else "",
        rng.choice(("", "", "portrait", "portrait.bin", "portrait.gif")),
        rng.randrange(2**32),
    )


def carry_out(case: Case, folder: Path) -> str:
    """What is wrong with what is sent; nothing if it is right, `refused` and why if it is not taken."""
    path, target = folder / (case.name or f"portrait.{case.form}"), folder / "ready"
    path.write_bytes(_make(case))
    try:
        facts = prepare_portrait(path, target, Limits())
    except InvalidInput as error:
        return (
            ""
            if case.colours in ("hdr", "hlg") and "high dynamic range" in error.message
            else f"refused: {error}"
        )
    if case.colours in ("hdr", "hlg"):
        return "taken, though nobody knows its colours"
    if case.extra in ("gps", "xmp") and (b"48,8" in target.read_bytes() or not facts.notes):
        return "where it was taken is sent, or nothing is said of it"
    return _compare(case, path, target)


def _compare(case: Case, path: Path, target: Path) -> str:
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
    if case.form.startswith("heic"):
        profile = files.icc(*SPACES[case.colours]) if case.colours in SPACES else None
        kinds = {"grid": case.form == "heic grid", "burst": case.form == "heic burst"}
        return files.heic(image, profile=profile, code=CODES.get(case.colours), turned=case.turned, **kinds)
    if case.form in ("png16", "tiff16"):
        return _deep_file(_deep(case), case)
    if case.colours == "grey gamma":
        return _deep_file(np.asarray(image.convert("L")), case)
    saved = _saved(_in_mode(image, case), case)
    if case.form == "jp2" and case.colours in SPACES:
        saved = files.with_profile(saved, files.icc(*SPACES[case.colours]))
    if case.form in ("png", "grey png16"):
        saved = _with_chunks(saved, case)
    if case.form == "avif" and case.colours in CODES:
        at, code = saved.index(b"nclx"), CODES[case.colours]
        saved = saved[: at + 4] + bytes([0, code[0], 0, code[1]]) + saved[at + 8 :]
    if case.form == "gain map":
        # A second JPEG behind the first, which tells how much brighter than white it may be shown.
        saved += _saved(image.convert("L").resize((image.width // 4, image.height // 4)), case)
    return saved + (bytes(300) if case.extra == "behind" else b"")


def _in_mode(image: Image.Image, case: Case) -> Image.Image:
    if case.form == "grey png16":
        return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    if case.form == "palette":
        return image.quantize(200)
    if case.form == "lab":
        lab = ImageCms.profileToProfile(
            image, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
        )
        return lab or image
    return image.convert({"grey jpeg": "L", "grey png": "L", "cmyk": "CMYK"}.get(case.form, "RGB"))


#: The name of Pillow's writer, where the form's own does not tell.
WRITERS = {
    "progressive": "jpeg", "grey jpeg": "jpeg", "cmyk": "jpeg", "gain map": "jpeg", "grey png": "png", "lab": "tiff",
    "grey png16": "png", "palette": "png", "moving png": "png", "moving webp": "webp", "jp2": "jpeg2000",
}  # fmt: skip


def _saved(image: Image.Image, case: Case) -> bytes:
    data, writer = io.BytesIO(), WRITERS.get(case.form, case.form)
    options: dict = {"format": writer}
    if writer in ("jpeg", "mpo"):
        options |= {"quality": 92, "progressive": case.form == "progressive"}
    if writer in ("avif", "webp"):
        options |= {"quality": 95}
    if case.form.startswith("moving") or case.form == "mpo":
        options |= {"save_all": True, "append_images": [image.rotate(180)]}
    image.info = {}
    image.save(data, **options, **_profile(case), **_words(case, writer))
    return data.getvalue()


def _profile(case: Case) -> dict:
    if case.colours in SPACES:
        return {"icc_profile": files.icc(*SPACES[case.colours])}
    made = {
        "srgb icc": lambda: ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
        "grey icc": lambda: files.grey_icc(1.5),
        "cmyk icc": files.cmyk_icc,
    }
    return {"icc_profile": made[case.colours]()} if case.colours in made else {}


def _words(case: Case, writer: str) -> dict:
    """What is in the file beside the picture."""
    options: dict = {}
    exif = Image.Exif()
    if case.turned != 1:
        exif[0x0112] = case.turned
    if case.extra == "gps":
        exif[0x8825] = {1: "N", 2: (48.0, 8.0, 0.0)}
    if exif:
        options["exif"] = exif
    if case.extra == "comment" and writer == "jpeg":
        options["comment"] = b"a person's words " * 20
    if case.extra == "xmp" and writer == "jpeg":
        options["xmp"] = XMP
    return options


XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description xmlns:exif="http://ns.adobe.com/exif/1.0/" exif:GPSLatitude="48,8.0N"/></rdf:RDF></x:xmpmeta>'
)


def _gamma(case: Case) -> int | None:
    return {"gamma 1": 100_000, "grey gamma": 100_000, "gamma 1/1.8": 55_556}.get(case.colours)


def _with_chunks(saved: bytes, case: Case) -> bytes:
    """A PNG with a `gAMA`, and words that nobody asked for."""
    from tests.cases.portraits import chunk

    more = b""
    if (gamma := _gamma(case)) is not None:
        more += chunk(b"gAMA", gamma.to_bytes(4))
    if case.colours in CODES:
        more += chunk(b"cICP", bytes([*CODES[case.colours], 0, 1]))
    if case.extra == "comment":
        more += chunk(b"iTXt", b"Author\0\0\0\0\0somebody")
    if case.extra == "xmp":
        more += chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP)
    return saved[:33] + more + saved[33:]


def _deep(case: Case) -> NDArray[np.uint16]:
    return (_picture(case.seed).astype(np.uint16) * 257 + 100).clip(0, 65535)


def _deep_file(pixels: NDArray, case: Case) -> bytes:
    """Pillow does not write 16-bit colour; FFmpeg does."""
    native = "gray" if pixels.ndim == 2 else "rgb48le"
    codec, form = ("tiff", native) if case.form == "tiff16" else ("png", native.replace("le", "be"))
    encoder = av.CodecContext.create(codec, "w")
    encoder.height, encoder.width, encoder.pix_fmt, encoder.time_base = *pixels.shape[:2], form, 1
    frame = av.VideoFrame.from_ndarray(pixels, format=native).reformat(format=form)
    frame.pts = 0
    saved = b"".join(bytes(packet) for packet in [*encoder.encode(frame), *encoder.encode(None)])
    return saved if codec == "tiff" else _with_chunks(_without_gamma(saved), case)


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
    if case.form in ("png16", "tiff16"):
        values = _deep(case) / 65535
    elif case.form == "grey png16":
        values = np.asarray(Image.fromarray(_picture(case.seed)).convert("L").convert("RGB")) / 255
    else:
        values = _decoded(case, path)
    if case.colours in SPACES:
        return files.in_srgb(values, *SPACES[case.colours]).astype(int)
    if case.colours == "grey icc":
        return files.in_srgb(values, files.SRGB, 1.5).astype(int)
    if case.colours in CODES:
        light = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
        primaries = {12: files.P3, 9: files.BT2020}[CODES[case.colours][0]]
        return files.in_srgb(light, primaries, 1.0).astype(int)
    if (gamma := _gamma(case)) is not None:
        values = values ** (100_000 / gamma / 2.2)
    return np.round(values * 255).astype(int)


def _decoded(case: Case, path: Path) -> NDArray[np.float64]:
    import pi_heif

    pi_heif.register_heif_opener()
    with Image.open(path) as image:
        upright = ImageOps.exif_transpose(image)
        if case.colours == "cmyk icc":
            return files.cmyk_light(np.asarray(upright) / 255)
        if case.form == "lab":
            return files.from_lab((np.asarray(image) ^ [0, 128, 128]).astype(float))
        return np.asarray(upright.convert("RGB")) / 255

"""Portraits.

What is taken with a change is sent changed: upright, opaque, 8-bit sRGB, and nothing but the picture.
"""

import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw, TiffImagePlugin

from tests.cases import FileCase
from tests.inputs import files

BLUE, RED = (20, 30, 220), (220, 20, 30)


def picture(width: int = 400, height: int = 600, mode: str = "RGB") -> Image.Image:
    """Red above, blue below, with a circle, so that nothing in it can be left out unseen."""
    image = Image.new("RGB", (width, height), RED)
    image.paste(BLUE, (0, height // 2, width, height))
    ImageDraw.Draw(image).ellipse((width // 4, height // 4, width // 2, height // 2), fill=(240, 200, 60))
    return image.convert(mode)


def saved(make: Callable[[], Image.Image] = picture, **options) -> Callable[[Path], object]:
    return lambda path: make().save(path, **options)


def content(data: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(data)


def noise() -> Image.Image:
    return Image.fromarray(np.random.default_rng(3).integers(0, 255, (400, 400, 3), dtype=np.uint8))


def cut(kept: float) -> Callable[[Path], object]:
    """Saved, and then only this share of the file."""

    def write(path: Path) -> None:
        noise().save(path)
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])

    return write


def followed_by(more: bytes, **options) -> Callable[[Path], object]:
    def write(path: Path) -> None:
        picture().save(path, **options)
        path.write_bytes(path.read_bytes() + more)

    return write


def with_archive(path: Path) -> None:
    picture().save(path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("payload.js", "alert(1)")


def moving(**options) -> Callable[[Path], object]:
    return saved(save_all=True, append_images=[picture().rotate(180)], **options)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *more: bytes, rows: bytes = b"") -> bytes:
    """A PNG of 8-bit RGB with any claim and any further chunks."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        [chunk(b"IHDR", head), *more, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    )


def deep_grey() -> Image.Image:
    return Image.fromarray(np.full((600, 400), 40000, np.uint16))


def deep_colour(path: Path) -> None:
    """Pillow does not write 16-bit colour; FFmpeg does."""
    encoder = av.CodecContext.create("png", "w")
    encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = 400, 600, "rgb48be", 1
    frame = av.VideoFrame.from_ndarray(np.full((600, 400, 3), 30000, np.uint16), format="rgb48be")
    frame.pts = 0
    path.write_bytes(b"".join(bytes(packet) for packet in [*encoder.encode(frame), *encoder.encode(None)]))


def turned(path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    picture().save(path, exif=exif)


def see_through() -> Image.Image:
    image = picture(mode="RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


def with_comment(path: Path) -> None:
    picture().save(path, comment=b"<script>alert(1)</script>")


def gif_of_claims(path: Path) -> None:
    path.write_bytes(
        b"GIF89a"
        + struct.pack("<HH", 65535, 65535)
        + b"\x80\0\0"
        + bytes(6)
        + b",\0\0\0\0\xff\xff\xff\xff\0\x02\x02D\x01\0;"
    )


SVG = b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg" width="400" height="600"><image href="file:///etc/passwd"/></svg>'
PAGE = b"<!DOCTYPE html><html><body>403 Forbidden</body></html>"


def unpacking_to(size: int, kind: bytes, head: bytes) -> Callable[[Path], object]:
    """A PNG with a packed chunk that is so many bytes long when unpacked."""

    def write(path: Path) -> None:
        more = chunk(kind, head + zlib.compress(bytes(size), 1))
        path.write_bytes(png(400, 600, more, rows=bytes(1201 * 600)))

    return write


def too_much_data(path: Path) -> None:
    path.write_bytes(png(400, 600, rows=bytes(200_000_000)))


def profiled(primaries: tuple, gamma: float, **options) -> Callable[[Path], object]:
    return saved(icc_profile=files.icc(primaries, gamma), **options)


def made(content_of: Callable[[], bytes]) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content_of())


def by_code(primaries: int, transfer: int) -> Callable[[Path], object]:
    """An AVIF whose colours are told by code points alone."""

    def write(path: Path) -> None:
        picture().save(path)
        data, at = path.read_bytes(), path.read_bytes().index(b"nclx") + 4
        path.write_bytes(data[:at] + struct.pack(">HH", primaries, transfer) + data[at + 4 :])

    return write


def jp2_with_profile(path: Path) -> None:
    """Pillow writes none."""
    picture().save(path)
    path.write_bytes(files.with_profile(path.read_bytes(), files.icc(files.P3, 2.2)))


def with_gamma(path: Path, gamma: int = 100_000) -> None:
    path.write_bytes(
        path.read_bytes()[:33] + chunk(b"gAMA", struct.pack(">I", gamma)) + path.read_bytes()[33:]
    )


def linear(path: Path) -> None:
    picture().save(path)
    with_gamma(path)


def linear_and_deep(path: Path) -> None:
    deep_colour(path)
    with_gamma(path)


def with_place(path: Path) -> None:
    exif = Image.Exif()
    exif[0x8825] = {1: "N", 2: (48.0, 8.0, 0.0)}
    picture().save(path, exif=exif)


def digital_negative(path: Path) -> None:
    """A DNG: a TIFF that holds a preview first, and a tag that no other has."""
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[0xC612] = bytes([1, 4, 0, 0])
    tags.tagtype[0xC612] = 1
    picture().save(path, format="TIFF", tiffinfo=tags)


def with_place_in_words(path: Path) -> None:
    """GPS in XMP, which editors write."""
    picture().save(path, xmp=b'<x:xmpmeta><rdf:Description exif:GPSLatitude="48,8.0N"/></x:xmpmeta>')


def coded(primaries: int, transfer: int) -> Callable[[Path], object]:
    """A PNG with `cICP`."""

    def write(path: Path) -> None:
        picture().save(path)
        more = chunk(b"cICP", bytes([primaries, transfer, 0, 1]))
        path.write_bytes(path.read_bytes()[:33] + more + path.read_bytes()[33:])

    return write


def of_frame(marker: int, depth: int) -> Callable[[Path], object]:
    """A JPEG whose frame is said to be of another kind, or of more bits."""

    def write(path: Path) -> None:
        picture().save(path)
        data, at = path.read_bytes(), path.read_bytes().index(b"\xff\xc0")
        path.write_bytes(data[:at] + bytes([0xFF, marker, *data[at + 2 : at + 4], depth]) + data[at + 5 :])

    return write


CASES = [
    FileCase("an iPhone's HEIC", "accepted", "portrait.heic", made(lambda: files.heic(picture()))),
    FileCase("an iPhone's HEIC in Display P3", "accepted: colours converted to sRGB", "portrait.heic", made(lambda: files.heic(picture(), profile=files.icc(files.P3, 2.2)))),
    FileCase("Display P3, by a JPEG 2000's profile", "accepted: colours converted to sRGB", "portrait.jp2", jp2_with_profile),
    FileCase("Display P3, by its profile", "accepted: colours converted to sRGB", "portrait.jpg", profiled(files.P3, 2.2)),
    FileCase("Adobe RGB, by its profile", "accepted: colours converted to sRGB", "portrait.jpg", profiled(files.ADOBE, 2.2)),
    FileCase("ProPhoto, by its profile", "accepted: colours converted to sRGB", "portrait.png", profiled(files.PROPHOTO, 1.8)),
    FileCase("Display P3, by code points (AVIF)", "accepted: colours converted to sRGB", "portrait.avif", by_code(12, 13)),
    FileCase("Display P3, told of a HEIC's tiles", "accepted: colours converted to sRGB", "portrait.heic", made(lambda: files.heic(picture(), profile=files.icc(files.P3, 2.2), grid=True))),
    FileCase("a burst in Display P3 (HEIC)", "accepted: holds 2 pictures: the main one is used; colours converted to sRGB", "portrait.heic", made(lambda: files.heic(picture(), profile=files.icc(files.P3, 2.2), burst=True))),
    FileCase("a HEIC that is turned", "accepted", "portrait.heic", made(lambda: files.heic(picture(), turned=6))),
    FileCase("Display P3, by code points (PNG)", "accepted: colours converted to sRGB", "portrait.png", coded(12, 13)),
    FileCase("HDR (PNG in HLG)", "portrait.png is a picture of high dynamic range (HDR), which every screen shows in its own way. Export it without HDR, as JPEG or PNG.", "portrait.png", coded(9, 18)),
    FileCase("grey with a gamma of its own", "accepted: colours converted to sRGB", "portrait.jpg", saved(lambda: picture(mode="L"), icc_profile=files.grey_icc(1.5))),
    FileCase("a grey picture's profile on a coloured one", "accepted", "portrait.jpg", saved(icc_profile=files.grey_icc(1.5))),
    FileCase("print colours (CMYK), with their profile", "accepted: converted from CMYK to RGB", "portrait.jpg", saved(lambda: picture(mode="CMYK"), icc_profile=files.cmyk_icc())),
    FileCase("CIE Lab", "accepted: converted from LAB to RGB", "portrait.tif", saved(lambda: Image.new("LAB", (400, 600), (128, 10, 20)))),
    FileCase("a JPEG of 12 bits", "portrait.jpg is a JPEG of 12 bits a channel, which is not read as a portrait. Export it as a usual JPEG, or as PNG.", "portrait.jpg", of_frame(0xC1, 12)),
    FileCase("a lossless JPEG", "portrait.jpg is a lossless JPEG, which is not read as a portrait. Export it as a usual JPEG, or as PNG.", "portrait.jpg", of_frame(0xC3, 8)),
    FileCase("where it was taken, in its XMP data", "accepted: where it was taken (GPS) is not passed on", "portrait.jpg", with_place_in_words),
    FileCase("HDR (AVIF in PQ)", "portrait.avif is a picture of high dynamic range (HDR), which every screen shows in its own way. Export it without HDR, as JPEG or PNG.", "portrait.avif", by_code(9, 16)),
    FileCase("a PNG in linear light (gAMA 1.0)", "accepted: colours converted to sRGB", "portrait.png", linear),
    FileCase("a PNG in linear light, of 16 bits", "accepted: colours converted to sRGB; reduced to 8 bits per channel", "portrait.png", linear_and_deep),
    FileCase("a profile that is none", "accepted: its colour profile cannot be read: taken for sRGB", "portrait.jpg", saved(icc_profile=b"no profile at all" * 20)),
    FileCase("where it was taken, in its EXIF data", "accepted: where it was taken (GPS) is not passed on", "portrait.jpg", with_place),
    FileCase("JPEG XL", "portrait.jxl is a JPEG XL, which is not read as a portrait. Export it as JPEG or PNG (`djxl IN.jxl OUT.png`).", "portrait.jxl", content(b"\xff\x0a" + bytes(range(200)))),
    FileCase("a Photoshop document", "portrait.psd is a Photoshop document (PSD), which is not read as a portrait. Export it as JPEG or PNG.", "portrait.psd", content(b"8BPS\0\1" + bytes(200))),
    FileCase("a camera's raw picture (CR2)", "portrait.cr2 is a camera's raw picture (Canon), which is not read as a portrait. Develop it, and export a JPEG.", "portrait.cr2", content(b"II*\0\x10\0\0\0CR\x02\0" + bytes(200))),
    FileCase("a camera's raw picture (DNG)", "portrait.dng is a camera's raw picture, which is not read as a portrait. Develop it, and export a JPEG.", "portrait.dng", digital_negative),
    FileCase("a PNG out of an iPhone app", "portrait.png is a PNG as iPhone apps hold it (CgBI), which is not read as a portrait. Open it on the iPhone or Mac, and save or share it anew.", "portrait.png", content(b"\x89PNG\r\n\x1a\n" + chunk(b"CgBI", bytes(4)) + png(400, 600)[8:])),
    FileCase("no bytes at all", "portrait.png is empty (0 bytes). Copy or download it again.", "portrait.png", content(b"")),
    FileCase("a text", "portrait.png is a text, which is not read as a portrait. Give the file itself; or it is a service's answer: look into it.", "portrait.png", content(b"This is a shopping list.\n" * 20)),
    FileCase("a web page, as failed downloads are", "portrait.jpg is a web page, which is not read as a portrait. Perhaps a download that failed: fetch it again, and look at what came.", "portrait.jpg", content(PAGE)),
    FileCase("an SVG drawing", "portrait.svg is an SVG drawing, which is not read as a portrait. Export it as JPEG or PNG.", "portrait.svg", content(SVG)),
    FileCase("an SVG drawing called .png", "portrait.png is an SVG drawing, which is not read as a portrait. Export it as JPEG or PNG.", "portrait.png", content(SVG)),
    FileCase("PostScript", "portrait.jpg is PostScript, which is not read as a portrait. Export its picture as JPEG.", "portrait.jpg", content(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 400 400\n")),
    FileCase("a PDF", "portrait.png is a PDF, which is not read as a portrait. Export its picture as JPEG.", "portrait.png", content(b"%PDF-1.7\n1 0 obj\n<<>>\nendobj\n")),
    FileCase("HEIC that holds nothing", "portrait.jpg is a HEIC or HEIF, but damaged, or it claims what no picture can. Use a JPEG or PNG file.", "portrait.jpg", content(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64))),
    FileCase("a voice", "portrait.png is an MP3, which is no picture: is it the voice? Use a JPEG or PNG file.", "portrait.png", content(b"ID3\x04" + bytes(400))),
    FileCase("half a PNG", "portrait.png is damaged: its picture cannot be decoded to the end (image file is truncated). Copy or download it again.", "portrait.png", cut(0.5)),
    FileCase("half a JPEG", "portrait.jpg is damaged: its picture cannot be decoded to the end (image file is truncated (98 bytes not processed)). Copy or download it again.", "portrait.jpg", cut(0.5)),
    FileCase("half a WebP", "portrait.webp is a WebP, but damaged, or it claims what no picture can. Use a JPEG or PNG file.", "portrait.webp", cut(0.5)),
    FileCase("half a GIF", "portrait.gif is damaged: its picture cannot be decoded to the end (image file is truncated (150 bytes not processed)). Copy or download it again.", "portrait.gif", cut(0.5)),
    FileCase("the first bytes of a PNG", "portrait.png is a PNG, but damaged, or it claims what no picture can. Use a JPEG or PNG file.", "portrait.png", cut(0.00005)),
    FileCase("PNG with a damaged header", "portrait.png is a PNG, but damaged, or it claims what no picture can. Use a JPEG or PNG file.", "portrait.png", content(png(400, 600).replace(b"IHDR\0\0\x01", b"IHDR\0\0\x02"))),
    FileCase("PNG without picture data", "portrait.png is damaged: its picture cannot be decoded to the end (image file is truncated (0 bytes not processed)). Copy or download it again.", "portrait.png", content(png(400, 600))),
    FileCase("144 million pixels in 18 kB", "portrait.png is 12000×12000 px; the bound is 90,000,000 pixels in all. Export it smaller.", "portrait.png", lambda path: Image.new("1", (12000, 12000)).save(path)),
    FileCase("a PNG that claims 2³¹ pixels a side", "portrait.png claims too many pixels for a portrait; the bound is 90,000,000 in all. Export it smaller.", "portrait.png", content(png(2**31 - 1, 2**31 - 1))),
    FileCase("a PNG that claims 40,000 pixels a side", "portrait.png claims too many pixels for a portrait; the bound is 90,000,000 in all. Export it smaller.", "portrait.png", content(png(40000, 40000))),
    FileCase("a GIF that claims 65,535 pixels a side", "portrait.gif claims too many pixels for a portrait; the bound is 90,000,000 in all. Export it smaller.", "portrait.gif", gif_of_claims),
    FileCase("a PNG whose text unpacks to 200 MB", "portrait.png is a PNG, but damaged, or it claims what no picture can. Use a JPEG or PNG file.", "portrait.png", unpacking_to(200_000_000, b"zTXt", b"Comment\0\0")),
    FileCase("a PNG whose colour profile unpacks to 200 MB", "portrait.png is a PNG, but damaged, or it claims what no picture can. Use a JPEG or PNG file.", "portrait.png", unpacking_to(200_000_000, b"iCCP", b"profile\0\0")),
    FileCase("more picture data than the picture has room for (200 MB)", "accepted", "portrait.png", too_much_data),
    FileCase("30,000 pixels wide, 300 high", "portrait.png is 30000×300 px, 1:100.00; the provider takes at most 1:2.5 (or 2.5:1). Crop it.", "portrait.png", saved(lambda: picture(30000, 300))),
    FileCase("one pixel", "portrait.png is 1×1 px; the provider needs at least 300 px on each side. Use a larger one.", "portrait.png", saved(lambda: picture(1, 1))),
    FileCase("299 pixels wide", "portrait.png is 299×400 px; the provider needs at least 300 px on each side. Use a larger one.", "portrait.png", saved(lambda: picture(299, 400))),
    FileCase("300 pixels wide, the least", "accepted", "portrait.png", saved(lambda: picture(300, 400))),
    FileCase("1:2.5, the most drawn-out shape", "accepted", "portrait.png", saved(lambda: picture(300, 750))),
    FileCase("1:2.503", "portrait.png is 300×751 px, 1:2.503; the provider takes at most 1:2.5 (or 2.5:1). Crop it.", "portrait.png", saved(lambda: picture(300, 751))),
    FileCase("2.503:1", "portrait.png is 751×300 px, 1:2.503; the provider takes at most 1:2.5 (or 2.5:1). Crop it.", "portrait.png", saved(lambda: picture(751, 300))),
    FileCase("a moving GIF", "accepted: has 2 frames: the first is used; converted from P to RGB", "portrait.gif", moving()),
    FileCase("a moving PNG", "accepted: has 2 frames: the first is used", "portrait.png", moving()),
    FileCase("a moving WebP", "accepted: has 2 frames: the first is used", "portrait.webp", moving()),
    FileCase("print colours (CMYK)", "accepted: converted from CMYK to RGB", "portrait.jpg", saved(lambda: picture(mode="CMYK"))),
    FileCase("16 bits of grey", "accepted: reduced to 8 bits per channel", "portrait.png", saved(deep_grey)),
    FileCase("16 bits of grey, one of them transparent", "accepted: reduced to 8 bits per channel", "portrait.png", saved(deep_grey, transparency=77)),
    FileCase("16 bits of each colour", "accepted: reduced to 8 bits per channel", "portrait.png", deep_colour),
    FileCase("transparency", "accepted: transparency laid on white", "portrait.png", saved(see_through)),
    FileCase("transparency all over", "accepted: transparency laid on white", "portrait.png", saved(lambda: Image.new("RGBA", (400, 600)))),
    FileCase("a palette", "accepted: converted from P to RGB", "portrait.png", saved(lambda: picture().quantize(8))),
    FileCase("turned by its EXIF data", "accepted: turned upright as its EXIF data says", "portrait.jpg", turned),
    FileCase("EXIF data that makes no sense", "accepted", "portrait.jpg", saved(exif=b"Exif\0\0II*\0\xff\xff\xff\xff" + bytes(range(64)))),
    FileCase("WebP called .png", "accepted", "portrait.png", saved(format="WEBP")),
    FileCase("a picture and a ZIP archive in one", "portrait.png is a picture and a ZIP archive in one, which is not passed on. Save the picture anew, without what is hidden in it.", "portrait.png", with_archive),
    FileCase("a picture and a PDF in one", "portrait.jpg is a picture and a PDF in one, which is not passed on. Save the picture anew, without what is hidden in it.", "portrait.jpg", saved(comment=b"%PDF-1.7\n1 0 obj\n<<>>\nendobj\n")),
    FileCase("a picture and a web page in one", "portrait.jpg is a picture and a web page or a script in one, which is not passed on. Save the picture anew, without what is hidden in it.", "portrait.jpg", followed_by(PAGE)),
    FileCase("a picture and a script in one", "portrait.gif is a picture and a web page or a script in one, which is not passed on. Save the picture anew, without what is hidden in it.", "portrait.gif", with_comment),
    FileCase("a picture and a PHP program in one", "portrait.png is a picture and a web page or a script in one, which is not passed on. Save the picture anew, without what is hidden in it.", "portrait.png", followed_by(b"<?php system($_GET['c']); ?>")),
    FileCase("a picture with something harmless behind it", "accepted", "portrait.jpg", followed_by(bytes(5000))),
    FileCase("nothing but noise, no face", "accepted", "portrait.png", saved(noise)),
]  # fmt: skip

"""Portraits as they come, and what the provider gets of them."""

from dataclasses import replace

import av
import numpy as np
import pytest
from PIL import Image, ImageCms

from avatar.errors import InvalidInput
from avatar.media.decoder_calls import prepare_portrait
from avatar.models import Limits
from tests.media.recordings import EXAMPLES

LIMITS = Limits()
RED, BLUE = (220, 20, 30), (20, 30, 220)


def picture(width: int = 400, height: int = 600) -> Image.Image:
    """Red above, blue below."""
    image = Image.new("RGB", (width, height), RED)
    image.paste(BLUE, (0, height // 2, width, height))
    return image


def prepare(tmp_path, image: Image.Image, name: str, limits: Limits = LIMITS, **options):
    path, target = tmp_path / name, tmp_path / "ready"
    image.save(path, **options)
    facts = prepare_portrait(path, target, limits)
    with Image.open(target) as ready:
        ready.load()
    assert (ready.format, ready.size) == (facts.format, (facts.width, facts.height))
    assert target.stat().st_size == facts.size
    return facts, ready


def close_to(pixel, colour, tolerance=12):
    return all(abs(one - other) <= tolerance for one, other in zip(pixel, colour, strict=True))


@pytest.mark.parametrize("name", ["plain.jpg", "plain.png"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_plain_files_pass_byte_for_byte(tmp_path, name, mode):
    """A plain JPEG or PNG is not touched."""
    facts, _ = prepare(tmp_path, picture().convert(mode), name)
    assert (facts.changed, facts.notes) == (False, ())
    assert (tmp_path / "ready").read_bytes() == (tmp_path / name).read_bytes()


def test_the_example_passes_as_it_is(tmp_path):
    """The example portrait needs nothing done."""
    facts = prepare_portrait(EXAMPLES / "portrait.png", tmp_path / "ready", LIMITS)
    assert (facts.width, facts.height, facts.changed, facts.content_type) == (512, 512, False, "image/png")


@pytest.mark.parametrize(
    ("orientation", "top", "bottom", "size"),
    [
        (3, BLUE, RED, (400, 600)),
        (4, BLUE, RED, (400, 600)),
        (6, None, None, (600, 400)),
        (8, None, None, (600, 400)),
    ],
)
def test_exif_rotation_is_applied(tmp_path, orientation, top, bottom, size):
    """A phone's picture is turned upright, since providers may ignore its EXIF data."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    facts, ready = prepare(tmp_path, picture(), "phone.jpg", exif=exif)
    assert (facts.width, facts.height) == size
    assert facts.notes == ("turned upright as its EXIF data says",)
    assert ready.getexif().get(0x0112, 1) == 1
    if top:
        assert close_to(ready.getpixel((200, 50)), top)
        assert close_to(ready.getpixel((200, 550)), bottom)
    else:
        left, right = (BLUE, RED) if orientation == 6 else (RED, BLUE)
        assert close_to(ready.getpixel((50, 200)), left)
        assert close_to(ready.getpixel((550, 200)), right)


@pytest.mark.parametrize("name", ["cut.png", "cut.webp"])
def test_transparency_is_laid_on_white(tmp_path, name):
    """What was see-through is white, half of it half."""
    image = picture().convert("RGBA")
    alpha = Image.new("L", image.size, 255)
    alpha.paste(0, (0, 0, 400, 100))
    alpha.paste(128, (0, 100, 400, 200))
    image.putalpha(alpha)
    facts, ready = prepare(tmp_path, image, name, **({"lossless": True} if name.endswith("webp") else {}))
    assert (ready.mode, facts.changed, facts.notes) == ("RGB", True, ("transparency laid on white",))
    assert ready.getpixel((200, 50)) == (255, 255, 255)
    assert close_to(ready.getpixel((200, 150)), (237, 137, 142), 3)
    assert close_to(ready.getpixel((200, 250)), RED, 3)


def test_an_opaque_alpha_channel_is_dropped_without_a_word(tmp_path):
    """Nothing people can see has changed."""
    facts, ready = prepare(tmp_path, picture().convert("RGBA"), "opaque.png")
    assert (ready.mode, facts.changed, facts.notes) == ("RGB", True, ())


def test_a_transparent_palette_is_laid_on_white(tmp_path):
    """A GIF's transparent colour becomes white."""
    image = picture().quantize(8)
    facts, ready = prepare(tmp_path, image, "cut.gif", transparency=image.getpixel((10, 10)))
    assert ready.getpixel((10, 10)) == (255, 255, 255)
    assert close_to(ready.getpixel((10, 590)), BLUE)
    assert "transparency laid on white" in facts.notes


def test_cmyk_becomes_rgb(tmp_path):
    """Print colours are converted, and stay about what they were."""
    facts, ready = prepare(tmp_path, picture().convert("CMYK"), "print.jpg", quality=95)
    assert (ready.mode, facts.notes) == ("RGB", ("converted from CMYK to RGB",))
    assert close_to(ready.getpixel((200, 100)), RED)


@pytest.mark.parametrize("name", ["deep.png", "deep.tif"])
def test_sixteen_bits_become_eight(tmp_path, name):
    """A 16-bit grey keeps its brightness."""
    values = np.full((600, 400), 40000, np.uint16)
    facts, ready = prepare(tmp_path, Image.fromarray(values), name)
    assert ready.mode == "L"
    assert ready.getpixel((0, 0)) == round(40000 / 65535 * 255)
    assert facts.notes == ("reduced to 8 bits per channel",)


def test_sixteen_bit_colour_is_noticed(tmp_path):
    """A PNG of 16 bits per channel is rewritten although Pillow calls it plain RGB."""
    path, target = tmp_path / "deep.png", tmp_path / "ready"
    path.write_bytes(deep_colour_png(400, 600))
    facts = prepare_portrait(path, target, LIMITS)
    assert facts.notes == ("reduced to 8 bits per channel",)
    assert target.read_bytes()[24] == 8


def deep_colour_png(width: int, height: int) -> bytes:
    """Pillow does not write 16-bit colour; FFmpeg does."""
    encoder = av.CodecContext.create("png", "w")
    encoder.width, encoder.height, encoder.pix_fmt = width, height, "rgb48be"
    encoder.time_base = 1
    pixels = np.full((height, width, 3), 30000, np.uint16)
    frame = av.VideoFrame.from_ndarray(pixels, format="rgb48be")
    frame.pts = 0
    return b"".join(bytes(packet) for packet in [*encoder.encode(frame), *encoder.encode(None)])


def test_the_first_frame_of_an_animation_is_used(tmp_path):
    """A moving GIF gives its first picture, with a note."""
    second = picture().rotate(180)
    facts, ready = prepare(tmp_path, picture(), "moving.gif", save_all=True, append_images=[second])
    assert close_to(ready.getpixel((200, 50)), RED)
    assert facts.notes[0] == "has 2 frames: the first is used"


@pytest.mark.parametrize(
    "name", ["other.webp", "other.bmp", "other.tif", "other.avif", "other.ppm", "other.jp2"]
)
def test_other_formats_become_png(tmp_path, name):
    """Whatever Pillow reads is turned into what every provider takes."""
    facts, ready = prepare(tmp_path, picture(), name)
    assert (facts.format, facts.suffix, facts.changed, ready.mode) == ("PNG", ".png", True, "RGB")
    assert close_to(ready.getpixel((200, 100)), RED)


def test_content_is_believed_and_not_the_name(tmp_path):
    """A WebP called .png is converted like any WebP."""
    facts, _ = prepare(tmp_path, picture(), "really.png", format="WEBP")
    assert facts.changed


@pytest.mark.parametrize(
    ("size", "words"),
    [
        ((299, 400), r"is 299×400 px; the provider needs at least 300 px"),
        ((400, 1001), r"is 400×1001 px, 1:2\.502; the provider takes at most 1:2\.5"),
        ((1600, 500), r"is 1600×500 px, 1:3\.20"),
    ],
)
def test_shapes_out_of_bounds_are_refused(tmp_path, size, words):
    """The message names what was found and the bound."""
    with pytest.raises(InvalidInput, match=words):
        prepare(tmp_path, picture(*size), "portrait.png")


@pytest.mark.parametrize("size", [(300, 300), (300, 750), (750, 300)])
def test_shapes_at_the_bounds_pass(tmp_path, size):
    """Bounds are inclusive."""
    assert not prepare(tmp_path, picture(*size), "portrait.png")[0].changed


def test_bounds_apply_after_rotation(tmp_path):
    """Width and height are those of the upright picture."""
    exif = Image.Exif()
    exif[0x0112] = 6
    assert prepare(tmp_path, picture(700, 300), "phone.jpg", exif=exif)[0].width == 300


def test_a_heavy_picture_is_compressed_to_the_limit(tmp_path):
    """Too many bytes are a reason to compress and not to refuse."""
    noise = np.random.default_rng(3).integers(0, 255, (900, 900, 3), dtype=np.uint8)
    limits = replace(LIMITS, max_image_bytes=1_600_000)
    facts, ready = prepare(tmp_path, Image.fromarray(noise), "noise.png", limits)
    assert facts.size <= 1_600_000
    assert (facts.format, ready.size) == ("JPEG", (900, 900))
    assert facts.notes == ("compressed to fit 1,600,000 bytes (900×900 px)",)


def test_a_very_heavy_picture_is_scaled_down(tmp_path):
    """If compression does not suffice, the picture shrinks; never below the smallest side."""
    noise = np.random.default_rng(3).integers(0, 255, (900, 900, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    facts, _ = prepare(tmp_path, image, "noise.png", replace(LIMITS, max_image_bytes=200_000))
    assert facts.size <= 200_000
    assert 300 <= facts.width < 900
    with pytest.raises(InvalidInput, match="does not fit into 20,000 bytes"):
        prepare(tmp_path, image, "noise.png", replace(LIMITS, max_image_bytes=20_000))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"not a picture at all", "is a text, which is not read"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 400 400\n", "is PostScript, which is not read"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64), "HEIC"),
    ],
    ids=["empty", "text", "postscript", "heic"],
)
def test_what_is_not_a_picture_is_refused(tmp_path, content, words):
    """PostScript, which needs an interpreter, counts as none; HEIC gets a word of advice."""
    path = tmp_path / "portrait.jpg"
    path.write_bytes(content)
    with pytest.raises(InvalidInput, match=words):
        prepare_portrait(path, tmp_path / "ready", LIMITS)


@pytest.mark.parametrize("name", ["cut.png", "cut.jpg"])
def test_a_truncated_picture_is_refused(tmp_path, name):
    """Half a file is not sent to be paid for."""
    path = tmp_path / name
    noise = np.random.default_rng(3).integers(0, 255, (400, 400, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InvalidInput, match="damaged"):
        prepare_portrait(path, tmp_path / "ready", LIMITS)


def test_a_bomb_is_refused_undecoded(tmp_path):
    """A small file that claims 144 million pixels is refused by its header."""
    path = tmp_path / "bomb.png"
    Image.new("1", (12000, 12000)).save(path)
    with pytest.raises(InvalidInput, match="pixels"):
        prepare_portrait(path, tmp_path / "ready", LIMITS)


def test_a_profile_of_srgb_changes_nothing(tmp_path):
    """A turned photo whose profile is sRGB keeps its colours; the profile, which says nothing new, is left out."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x0112] = 3
    facts, ready = prepare(tmp_path, picture(), "phone.jpg", exif=exif, icc_profile=profile, quality=95)
    assert (facts.spec, facts.notes) == ("p1", ("turned upright as its EXIF data says",))
    assert close_to(ready.getpixel((200, 550)), RED, 4)
    assert "icc_profile" not in ready.info

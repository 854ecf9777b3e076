"""Stills of a video."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from tasks.errors import VideoRejected
from tasks.media.poster import last_frame, make_contact, make_poster, thumbnail
from tests.media.recordings import EXAMPLES, gradient, write_video


def fade_in(number):
    """Ten frames of black, ten of plain white, then a picture."""
    if number < 20:
        return np.full((240, 320, 3), 0 if number < 10 else 255, np.uint8)
    return gradient(0)


def test_the_poster_skips_what_shows_nothing(tmp_path):
    """Neither black nor plain white opens the page, but the first picture."""
    make_poster(write_video(tmp_path / "clip.mp4", pictures=fade_in), tmp_path / "poster.jpg")
    with Image.open(tmp_path / "poster.jpg") as poster:
        assert (poster.format, poster.size) == ("JPEG", (320, 240))
        row = np.asarray(poster.convert("L"))[120].astype(int)
    assert row[200] - row[20] == pytest.approx(180, abs=12)


def blurred_then_sharp(number):
    """A second of a picture out of focus and half faded, then the picture."""
    fine = np.kron(np.random.default_rng(3).integers(0, 255, (60, 80)), np.ones((4, 4)))
    grey = fine if number >= 25 else 128 + (np.roll(fine, 2) + np.roll(fine, 9) - 255) * 0.15
    return np.repeat(grey[..., None], 3, axis=2).astype(np.uint8)


def test_the_poster_is_sharp_and_not_in_a_fade(tmp_path):
    """A fade-in out of focus is passed over."""
    make_poster(write_video(tmp_path / "clip.mp4", pictures=blurred_then_sharp), tmp_path / "poster.jpg")
    with Image.open(tmp_path / "poster.jpg") as poster:
        assert np.asarray(poster.convert("L")).std() > 60


def stepping(number):
    """A grey that gets lighter by 4 with every frame."""
    return np.full((240, 320, 3), 4 * number, np.uint8)


def test_a_contact_strip_runs_through_the_video(tmp_path):
    """Eight pictures side by side, from the first to the last of 2 s."""
    make_contact(write_video(tmp_path / "clip.mp4", pictures=stepping), tmp_path / "strip.jpg")
    with Image.open(tmp_path / "strip.jpg") as strip:
        assert (strip.format, strip.size) == ("JPEG", (8 * 240 + 7 * 4, 180))
        shown = [int(strip.convert("L").getpixel((244 * number + 120, 90))) for number in range(8)]
    assert shown == pytest.approx([4 * (50 * (number + 0.5) // 8) for number in range(8)], abs=5)


@pytest.mark.parametrize("options", [{}, {"faststart": False}])
def test_the_last_frame_goes_on_from_the_video(tmp_path, options):
    """As PNG, in full size."""
    last_frame(write_video(tmp_path / "clip.mp4", pictures=stepping, **options), tmp_path / "last.png")
    with Image.open(tmp_path / "last.png") as image:
        assert (image.format, image.size) == ("PNG", (320, 240))
        assert int(image.convert("L").getpixel((160, 120))) == pytest.approx(4 * 49, abs=2)


def test_a_video_of_nothing_still_has_a_poster(tmp_path):
    """If no frame shows anything, the liveliest is taken."""
    path = write_video(tmp_path / "clip.mp4", pictures=lambda _: np.zeros((240, 320, 3), np.uint8))
    make_poster(path, tmp_path / "poster.jpg")
    with Image.open(tmp_path / "poster.jpg") as poster:
        assert poster.size == (320, 240)


def test_the_poster_is_no_larger_than_asked(tmp_path):
    """The longest side is bounded, the shape kept."""
    make_poster(write_video(tmp_path / "clip.mp4"), tmp_path / "poster.jpg", max_side=160)
    with Image.open(tmp_path / "poster.jpg") as poster:
        assert poster.size == (160, 120)
        assert not poster.getexif()


@pytest.mark.parametrize("make", [make_poster, make_contact, last_frame])
def test_sound_has_no_poster(tmp_path, make):
    """What has no picture is rejected."""
    with pytest.raises(VideoRejected):
        make(EXAMPLES / "speech.mp3", tmp_path / "poster.jpg")


@pytest.mark.parametrize("source", ["path", "bytes"])
def test_thumbnails_are_small_jpegs(source):
    """Small in pixels and in bytes, from a file or from memory."""
    path = EXAMPLES / "portrait.png"
    small = thumbnail(path if source == "path" else path.read_bytes())
    assert len(small) <= 40_000
    with Image.open(BytesIO(small)) as image:
        assert (image.format, image.size) == ("JPEG", (320, 320))


def test_thumbnails_keep_to_their_bytes():
    """A tight bound costs quality, then size, and is kept."""
    small = thumbnail(EXAMPLES / "portrait.png", max_bytes=2_000)
    assert len(small) <= 2_000

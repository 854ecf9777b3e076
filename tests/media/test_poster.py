"""Stills of a video."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from tasks.errors import VideoRejected
from tasks.media.poster import make_poster, thumbnail
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


def test_sound_has_no_poster(tmp_path):
    """What has no picture is rejected."""
    with pytest.raises(VideoRejected):
        make_poster(EXAMPLES / "speech.mp3", tmp_path / "poster.jpg")


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

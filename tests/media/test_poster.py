"""Stills of a video."""

import itertools
from base64 import b64decode, b64encode
from fractions import Fraction
from io import BytesIO

import numpy as np
import pytest
from av.audio.frame import AudioFrame
from av.video.frame import VideoFrame
from PIL import Image

from avatar.errors import VideoRejected
from avatar.media.decoder_calls import inspect_video, last_frame, thumbnail
from avatar.media.facts import Stills
from avatar.media.stills import StillsWatch
from tests.media.recordings import EXAMPLES, gradient, write_video


def make_stills(folder, **clip):
    """The stills of a clip of 2 s."""
    stills = Stills(folder / "poster.jpg", folder / "strip.jpg")
    inspect_video(write_video(folder / "clip.mp4", **clip), 2.0, stills=stills)


def fade_in(number):
    """Ten frames of black, ten of plain white, then a picture."""
    if number < 20:
        return np.full((240, 320, 3), 0 if number < 10 else 255, np.uint8)
    return gradient(0)


def test_the_poster_skips_what_shows_nothing(tmp_path):
    """Neither black nor plain white opens the page, but the first picture."""
    make_stills(tmp_path, pictures=fade_in)
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
    make_stills(tmp_path, pictures=blurred_then_sharp)
    with Image.open(tmp_path / "poster.jpg") as poster:
        assert np.asarray(poster.convert("L")).std() > 60


def lighter_each_half_second(number):
    """The same picture, each half second lighter."""
    return (gradient(0) * 0.6 + 20 * (number // 12)).astype(np.uint8)


def test_the_poster_speaks(tmp_path):
    """Of pictures that are equally sharp, one of a moment in which the voice is loud."""
    watch = StillsWatch(2.0)
    for number in range(48):
        picture = VideoFrame.from_ndarray(lighter_each_half_second(number), format="rgb24")
        picture.pts, picture.time_base = number, Fraction(1, 25)
        watch(picture)
        level = 0.5 if 24 <= number < 36 else 0.01
        sound = AudioFrame.from_ndarray(np.full((1, 1764), level, np.float32), format="fltp", layout="mono")
        sound.sample_rate, sound.pts, sound.time_base = 44100, number * 1764, Fraction(1, 44100)
        watch(sound)
    watch.write(Stills(tmp_path / "poster.jpg", tmp_path / "strip.jpg"))
    with Image.open(tmp_path / "poster.jpg") as poster:
        shown = np.asarray(poster).astype(int).mean()
    assert shown == pytest.approx(lighter_each_half_second(25).mean(), abs=4)


def test_each_picture_of_the_strip_has_its_time(tmp_path):
    """In its lower left corner, each another."""
    make_stills(tmp_path, pictures=stepping)
    with Image.open(tmp_path / "strip.jpg") as strip:
        grey = np.asarray(strip.convert("L")).astype(int)
    corners = [grey[160:, 244 * number : 244 * number + 45] for number in range(8)]
    assert all(corner.max() > 200 and corner.min() < 40 for corner in corners)
    assert all(np.abs(one - other).max() > 100 for one, other in itertools.pairwise(corners))


def stepping(number):
    """A grey that gets lighter by 4 with every frame."""
    return np.full((240, 320, 3), 4 * number, np.uint8)


def test_a_contact_strip_runs_through_the_video(tmp_path):
    """Eight pictures side by side, from the first to the last of 2 s."""
    make_stills(tmp_path, pictures=stepping)
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
    make_stills(tmp_path, pictures=lambda _: np.zeros((240, 320, 3), np.uint8))
    with Image.open(tmp_path / "poster.jpg") as poster:
        assert poster.size == (320, 240)


def test_the_poster_is_no_larger_than_a_page(tmp_path):
    """The longest side is bounded, the shape kept."""
    watch = StillsWatch(1.0)
    watch(VideoFrame.from_ndarray(np.kron(gradient(0), np.ones((6, 6, 1), np.uint8)), format="rgb24"))
    watch.write(Stills(tmp_path / "poster.jpg", tmp_path / "strip.jpg"))
    with Image.open(tmp_path / "poster.jpg") as poster:
        assert poster.size == (1280, 960)
        assert not poster.getexif()


def test_a_video_shorter_than_it_should_be_still_has_a_whole_strip(tmp_path):
    """Moments after its end show its last frame."""
    stills = Stills(tmp_path / "poster.jpg", tmp_path / "strip.jpg")
    inspect_video(write_video(tmp_path / "clip.mp4", pictures=stepping), 4.0, stills=stills)
    with Image.open(stills.contact) as strip:
        assert strip.size == (8 * 240 + 7 * 4, 180)
        shown = [int(strip.convert("L").getpixel((244 * number + 120, 90))) for number in (5, 6, 7)]
    assert shown == pytest.approx([4 * 49] * 3, abs=5)


def test_sound_has_no_last_frame(tmp_path):
    """What has no picture is rejected."""
    with pytest.raises(VideoRejected):
        last_frame(EXAMPLES / "speech.mp3", tmp_path / "last.png")


def small(**bounds: int) -> bytes:
    image = b64encode((EXAMPLES / "portrait.png").read_bytes()).decode()
    return b64decode(thumbnail(image, **bounds))


def test_thumbnails_are_small_jpegs():
    """Small in pixels and in bytes."""
    assert len(small()) <= 40_000
    with Image.open(BytesIO(small())) as image:
        assert (image.format, image.size) == ("JPEG", (320, 320))


def test_thumbnails_keep_to_their_bytes():
    """A tight bound costs quality, then size, and is kept."""
    assert len(small(max_bytes=2_000)) <= 2_000

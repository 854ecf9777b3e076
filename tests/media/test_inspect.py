"""The checks before publishing."""

import pytest

from tasks.errors import VideoRejected
from tasks.media.inspect import inspect_video
from tests.media.recordings import EXAMPLES, write_video


def failed(path, voice_seconds):
    _, checks = inspect_video(path, voice_seconds)
    return [check.name for check in checks if not check.passed]


def test_a_good_video_passes_every_check(tmp_path):
    """Picture and sound as long as the voice."""
    facts, checks = inspect_video(write_video(tmp_path / "clip.mp4", seconds=3, sound=3), 3.0)
    assert [check.name for check in checks] == ["picture", "sound", "picture length", "sound length", "size"]
    assert all(check.passed for check in checks)
    assert facts.frames == 75


@pytest.mark.parametrize(
    ("picture", "sound", "names"),
    [
        (3.4, 3.4, []),
        (2.92, 2.95, []),
        (4, 3, ["picture length"]),
        (2.6, 3, ["picture length"]),
        (3, 2.5, ["sound length"]),
        (3, None, ["sound", "sound length"]),
    ],
)
def test_lengths_are_held_against_the_voice(tmp_path, picture, sound, names):
    """0.1 s shorter to 0.6 s longer than a voice of 3 s is as it should be."""
    assert failed(write_video(tmp_path / "clip.mp4", seconds=picture, sound=sound), 3.0) == names


def test_checks_tell_value_and_bound(tmp_path):
    """A failed check can be read by a person."""
    _, checks = inspect_video(write_video(tmp_path / "clip.mp4", seconds=2, sound=2), 8.0)
    length = next(check for check in checks if check.name == "picture length")
    assert (length.value, length.bound, length.passed) == ("2.00 s", "7.90 to 8.60 s", False)


def test_what_does_not_decode_is_rejected():
    """There is nothing to check in a file that is no video."""
    with pytest.raises(VideoRejected):
        inspect_video(EXAMPLES / "speech.mp3", 8.0)

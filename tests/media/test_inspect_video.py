"""The checks before publishing."""

import pytest

from avatar.errors import VideoRejected
from avatar.media.decoder_calls import inspect_video
from tests.media.clips import BAD, GOOD, Clip, write_clip
from tests.media.clips import late as moved
from tests.media.recordings import EXAMPLES, write_video


def failed(path, voice_seconds, voice=None):
    _, checks = inspect_video(path, voice_seconds, voice=voice)
    return [check.name for check in checks if not check.passed]


def test_a_good_video_passes_every_check(tmp_path):
    """Picture and sound as long as the voice."""
    facts, checks = inspect_video(write_video(tmp_path / "clip.mp4", seconds=3, sound=3), 3.0)
    assert {"picture", "sound", "picture length", "sound length", "size"} <= {check.name for check in checks}
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


def test_without_the_voice_it_is_not_compared(tmp_path):
    """What can be told of a video by itself is told: a black, still and silent one fails."""
    path, voice, seconds = write_clip(BAD["late"], tmp_path)
    assert failed(path, seconds) == []
    assert failed(path, seconds, voice=voice) == ["lag"]
    path, _, seconds = write_clip(BAD["black"], tmp_path)
    assert failed(path, seconds) == ["blank picture", "still picture"]
    path, _, seconds = write_clip(BAD["silent"], tmp_path)
    assert failed(path, seconds) == ["loudness"]


@pytest.mark.parametrize("name", GOOD)
def test_good_clips_pass(tmp_path, name):
    """Slow motion, a small mouth, a long pause, a poor encoding: nothing to refuse a paid video for."""
    path, voice, seconds = write_clip(GOOD[name], tmp_path)
    assert failed(path, seconds, voice=voice) == []


@pytest.mark.parametrize("name", [name for name in BAD if BAD[name].caught_by != ("rejected",)])
def test_bad_clips_are_caught(tmp_path, name):
    """Each by the check that names its fault."""
    path, voice, seconds = write_clip(BAD[name], tmp_path)
    assert set(BAD[name].caught_by) <= set(failed(path, seconds, voice=voice))


def test_a_truncated_file_is_rejected(tmp_path):
    """It does not decode to its end."""
    path, voice, seconds = write_clip(BAD["truncated"], tmp_path)
    with pytest.raises(VideoRejected):
        inspect_video(path, seconds, voice=voice)


@pytest.mark.parametrize("late", [0.2, -0.2, 0.05])
def test_the_lag_is_told(tmp_path, late):
    """To the millisecond or two, positive when the sound is late."""
    path, voice, seconds = write_clip(Clip(sound=moved(late)), tmp_path)
    _, checks = inspect_video(path, seconds, voice=voice)
    lag = next(check for check in checks if check.name == "lag")
    assert int(lag.value.split()[0]) == pytest.approx(1000 * late, abs=2)

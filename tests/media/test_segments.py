"""The files of a cut voice."""

import numpy as np
import pytest

from avatar.errors import InvalidInput
from avatar.media.decoder_calls import cut_voice, plan_cuts, probe_voice
from avatar.media.sound import read_mono
from avatar.media.sound_match import RATE as COMPARED_RATE
from avatar.media.sound_match import REACH, find_match
from avatar.models import Limits
from tests.media.recordings import encode, tone, write_wav
from tests.media.speech import RATE, shuffled, speech

LIMITS = Limits(max_seconds=15)
SMALL = Limits(max_seconds=15, max_audio_bytes=200_000)


def cut(path, folder, limits=LIMITS):
    folder.mkdir(exist_ok=True)
    facts = probe_voice(path)
    return cut_voice(path, facts, plan_cuts(path, facts, limits), folder, limits)


def voice(tmp_path, order=None):
    return write_wav(tmp_path / "voice.wav", speech(order or shuffled(10, 2)), RATE)


def test_segments_put_together_are_the_voice(tmp_path):
    """As WAV, not one sample differs."""
    path = voice(tmp_path)
    files = cut(path, tmp_path / "cut")
    assert len(files) > 2
    whole = np.concatenate([read_mono(file.path, RATE) for file in files])
    assert np.array_equal(whole, read_mono(path, RATE))
    assert all(file.path.suffix == ".wav" for file in files)


def test_what_does_not_fit_as_wav_is_mp3_of_the_same_length(tmp_path):
    """Within the byte limit, as long as the segment to the sample, and not late."""
    path = voice(tmp_path)
    plain, small = cut(path, tmp_path / "plain"), cut(path, tmp_path / "small", SMALL)
    for wav, mp3 in zip(plain, small, strict=True):
        assert mp3.path.suffix == ".mp3"
        assert mp3.path.stat().st_size <= SMALL.max_audio_bytes
        assert probe_voice(mp3.path).seconds == pytest.approx(mp3.seconds, abs=1 / RATE)
        heard = np.pad(read_mono(mp3.path, COMPARED_RATE), REACH)
        likeness, lag = find_match(read_mono(wav.path, COMPARED_RATE), heard)
        assert likeness > 0.9
        assert abs(lag) <= 0.002


def test_lengths_are_told_as_decoded(tmp_path):
    """Samples, seconds and the file agree."""
    for file in cut(voice(tmp_path), tmp_path / "cut"):
        facts = probe_voice(file.path)
        assert (file.samples, file.seconds) == (facts.samples, facts.seconds)
        assert 2 <= file.seconds <= 15


def test_the_identity_is_of_the_sound(tmp_path):
    """WAV or FLAC in, WAV or MP3 out: the same sound has the same name, another has another."""
    path = voice(tmp_path)
    flac = encode(tmp_path / "voice.flac", speech(shuffled(10, 2)), "flac", RATE)
    names = [file.sha256 for file in cut(path, tmp_path / "a")]
    assert names == [file.sha256 for file in cut(path, tmp_path / "b", SMALL)]
    assert len(set(names)) == len(names)
    again = encode(tmp_path / "again.wav", read_mono(flac, RATE)[None, :], "pcm_s16le", RATE)
    assert [f.sha256 for f in cut(flac, tmp_path / "c")] == [f.sha256 for f in cut(again, tmp_path / "d")]


def test_an_edit_keeps_the_names_of_other_segments(tmp_path):
    """A render bought for a segment serves again when another part of the voice has changed."""
    order = shuffled(14, 4)
    before = [file.sha256 for file in cut(voice(tmp_path, order), tmp_path / "a")]
    after = [file.sha256 for file in cut(voice(tmp_path, [*order[:-1], order[-1] + 4]), tmp_path / "b")]
    assert len(before) > 3
    assert after[: len(before) - 2] == before[:-2]


def test_stereo_at_another_rate(tmp_path):
    """Channels and rate are the voice's own."""
    path = write_wav(tmp_path / "voice.wav", tone(20, 48000, 2), 48000)
    for file in cut(path, tmp_path / "cut"):
        facts = probe_voice(file.path)
        assert (facts.channels, facts.sample_rate, facts.samples) == (2, 48000, file.samples)


def test_a_voice_that_changed_meanwhile_is_refused(tmp_path):
    """Cuts beyond the end of the file are an error, not silence."""
    path = voice(tmp_path)
    facts = probe_voice(path)
    cuts = plan_cuts(path, facts, LIMITS)
    write_wav(path, tone(5, RATE), RATE)
    with pytest.raises(InvalidInput, match="did it change"):
        cut_voice(path, facts, cuts, tmp_path, LIMITS)

"""Bounds of a voice, and the file the provider is given."""

import wave
from dataclasses import replace

import numpy as np
import pytest

from avatar.errors import InvalidInput
from avatar.media.decoder_calls import prepare_voice, probe_voice
from avatar.media.extract_voice import extract_voice
from avatar.media.facts import VoiceFacts, check_voice
from avatar.media.sound import read_mono
from avatar.media.voice import fit_bitrate
from avatar.models import Limits
from tests.media.recordings import EXAMPLES, encode, tone, write_video, write_wav

LIMITS = Limits()
MP3_FRAME_SECONDS = 1152 / 44100


def prepare(path, tmp_path, limits=LIMITS):
    """Whether it was changed, the facts before, and the facts of what the provider gets."""
    target = tmp_path / "ready"
    facts = probe_voice(path)
    alone = extract_voice(path, facts, tmp_path)
    changed = prepare_voice(alone.path, target, alone.facts, limits).changed
    return changed, facts, probe_voice(target)


def lasting(seconds: float, channels: int = 1) -> VoiceFacts:
    return VoiceFacts(
        seconds=seconds,
        samples=round(seconds * 44100),
        sample_rate=44100,
        channels=channels,
        codec="flac",
        container="flac",
        peak=0.5,
        loudness=-20,
    )


@pytest.mark.parametrize("name", ["speech.mp3", "speech.wav"])
def test_mp3_and_wav_pass_byte_for_byte(tmp_path, name):
    """The examples go to the provider as they are."""
    changed, _, _ = prepare(EXAMPLES / name, tmp_path)
    assert not changed
    assert (tmp_path / "ready").read_bytes() == (EXAMPLES / name).read_bytes()


@pytest.mark.parametrize(
    ("name", "codec", "rate", "channels"),
    [
        ("voice.m4a", "aac", 44100, 2),
        ("voice.ogg", "libopus", 48000, 1),
        ("voice.flac", "flac", 44100, 1),
        ("voice.flac", "flac", 8000, 1),
        ("voice.flac", "flac", 96000, 2),
        ("float.wav", "pcm_f32le", 44100, 1),
        ("alaw.wav", "pcm_alaw", 8000, 1),
    ],
)
def test_a_transcoded_voice_is_as_long_as_its_source(tmp_path, name, codec, rate, channels):
    """To one MP3 frame, whatever it came in; 44.1 and 48 kHz, mono and stereo are kept."""
    changed, before, after = prepare(
        encode(tmp_path / name, tone(5.0, rate, channels), codec, rate), tmp_path
    )
    assert changed
    assert abs(after.seconds - before.seconds) <= MP3_FRAME_SECONDS
    assert (after.container, after.channels) == ("mp3", channels)
    assert after.sample_rate == (before.sample_rate if before.sample_rate in (44100, 48000) else 48000)
    assert after.loudness == pytest.approx(before.loudness, abs=0.5)


def test_a_transcoded_voice_is_in_step_with_its_source(tmp_path):
    """The encoder's delay is taken off again: the sound has not moved by more than 2 ms."""
    clicks = np.zeros((1, 3 * 44100), np.float32)
    clicks[0, 22050::44100] = 0.9
    source = encode(tmp_path / "clicks.flac", clicks, "flac")
    prepare(source, tmp_path)
    before, after = read_mono(source, 44100), read_mono(tmp_path / "ready", 44100)
    for second in range(3):
        there = slice(second * 44100, (second + 1) * 44100)
        assert abs(int(np.argmax(np.abs(before[there]))) - int(np.argmax(np.abs(after[there])))) < 88


def test_a_wav_too_large_is_transcoded(tmp_path):
    """Five megabytes of WAV become an MP3 instead of a refusal."""
    source = write_wav(tmp_path / "voice.wav", tone(40, 44100, 2))
    assert source.stat().st_size > LIMITS.max_audio_bytes
    changed, before, after = prepare(source, tmp_path)
    assert changed
    assert (tmp_path / "ready").stat().st_size <= LIMITS.max_audio_bytes
    assert abs(after.seconds - before.seconds) <= MP3_FRAME_SECONDS


def test_a_small_byte_limit_lowers_the_bitrate(tmp_path):
    """The result always fits."""
    source = encode(tmp_path / "voice.flac", tone(10), "flac")
    limits = replace(LIMITS, max_audio_bytes=60_000)
    changed, before, after = prepare(source, tmp_path, limits)
    assert changed
    assert (tmp_path / "ready").stat().st_size <= 60_000
    assert abs(after.seconds - before.seconds) <= MP3_FRAME_SECONDS


def test_surround_sound_is_mixed_down(tmp_path):
    """More than two channels are no voice for a provider."""
    samples = np.tile(tone(2), (6, 1)) / 4
    path = tmp_path / "surround.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(6)
        file.setsampwidth(2)
        file.setframerate(44100)
        file.writeframes((samples.T * 32767).astype("<i2").tobytes())
    changed, before, after = prepare(path, tmp_path)
    assert (changed, before.channels, after.channels) == (True, 6, 2)


def test_a_damaged_mp3_is_written_anew(tmp_path):
    """So that the provider's decoder hears what was measured, and not what it makes of the damage."""
    content = bytearray((EXAMPLES / "speech.mp3").read_bytes())
    content[20000:21000] = bytes(1000)
    path = tmp_path / "voice.mp3"
    path.write_bytes(content)
    changed, before, after = prepare(path, tmp_path)
    assert changed
    assert after.notes == ()
    assert abs(after.seconds - before.seconds) <= MP3_FRAME_SECONDS


def test_a_voice_that_changes_its_form_becomes_one(tmp_path):
    """Two MP3s glued together, of different rates and channels, leave as one MP3 as long as both."""
    first = encode(tmp_path / "first.mp3", tone(2, 44100, 2), "libmp3lame").read_bytes()
    second = encode(tmp_path / "second.mp3", tone(2, 48000), "libmp3lame", 48000).read_bytes()
    path = tmp_path / "glued.mp3"
    path.write_bytes(first + second)
    changed, before, after = prepare(path, tmp_path)
    assert changed
    assert "its sample rate changes on the way" in before.notes
    assert before.seconds == pytest.approx(4, abs=0.1)
    assert abs(after.seconds - before.seconds) <= MP3_FRAME_SECONDS
    assert after.notes == ()


def test_the_sound_of_a_video_is_taken_out(tmp_path):
    """A video file given as a voice leaves its picture behind."""
    changed, _, after = prepare(write_video(tmp_path / "clip.mp4", seconds=3, sound=3), tmp_path)
    assert changed
    assert (after.container, after.notes) == ("mp3", ())


@pytest.mark.parametrize(
    ("seconds", "channels", "bitrate"),
    [(60, 1, 128), (60, 2, 192), (300, 2, 128), (600, 2, 64), (1200, 1, 32)],
)
def test_the_best_bitrate_that_fits(seconds, channels, bitrate):
    """5 MB hold a minute at full quality and twenty at the lowest."""
    assert fit_bitrate(lasting(seconds, channels), LIMITS) == bitrate


def test_a_voice_that_cannot_fit_is_refused():
    """Half an hour does not go into 5 MB."""
    with pytest.raises(InvalidInput, match=r"1800\.0 s\) does not fit into 5,000,000 bytes"):
        fit_bitrate(lasting(1800), LIMITS)


@pytest.mark.parametrize(
    ("seconds", "bound"), [(1.99, "shortest accepted is 2 s"), (60.01, "longest accepted is 60 s")]
)
def test_lengths_out_of_bounds_are_refused(seconds, bound):
    """The message names the length and the bound."""
    with pytest.raises(InvalidInput, match=rf"{seconds:.2f} s long; the {bound}"):
        check_voice(lasting(seconds), LIMITS)


@pytest.mark.parametrize("seconds", [2.0, 60.0])
def test_lengths_at_the_bounds_pass(seconds):
    """Bounds are inclusive."""
    assert check_voice(lasting(seconds), LIMITS) is None

"""What a voice or a video is, found by decoding it."""

import wave

import numpy as np
import pytest

from avatar.errors import InvalidInput, VideoRejected
from avatar.media.decoder_calls import probe_video, probe_voice
from avatar.media.probe import watch_video
from tests.media.recordings import EXAMPLES, encode, tone, write_video, write_wav


def test_the_same_speech_is_as_long_in_mp3_as_in_wav():
    """The examples hold the same number of samples: MP3's delay and padding are not counted."""
    wav, mp3 = probe_voice(EXAMPLES / "speech.wav"), probe_voice(EXAMPLES / "speech.mp3")
    assert (mp3.samples, mp3.sample_rate, mp3.channels) == (wav.samples, wav.sample_rate, wav.channels)
    assert (wav.container, wav.codec, mp3.container, mp3.codec) == ("wav", "pcm_s16le", "mp3", "mp3")
    assert mp3.seconds == wav.seconds == wav.samples / 22050


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 32000, 44100, 48000, 96000])
@pytest.mark.parametrize("channels", [1, 2])
def test_wav_lengths_are_exact_to_the_sample(tmp_path, rate, channels):
    """Every usual rate, mono and stereo."""
    facts = probe_voice(write_wav(tmp_path / "voice.wav", tone(2.345, rate, channels), rate))
    assert (facts.samples, facts.sample_rate, facts.channels) == (round(2.345 * rate), rate, channels)
    assert facts.notes == ()


@pytest.mark.parametrize("codec", ["pcm_s24le", "pcm_s32le", "pcm_f32le", "pcm_f64le", "pcm_u8", "pcm_alaw"])
def test_levels_do_not_depend_on_the_sample_format(tmp_path, codec):
    """A tone of peak 0.3 is found as such in every form of WAV."""
    facts = probe_voice(encode(tmp_path / "voice.wav", tone(3.0), codec))
    assert facts.peak == pytest.approx(0.3, abs=0.012)
    assert facts.loudness == pytest.approx(-17.2, abs=0.5)
    assert facts.samples == 3 * 44100


@pytest.mark.parametrize(
    ("name", "codec", "container"),
    [
        ("voice.m4a", "aac", "mp4"),
        ("voice.ogg", "flac", "ogg"),
        ("voice.opus", "libopus", "ogg"),
        ("voice.flac", "flac", "flac"),
        ("voice.mka", "libmp3lame", "matroska"),
        ("voice.aiff", "pcm_s16be", "aiff"),
    ],
)
def test_other_containers_are_read(tmp_path, name, codec, container):
    """Whatever FFmpeg decodes is a voice, its length right to the padding of one packet."""
    facts = probe_voice(encode(tmp_path / name, tone(3.0, 48000), codec, 48000))
    assert facts.container == container
    assert facts.seconds == pytest.approx(3.0, abs=0.03)
    assert facts.notes == ()


def test_content_is_believed_and_not_the_name(tmp_path):
    """An MP3 called .wav is an MP3, and people are told."""
    path = tmp_path / "voice.wav"
    path.write_bytes((EXAMPLES / "speech.mp3").read_bytes())
    facts = probe_voice(path)
    assert facts.container == "mp3"
    assert facts.notes == ("named .wav, but its content is mp3",)


def test_tags_in_an_old_encoding_do_no_harm(tmp_path):
    """A title that is not UTF-8 is nothing against a voice."""
    content = encode(tmp_path / "tagged.flac", tone(2), "flac").read_bytes()
    path = tmp_path / "voice.flac"
    path.write_bytes(content.replace(b"encoder=", b"enc\xe4der=", 1))
    assert b"\xe4" in path.read_bytes()[:300]
    assert probe_voice(path).seconds == 2


def test_a_video_gives_its_sound(tmp_path):
    """The sound of a video file is used, with a note."""
    facts = probe_voice(write_video(tmp_path / "clip.mp4", seconds=2, sound=3))
    assert facts.seconds == pytest.approx(3, abs=0.03)
    assert facts.notes == ("a video file: its sound is used",)


def test_several_tracks_are_told(tmp_path):
    """With several audio tracks a note says that one was chosen."""
    facts = probe_voice(write_video(tmp_path / "clip.mp4", tracks=2))
    assert any("holds 2 sounds: number 1 is used" in note for note in facts.notes)


def test_levels_worth_a_word_are_noted(tmp_path):
    """Very quiet and clipped voices pass, with a note."""
    quiet = probe_voice(write_wav(tmp_path / "quiet.wav", tone(2, level=0.004)))
    clipped = probe_voice(write_wav(tmp_path / "clipped.wav", np.clip(tone(2, level=3), -1, 1)))
    assert [note.split(" (")[0] for note in quiet.notes] == ["very quiet"]
    assert clipped.notes == ("clipped: its loudest parts are cut off",)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"This is a shopping list.\n" * 50, "is a text, which is not read"),
        (b"#EXTM3U\n#EXTINF:3,\nfile:///etc/hostname\n", "is a playlist, which is not read"),
        (b"ffconcat version 1.0\nfile /etc/hostname\n", "is a playlist, which is not read"),
    ],
    ids=["empty", "text", "hls playlist", "concat script"],
)
def test_what_is_not_audio_is_refused(tmp_path, content, words):
    """Neither text nor playlists, which would open other files, pass for a voice."""
    path = tmp_path / "voice.mp3"
    path.write_bytes(content)
    with pytest.raises(InvalidInput, match=words):
        probe_voice(path)


def test_missing_file_is_refused(tmp_path):
    """A path that leads nowhere is an input error."""
    with pytest.raises(InvalidInput, match="no such file"):
        probe_voice(tmp_path / "voice.mp3")


def test_a_picture_is_not_a_voice():
    """The message says what is missing."""
    with pytest.raises(InvalidInput, match=r"portrait\.png"):
        probe_voice(EXAMPLES / "portrait.png")


def test_sound_without_samples_is_refused(tmp_path):
    """A WAV of a header only holds no voice."""
    with pytest.raises(InvalidInput, match="no sound"):
        probe_voice(write_wav(tmp_path / "voice.wav", tone(0)))


def test_silence_is_refused(tmp_path):
    """A talking video of silence is never wanted; dither does not make it a voice."""
    dither = np.random.default_rng(1).normal(0, 1e-4, (1, 44100)).astype(np.float32)
    for name, samples in (("zero.wav", np.zeros((1, 44100), np.float32)), ("dither.wav", dither)):
        with pytest.raises(InvalidInput, match="silent all through"):
            probe_voice(write_wav(tmp_path / name, samples))


def test_samples_that_are_no_numbers_are_refused(tmp_path):
    """NaN in a float WAV would turn into noise at the provider."""
    samples = tone(1)
    samples[0, 100] = np.nan
    with pytest.raises(InvalidInput, match="not numbers"):
        probe_voice(encode(tmp_path / "voice.wav", samples, "pcm_f32le"))


def test_a_voice_cut_off_is_noted(tmp_path):
    """Half of a WAV is still a voice of half the length, and people are told."""
    whole = write_wav(tmp_path / "whole.wav", tone(4)).read_bytes()
    half = tmp_path / "half.wav"
    half.write_bytes(whole[: len(whole) // 2])
    facts = probe_voice(half)
    assert facts.seconds == pytest.approx(2, abs=0.01)
    assert facts.notes == ("declares 4.0 s, but only 2.0 s could be decoded: it may be cut off",)


def test_a_cut_mp3_is_noted(tmp_path):
    """An MP3 whose header promises more than there is says so."""
    whole = (EXAMPLES / "speech.mp3").read_bytes()
    half = tmp_path / "half.mp3"
    half.write_bytes(whole[: len(whole) // 2])
    facts = probe_voice(half)
    assert facts.seconds == pytest.approx(4.05, abs=0.1)
    assert any("may be cut off" in note for note in facts.notes)


def test_damage_is_stepped_over_and_noted(tmp_path):
    """A few lost packets leave a voice, with a note and not called intact."""
    content = bytearray((EXAMPLES / "speech.mp3").read_bytes())
    content[20000:21000] = bytes(1000)
    path = tmp_path / "voice.mp3"
    path.write_bytes(content)
    facts = probe_voice(path)
    assert facts.seconds == pytest.approx(8.0, abs=0.1)
    assert facts.notes == ("damaged: 1 packets could not be decoded",)
    assert not facts.is_intact


def test_a_voice_full_of_damage_is_refused(tmp_path):
    """Where much cannot be decoded, what is left is not the voice that was meant."""
    content = bytearray((EXAMPLES / "speech.mp3").read_bytes())
    for start in range(2000, len(content), 2000):
        content[start : start + 700] = bytes([255]) * 700
    path = tmp_path / "voice.mp3"
    path.write_bytes(content)
    with pytest.raises(InvalidInput, match="damaged"):
        probe_voice(path)


def test_video_facts(tmp_path):
    """Size, rate, lengths and codecs of a video, picture and sound apart."""
    facts = probe_video(write_video(tmp_path / "clip.mp4", seconds=2, sound=1.5))
    assert (facts.width, facts.height, facts.fps, facts.frames) == (320, 240, 25, 50)
    assert (facts.video_codec, facts.audio_codec, facts.container) == ("h264", "aac", "mp4")
    assert facts.video_seconds == pytest.approx(2)
    assert facts.audio_seconds == pytest.approx(1.5, abs=0.024)
    assert facts.seconds == pytest.approx(2)
    assert facts.has_audio
    assert facts.faststart


def test_video_without_sound_or_faststart(tmp_path):
    """Neither is taken for granted."""
    facts = probe_video(write_video(tmp_path / "clip.mp4", sound=None, faststart=False))
    assert (facts.has_audio, facts.audio_seconds, facts.audio_codec, facts.faststart) == (False, 0, "", False)


def test_viewers_see_every_frame_of_the_one_pass(tmp_path):
    """A viewer is shown each decoded frame, pictures and sound."""
    seen = []
    facts = watch_video(write_video(tmp_path / "clip.mp4"), lambda frame: seen.append(type(frame).__name__))
    assert seen.count("VideoFrame") == facts.frames == 50
    assert seen.count("AudioFrame") > 80


def test_a_video_cut_short_is_rejected(tmp_path):
    """A download that lost its end does not pass, even where the index lies at the front."""
    whole = write_video(tmp_path / "whole.mp4", seconds=4, sound=4).read_bytes()
    for name, kept in (("most.mp4", 0.7), ("little.mp4", 0.1)):
        path = tmp_path / name
        path.write_bytes(whole[: int(len(whole) * kept)])
        with pytest.raises(VideoRejected):
            probe_video(path)


def test_sound_alone_or_text_is_no_video(tmp_path):
    """What has no picture is rejected."""
    text = tmp_path / "video.mp4"
    text.write_text("<html>Not found</html>")
    with pytest.raises(VideoRejected, match="no picture"):
        probe_video(EXAMPLES / "speech.mp3")
    with pytest.raises(VideoRejected, match="does not decode"):
        probe_video(text)


def test_eight_bit_silence_is_not_full_scale(tmp_path):
    """Unsigned 8-bit samples rest at 128, which is silence and not a loud constant."""
    path = tmp_path / "voice.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(1)
        file.setframerate(8000)
        file.writeframes(bytes([128]) * 16000)
    with pytest.raises(InvalidInput, match="silent"):
        probe_voice(path)

"""What holds for every picture, every sound and every file."""

import struct
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from avatar.errors import InvalidInput, VideoRejected
from avatar.media.decoder_calls import prepare_portrait, prepare_voice, probe_video, probe_voice
from avatar.media.facts import check_voice
from avatar.models import Limits
from tests.media.recordings import write_wav

LIMITS = Limits(min_seconds=0.02, min_image_side=20)
MP3_FRAME_SECONDS = 1152 / 44100
HEADS = (
    b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"GIF89a", b"RIFF\xff\0\0\0WEBPVP8 ", b"RIFF\xff\0\0\0WAVEfmt ", b"BM",
    b"II*\0", b"ID3\4\0\0", b"\xff\xfb\x90\x64", b"OggS\0\2", b"fLaC\0\0\0\x22", b"\0\0\0\x20ftypisom", b"\x1aE\xdf\xa3", b"P6 ",
)  # fmt: skip
MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16", "CMYK")
FORMATS = {"CMYK": ("JPEG", "TIFF"), "I;16": ("PNG", "TIFF")}

quick = settings(max_examples=60)


@quick
@given(st.sampled_from(HEADS), st.binary(max_size=400))
@example(b"", b"")
def test_any_bytes_are_read_or_refused(head, data):
    """As a portrait, as a voice and as a video; nothing but our own errors comes out."""
    with tempfile.TemporaryDirectory() as folder:
        path, target = Path(folder, "given"), Path(folder, "ready")
        path.write_bytes(head + data)
        for look, error in (
            (lambda: prepare_portrait(path, target, LIMITS), InvalidInput),
            (lambda: probe_voice(path), InvalidInput),
            (lambda: probe_video(path), VideoRejected),
        ):
            try:
                look()
            except error as caught:
                assert "given" in caught.message  # noqa: PT017 - most are refused, some read


@quick
@given(st.sampled_from(MODES), st.integers(1, 70), st.integers(1, 70), st.integers(0, 2**32 - 1), st.data())
def test_any_picture_becomes_what_providers_take(mode, width, height, seed, data):
    """Upright, opaque, 8 bits, within the bounds; or it is refused for its shape, and only for that."""
    form = data.draw(
        st.sampled_from(
            FORMATS.get(mode, ("PNG", "TIFF", "GIF") if mode != "RGB" else ("PNG", "WEBP", "BMP"))
        )
    )
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 4), dtype=np.uint8)
    image = (
        Image.fromarray(pixels[..., :2].copy().view(np.uint16)[..., 0])
        if mode == "I;16"
        else Image.fromarray(pixels).convert("RGB" if mode == "P" else mode).convert(mode)
    )
    fits = min(width, height) >= 20 and max(width, height) <= 2.5 * min(width, height)
    with tempfile.TemporaryDirectory() as folder:
        path, target = Path(folder, "given"), Path(folder, "ready")
        image.save(path, form)
        if not fits:
            with pytest.raises(InvalidInput, match=f"is {width}×{height} px"):
                prepare_portrait(path, target, LIMITS)
            return
        facts = prepare_portrait(path, target, LIMITS)
        with Image.open(target) as ready:
            assert (ready.format, ready.size) == (facts.format, (width, height))
            assert ready.mode in (("RGB", "L") if facts.changed else ("RGB", "L", "1", "P"))
            assert not ready.has_transparency_data


@quick
@given(
    st.sampled_from([8000, 11025, 16000, 22050, 32000, 44100, 48000, 88200, 96000, 192_000]),
    st.integers(1, 8),
    st.integers(2000, 9000),
    st.floats(0.002, 1.0),
)
@example(96_000, 3, 8273, 0.7282293046767494)  # MP3s of a few frames, which FFmpeg does not recognise,
@example(88_200, 3, 2000, 0.65625)  # or takes for something else
def test_any_pcm_is_as_long_as_its_samples(rate, channels, samples, level):
    """To the sample, and what the provider gets to one MP3 frame."""
    seconds = samples / rate
    sound = (level * np.sin(np.arange(samples) / 9)).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        path, target = (
            write_wav(Path(folder, "given"), np.tile(sound, (channels, 1)), rate),
            Path(folder, "ready"),
        )
        facts = probe_voice(path)
        assert (facts.samples, facts.sample_rate, facts.channels) == (samples, rate, channels)
        if seconds < LIMITS.min_seconds:
            with pytest.raises(InvalidInput, match="shortest accepted"):
                check_voice(facts, LIMITS)
            return
        prepared = prepare_voice(path, target, facts, LIMITS)
        assert prepared.changed == (channels > 2)
        assert abs(probe_voice(target).seconds - seconds) <= MP3_FRAME_SECONDS


@quick
@given(
    st.integers(0, 2**16 - 1),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**16 - 1),
    st.integers(0, 2**16 - 1),
    st.integers(0, 2**32 - 1),
)
def test_any_claims_of_a_wav_are_read_or_refused(channels, rate, block, bits, size):
    """Its header may say what it likes."""
    form = struct.pack("<HHIIHH", 1, channels, rate, rate * block % 2**32, block, bits)
    data = b"".join(struct.pack("<h", round(9000 * np.sin(number / 9))) for number in range(2000))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "given")
        path.write_bytes(
            b"RIFF\xff\xff\xff\xffWAVEfmt \x10\0\0\0" + form + b"data" + struct.pack("<I", size) + data
        )
        try:
            facts = probe_voice(path)
        except InvalidInput as caught:
            assert "given" in caught.message  # noqa: PT017 - most are refused, some read
            return
        assert (facts.seconds > 0, facts.sample_rate >= 4000) == (True, True)

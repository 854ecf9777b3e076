"""Voices: bounds, what the provider is given, and the segments of a long one as files."""

import hashlib
import shutil
import wave
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Protocol

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from numpy.typing import NDArray

from avatar.errors import InvalidInput
from avatar.media.facts import VOICE_SPEC, Cut, PreparedVoice, SegmentFile, VoiceFacts
from avatar.media.file_ranges import FileRange, RangeReader
from avatar.media.mp3_files import read_mp3
from avatar.media.sound import Samples, as_float, open_sound, resampled
from avatar.media.sound_files import read_wav, split_files
from avatar.models import Limits

# Voices: bounds, and what the provider is given.

#: kbit/s that MPEG-1 layer III knows, best first.
BITRATES = (192, 160, 128, 112, 96, 80, 64, 56, 48, 40, 32)
#: Enough for one voice; more would be spent on noise.
MONO_BITRATE = 128
#: Headers, the last frame's padding.
MP3_OVERHEAD_BYTES = 8192
#: Sample formats of WAV that every reader of WAV knows.
PLAIN_PCM = ("pcm_u8", "pcm_s16le", "pcm_s24le", "pcm_s32le")
STEREO = 2


def prepare_voice(path: Path, target: Path, facts: VoiceFacts, limits: Limits) -> PreparedVoice:
    """As `avatar.media.decoder_calls.prepare_voice` says."""
    is_own = _is_plain(facts, limits) and path.stat().st_size <= limits.max_audio_bytes
    if is_own and facts.remedy != "encode":
        changed = bool(facts.remedy)
        (_copy_with_true_header if changed else shutil.copyfile)(path, target)
        return PreparedVoice(changed, "")
    encode_mp3(path, target, channels=min(facts.channels, STEREO), bitrate=fit_bitrate(facts, limits))
    if target.stat().st_size > limits.max_audio_bytes:
        raise InvalidInput(_too_large(facts, limits))
    return PreparedVoice(changed=True, spec="" if is_own and facts.container == "mp3" else VOICE_SPEC)


def _is_plain(facts: VoiceFacts, limits: Limits) -> bool:
    if facts.container not in limits.audio_containers or facts.channels > STEREO or not facts.is_intact:
        return False
    return facts.codec == "mp3" if facts.container == "mp3" else facts.codec in PLAIN_PCM


def _copy_with_true_header(path: Path, target: Path) -> None:
    """The same samples (WAV) or frames (MP3), behind what is right for them."""
    wav, mp3 = read_wav(path), read_mp3(path)
    piece = (
        wav.pieces[0] if wav else FileRange(mp3.first, mp3.last) if mp3 else FileRange(0, path.stat().st_size)
    )
    with RangeReader(path, piece) as source, target.open("wb") as file:
        shutil.copyfileobj(source, file)


def fit_bitrate(facts: VoiceFacts, limits: Limits) -> int:
    """The best constant bitrate (kbit/s) at which the voice stays under the byte limit."""
    room = limits.max_audio_bytes - MP3_OVERHEAD_BYTES
    ceiling = BITRATES[0] if facts.channels > 1 else MONO_BITRATE
    for bitrate in BITRATES:
        if bitrate <= ceiling and facts.seconds * bitrate * 1000 / 8 <= room:
            return bitrate
    raise InvalidInput(_too_large(facts, limits))


def _too_large(facts: VoiceFacts, limits: Limits) -> str:
    return (
        f"The voice ({facts.seconds:.1f} s) does not fit into {limits.max_audio_bytes:,} bytes, "
        f"even as MP3 at {BITRATES[-1]} kbit/s."
    )


def encode_mp3(path: Path, target: Path, *, channels: int, bitrate: int) -> None:
    """Transcode the sound of `path` to an MP3 of the same length.

    The encoder's delay and padding are written to the LAME header, which decoders take off again. Rates other
    than 44.1 and 48 kHz go to whichever of the two they divide, since some readers know only those.

    Args:
        path: anything with sound.
        target: where to write.
        channels: 1 or 2.
        bitrate: constant, in kbit/s.
    """
    with open_sound(path) as sound, av.open(str(target), "w", format="mp3") as output:
        rate, layout = mp3_rate(sound.stream.rate), "stereo" if channels == STEREO else "mono"
        stream = output.add_stream("libmp3lame", rate=rate, layout=layout, bit_rate=bitrate * 1000)
        for frame in resampled(sound, "s16p", layout, rate):
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))


def mp3_rate(rate: int) -> int:
    """The MP3 sample rate (Hz) for a source of `rate` Hz."""
    return 44100 if 44100 % rate == 0 or rate % 44100 == 0 else 48000


# The segments of a long voice as files for the provider, and the identity of their sound.
SAMPLE_BYTES, WAV_HEADER_BYTES = 2, 44
#: 1.7 times as fast as LAME's default search, which matters over hours.
LAME = {"compression_level": "7"}

Pcm = NDArray[np.int16]


class _Writer(Protocol):
    path: Path

    def write(self, block: Pcm) -> None: ...
    def close(self) -> None: ...


def cut_voice(
    path: Path, facts: VoiceFacts, cuts: Sequence[Cut], folder: Path, limits: Limits
) -> tuple[SegmentFile, ...]:
    """As `avatar.media.decoder_calls.cut_voice` says."""
    form = _Form(facts.sample_rate, min(facts.channels, STEREO))
    blocks, files = _Blocks(path, form), []
    for cut in cuts:
        with ExitStack() as stack:
            writer = _open_writer(
                folder / f"segment-{cut.index:04d}", form, cut.end - cut.start, facts, limits
            )
            stack.callback(writer.close)
            files.append(_write(blocks, writer, cut.end - cut.start))
    return tuple(files)


@dataclass(frozen=True)
class _Form:
    """The form in which a voice is cut: 16 bit, its own rate (Hz), one channel or two."""

    rate: int
    channels: int

    @property
    def layout(self) -> str:
        return "stereo" if self.channels == STEREO else "mono"

    def wav_bytes(self, samples: int) -> int:
        return WAV_HEADER_BYTES + samples * self.channels * SAMPLE_BYTES


def _open_writer(stem: Path, form: _Form, samples: int, facts: VoiceFacts, limits: Limits) -> _Writer:
    if "wav" in limits.audio_containers and form.wav_bytes(samples) <= limits.max_audio_bytes:
        return _WavWriter(stem.with_suffix(".wav"), form)
    piece = replace(facts, seconds=samples / form.rate, samples=samples, channels=form.channels)
    return _Mp3Writer(stem.with_suffix(".mp3"), form, fit_bitrate(piece, limits))


def _write(blocks: "_Blocks", writer: _Writer, samples: int) -> SegmentFile:
    form = blocks.form
    digest = hashlib.sha256(f"s16le {form.rate} {form.channels}\n".encode())
    for block in blocks.take(samples):
        digest.update(block.astype("<i2", copy=False).tobytes())
        writer.write(block)
    return SegmentFile(writer.path, samples, samples / form.rate, digest.hexdigest())


class _Blocks:
    """A voice decoded once, handed out in portions. Blocks are one row of interleaved samples."""

    def __init__(self, path: Path, form: _Form) -> None:
        self._path, self.form = path, form
        self._decoded = self._decode()
        self._rest: Pcm = np.zeros((1, 0), np.int16)

    def _decode(self) -> Iterator[Pcm]:
        with open_sound(self._path) as sound:
            for frame in resampled(sound, "s16", self.form.layout, self.form.rate):
                yield frame.to_ndarray().astype(np.int16, copy=False)

    def take(self, samples: int) -> Iterator[Pcm]:
        """The next `samples` samples, in blocks."""
        missing = samples * self.form.channels
        while missing:
            block = self._rest if self._rest.size else next(self._decoded, None)
            if block is None:
                raise InvalidInput(f"{self._path.name} is shorter than when it was measured: did it change?")
            yield block[:, :missing]
            self._rest = block[:, missing:]
            missing -= min(missing, block.shape[1])


class _WavWriter:
    def __init__(self, path: Path, form: _Form) -> None:
        self.path = path
        self._file = wave.open(str(path), "wb")  # noqa: SIM115 - closed by its user
        self._file.setnchannels(form.channels)
        self._file.setsampwidth(SAMPLE_BYTES)
        self._file.setframerate(form.rate)

    def write(self, block: Pcm) -> None:
        self._file.writeframesraw(block.astype("<i2", copy=False).tobytes())

    def close(self) -> None:
        self._file.close()


class _Mp3Writer:
    def __init__(self, path: Path, form: _Form, bitrate: int) -> None:
        self.path = path
        self._output = av.open(str(path), "w", format="mp3")
        rate = mp3_rate(form.rate)
        stream = self._output.add_stream(
            "libmp3lame", rate=rate, layout=form.layout, bit_rate=bitrate * 1000, options=dict(LAME)
        )
        if not isinstance(stream, AudioStream):
            raise TypeError("libmp3lame is not an audio codec")
        self._stream, self._form, self._samples = stream, form, 0
        self._resampler = av.AudioResampler(format="s16p", layout=form.layout, rate=rate)

    def write(self, block: Pcm) -> None:
        frame = AudioFrame.from_ndarray(np.ascontiguousarray(block), format="s16", layout=self._form.layout)
        frame.sample_rate = self._form.rate
        self._encode(frame)

    def _encode(self, frame: AudioFrame | None) -> None:
        for ready in self._resampler.resample(frame):
            # Encoders need the times: without them the delay they add is not written down.
            ready.pts, ready.time_base = self._samples, Fraction(1, self._stream.rate)
            self._samples += ready.samples
            self._output.mux(self._stream.encode(ready))

    def close(self) -> None:
        self._encode(None)
        self._output.mux(self._stream.encode(None))
        self._output.close()


def copy_voice(path: Path, target: Path, facts: VoiceFacts, span: tuple[int, int] | None = None) -> None:
    """As `avatar.media.decoder_calls.copy_voice` says."""
    channels = 1 if facts.mix else min(facts.channels, STEREO)
    layout = "stereo" if channels == STEREO else "mono"
    with av.open(str(target), "w", format="flac") as output:
        stream = output.add_stream("flac", rate=facts.sample_rate, layout=layout)
        if not isinstance(stream, AudioStream):
            raise TypeError("flac is not an audio codec")
        resampler = av.AudioResampler(format="s16", layout=layout, rate=facts.sample_rate)
        written = 0
        for block in _kept(_voice_blocks(path, facts, layout), span):
            frame = AudioFrame.from_ndarray(np.ascontiguousarray(block), format="fltp", layout=layout)
            frame.sample_rate = facts.sample_rate
            for ready in resampler.resample(frame):
                ready.pts, ready.time_base = written, Fraction(1, facts.sample_rate)
                written += ready.samples
                output.mux(stream.encode(ready))
        output.mux(stream.encode(None))


def _voice_blocks(path: Path, facts: VoiceFacts, layout: str) -> Iterator[Samples]:
    """The voice, channels x samples, through all pieces of its file."""
    track = None if facts.track < 0 else facts.track
    for piece in split_files(path, facts.container) if facts.pieces else (None,):
        with suppress(InvalidInput), open_sound(path, track=track, piece=piece) as sound:
            for frame in resampled(sound, "fltp", "stereo" if facts.mix else layout, facts.sample_rate):
                both = as_float(frame)
                yield both[("left", "right").index(facts.mix)][None, :] if facts.mix else both


def _kept(blocks: Iterator[Samples], span: tuple[int, int] | None) -> Iterator[Samples]:
    at = 0
    for block in blocks:
        first, last = (max(0, edge - at) for edge in span or (0, at + block.shape[1]))
        at += block.shape[1]
        if first < min(last, block.shape[1]):
            yield block[:, first:last]

"""Voices: bounds, what the provider is given, and the segments of a long one as files."""

import hashlib
import shutil
import wave
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
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
from avatar.media.confined import confined
from avatar.media.cuts import Cut
from avatar.media.facts import VoiceFacts, length_beside
from avatar.media.file_ranges import FileRange, RangeReader
from avatar.media.mp3_files import read_mp3
from avatar.media.sound import open_sound, resampled
from avatar.media.sound_files import read_wav
from avatar.models import Limits

# Voices: bounds, and what the provider is given.

#: Names this preparation in identities: raise it when the same source would be prepared to another sound.
VOICE_SPEC = "v1"

#: kbit/s that MPEG-1 layer III knows, best first.
BITRATES = (192, 160, 128, 112, 96, 80, 64, 56, 48, 40, 32)
#: Enough for one voice; more would be spent on noise.
MONO_BITRATE = 128
#: Headers, the last frame's padding.
MP3_OVERHEAD_BYTES = 8192
#: Sample formats of WAV that every reader of WAV knows.
PLAIN_PCM = ("pcm_u8", "pcm_s16le", "pcm_s24le", "pcm_s32le")
STEREO = 2


def check_voice(facts: VoiceFacts, limits: Limits) -> None:
    """Raise `InvalidInput` if the voice is shorter or longer than the bounds; names the length and the bound."""
    if facts.seconds < limits.min_seconds:
        raise InvalidInput(
            f"The voice is {length_beside(facts.seconds, limits.min_seconds)} s long; "
            f"the shortest accepted is {limits.min_seconds:g} s."
        )
    if facts.seconds > limits.max_seconds:
        raise InvalidInput(
            f"The voice is {length_beside(facts.seconds, limits.max_seconds)} s long; "
            f"the longest accepted is {limits.max_seconds:g} s."
        )


@dataclass(frozen=True)
class PreparedVoice:
    """How the file for the provider came about.

    Attributes:
        changed: False when the voice was passed on byte for byte.
        spec: the preparation that made another sound of it; none where it is the source's own, whatever it lies in.
    """

    changed: bool
    spec: str


@confined(InvalidInput)
def prepare_voice(path: Path, target: Path, facts: VoiceFacts, limits: Limits) -> PreparedVoice:
    """Write to `target` the voice as a provider takes it: an MP3, or WAV of plain PCM, whose header is true.

    A file that is so already, within the byte limit, is copied byte for byte; its samples or frames get another
    header where theirs is untrue. Anything else becomes an MP3 of the same length.

    Raises:
        InvalidInput: it does not fit into the byte limit even at 32 kbit/s.
    """
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
__all__ = ["SegmentFile", "cut_voice"]

SAMPLE_BYTES, WAV_HEADER_BYTES = 2, 44
#: 1.7 times as fast as LAME's default search, which matters over hours.
LAME = {"compression_level": "7"}

Pcm = NDArray[np.int16]


@dataclass(frozen=True)
class SegmentFile:
    """A segment ready for the provider.

    Attributes:
        path: WAV or MP3; the suffix tells.
        samples: in the decoded voice, at the voice's rate.
        seconds: `samples` over that rate.
        sha256: of the sound, see `cut_voice`.
    """

    path: Path
    samples: int
    seconds: float
    sha256: str


class _Writer(Protocol):
    path: Path

    def write(self, block: Pcm) -> None: ...
    def close(self) -> None: ...


@confined(InvalidInput)
def cut_voice(
    path: Path, facts: VoiceFacts, cuts: Sequence[Cut], folder: Path, limits: Limits
) -> tuple[SegmentFile, ...]:
    """Write each segment to a file of its own. One pass over the voice, in little memory.

    WAV where it fits into the byte limit: no encoder's delay that a reader might overlook, so the lips cannot be
    late. Else MP3 at the best bit rate that fits, the delay written down as in `encode_mp3`.

    The identity of a segment's sound is the SHA-256 of the line `s16le RATE CHANNELS` and its samples as 16-bit
    little-endian PCM at the voice's own rate, one channel or two interleaved: not of its encoding, and without
    resampling. Lossy voices may decode to samples that differ in the last bit on another processor or with
    another FFmpeg: keep the first cutting of such a voice and read it again, rather than cut twice.

    Args:
        path: the voice.
        facts: what `probe_voice` found.
        cuts: what `plan_cuts` chose.
        folder: where `segment-0000.wav` and so on are written.
        limits: of the provider; bytes and containers are minded here.

    Raises:
        InvalidInput: a segment does not fit into the byte limit, or the voice is shorter than its cuts.
    """
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

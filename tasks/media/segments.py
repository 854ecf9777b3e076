"""The segments of a long voice as files for the provider, and the identity of their sound."""

import hashlib
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

from tasks.errors import InvalidInput
from tasks.media.confined import confined
from tasks.media.cuts import Cut
from tasks.media.facts import VoiceFacts
from tasks.media.sound import open_sound, resampled
from tasks.media.voice import STEREO, fit_bitrate, mp3_rate
from tasks.providers.base import Limits

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

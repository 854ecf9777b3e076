"""Random voices: a container and codec, a rate, a layout, how it was glued together, what its header claims."""

import random
import struct
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from avatar.errors import InvalidInput
from avatar.media.probe import probe_voice
from avatar.media.voice import prepare_voice
from avatar.media.voice_alone import take_alone
from avatar.models import Limits
from tests.media import speech
from tests.media.recordings import encode

Sound = NDArray[np.float32]
#: Seconds and correlation by which what is sent may differ from what the pieces hold.
LENGTH, LIKENESS = 0.02, 0.99
#: Suffix, codec, and rates that it knows.
FORMS = {
    "wav 16": ("wav", "pcm_s16le", (8000, 16000, 22050, 24000, 44100, 48000)),
    "wav 24": ("wav", "pcm_s24le", (44100, 48000, 96000)),
    "wav float": ("wav", "pcm_f32le", (24000, 44100, 48000)),
    "wav a-law": ("wav", "pcm_alaw", (8000,)),
    "wav adpcm": ("wav", "adpcm_ima_wav", (22050, 44100)),
    "mp3": ("mp3", "libmp3lame", (16000, 22050, 24000, 44100, 48000)),
    "m4a": ("m4a", "aac", (22050, 44100, 48000)),
    "aac": ("aac", "aac", (44100, 48000)),
    "opus": ("ogg", "libopus", (48000,)),
    "webm": ("webm", "libopus", (48000,)),
    "flac": ("flac", "flac", (16000, 44100, 96000)),
    "mka": ("mka", "aac", (44100, 48000)),
    "aiff": ("aiff", "pcm_s16be", (22050, 44100)),
    "caf": ("caf", "pcm_s16le", (44100,)),
}
LAYOUTS = ("mono", "mono", "stereo", "upside down", "left only", "weaker and upside down")
WAV_LIES = ("", "", "ffffffff", "7fffffff", "zero", "2e9", "half", "byte rate")
MP3_LIES = ("", "zeros in front", "tag in front")


@dataclass(frozen=True)
class Case:
    """A voice to be made."""

    form: str
    rate: int
    layout: str
    pieces: int
    lie: str
    seed: int

    def __str__(self) -> str:
        return f"{self.form}, {self.rate} Hz, {self.layout}, {self.pieces} piece(s), {self.lie or 'true'}"


def draw(rng: random.Random) -> Case:
    form = rng.choice(sorted(FORMS))
    glued = form.startswith("wav") or form in ("mp3", "flac", "webm", "m4a", "mka", "aac")
    pieces = rng.choice((1, 1, 2, 3)) if glued else 1
    lies = WAV_LIES if form in ("wav 16", "wav 24", "wav float") else MP3_LIES if form == "mp3" else ("",)
    lie = rng.choice(lies)
    if pieces > 1 and lie in ("half", "byte rate", "7fffffff", "2e9"):
        lie = "ffffffff"
    return Case(form, rng.choice(FORMS[form][2]), rng.choice(LAYOUTS), pieces, lie, rng.randrange(2**32))


def carry_out(case: Case, folder: Path) -> str:
    """What is wrong with what is sent; nothing if it is right, `refused` and why if it is not taken."""
    suffix = FORMS[case.form][0]
    path, heard = folder / f"voice.{suffix}", []
    data = b""
    for number in range(case.pieces):
        piece = folder / f"piece-{number}.{suffix}"
        _write(case, number, piece)
        heard.append(_decoded(piece, case.layout, case.rate))
        data += _lied(piece.read_bytes(), case, number)
    path.write_bytes(data)
    # A stream of AAC has no beginnings of its own: whoever plays it, plays it through.
    wanted = _decoded(path, case.layout, case.rate) if case.form == "aac" else np.concatenate(heard)
    try:
        alone = take_alone(path, probe_voice(path), folder)
        prepare_voice(alone.path, folder / "ready", alone.facts, Limits())
    except InvalidInput as error:
        return f"refused: {error}"
    return _compare(_decoded(folder / "ready", "", case.rate), wanted, case.rate)


def _compare(sent: Sound, wanted: Sound, rate: int) -> str:
    seconds = (sent.size - wanted.size) / rate
    if abs(seconds) > LENGTH:
        return f"{seconds:+.3f} s of {wanted.size / rate:.3f}"
    size = min(sent.size, wanted.size)
    sent, wanted = sent[:size].astype(np.float64), wanted[:size].astype(np.float64)
    likeness = float(sent @ wanted / max(1e-9, np.sqrt((sent @ sent) * (wanted @ wanted))))
    return f"correlation {likeness:.4f}" if likeness < LIKENESS else ""


def _write(case: Case, number: int, path: Path) -> None:
    rng = np.random.default_rng(case.seed + number)
    voice = speech.speech([int(one) for one in rng.integers(0, 1000, 2)])[0]
    stretch = max(round(2.2 * speech.RATE), min(voice.size, 4 * speech.RATE))
    voice = np.resize(voice, stretch)
    times = np.arange(round(voice.size / speech.RATE * case.rate)) / case.rate
    one = np.interp(times, np.arange(voice.size) / speech.RATE, voice).astype(np.float32)[None, :]
    other = {
        "stereo": one * 0.8, "upside down": -one, "left only": one * 0, "weaker and upside down": -0.8 * one,
    }.get(case.layout)  # fmt: skip
    encode(path, one if other is None else np.concatenate([one, other]), FORMS[case.form][1], case.rate)


def _decoded(path: Path, layout: str, rate: int) -> Sound:
    """A file as FFmpeg decodes it, in mono: of what was made to cancel itself, the first channel."""
    blocks = []
    with av.open(str(path)) as container:
        resampler = av.AudioResampler(format="fltp", layout="stereo", rate=rate)
        for frame in container.decode(audio=0):
            frame.pts = None
            blocks += [ready.to_ndarray() for ready in resampler.resample(frame)]
        blocks += [ready.to_ndarray() for ready in resampler.resample(None)]
    both = np.concatenate(blocks, axis=1)
    return both[0] if "upside down" in layout else both.mean(axis=0)


def _lied(data: bytes, case: Case, number: int) -> bytes:
    if not case.form.startswith("wav"):
        return _mp3_lie(data, case.lie, number)
    at = data.index(b"data") + 4
    size = len(data) - at - 4
    told = {
        "ffffffff": 2**32 - 1,
        "7fffffff": 2**31 - 1,
        "zero": 0,
        "2e9": 2_000_000_000,
        "half": size // 2 & ~7,
    }
    if case.lie == "byte rate":
        return data[:28] + struct.pack("<I", 1) + data[32:]
    if case.lie not in told:
        return data
    claim = told[case.lie]
    whole = {"zero": at - 4, "half": at - 4 + claim}.get(case.lie, claim)
    return data[:4] + struct.pack("<I", whole) + data[8:at] + struct.pack("<I", claim) + data[at + 4 :]


def _mp3_lie(data: bytes, lie: str, number: int) -> bytes:
    if lie == "zeros in front" and number == 0:
        return bytes(3000) + data
    if lie == "tag in front":
        return b"ID3\x04\0\0\0\0\x02\0" + bytes(256) + data
    return data

"""Random voices: a container and codec, a rate, a layout, how it was glued together, what its header claims."""

import random
import struct
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import av
import numpy as np
from av.error import FFmpegError
from numpy.typing import NDArray

from avatar.errors import InvalidInput
from avatar.media.decoder_calls import prepare_voice, probe_voice
from avatar.media.extract_voice import extract_voice
from avatar.models import Limits
from tests.media import speech

Sound = NDArray[np.float32]
#: Seconds and correlation by which what is sent may differ from what the pieces hold.
LENGTH, LIKENESS = 0.02, 0.99
NONE: Mapping[str, str] = MappingProxyType({})


class Form(NamedTuple):
    """How a voice is written.

    Attributes:
        suffix: of its name.
        codec: FFmpeg's name of the encoder.
        rates: Hz that it knows.
        exact: whether it keeps the samples as they are.
        glued: whether such files are met glued together.
        container: FFmpeg's name of it, where the suffix does not tell.
        options: of the container.
        picture: encoder of the picture, of files that have one.
        tracks: whether it may hold several sounds.
    """

    suffix: str
    codec: str
    rates: tuple[int, ...]
    exact: bool = False
    glued: bool = False
    container: str | None = None
    options: Mapping[str, str] = NONE
    picture: str = ""
    tracks: bool = False


CD, FILM, ALL = (22050, 44100), (48000,), (16000, 22050, 24000, 44100, 48000)
FRAGMENTED = {"movflags": "frag_keyframe+empty_moov", "frag_duration": "500000"}
FORMS = {
    "wav 8": Form("wav", "pcm_u8", (11025, 22050), exact=True, glued=True),
    "wav 16": Form("wav", "pcm_s16le", (8000, *ALL), exact=True, glued=True),
    "wav 24": Form("wav", "pcm_s24le", (44100, 48000, 96000), exact=True, glued=True),
    "wav 32": Form("wav", "pcm_s32le", (48000,), exact=True, glued=True),
    "wav float": Form("wav", "pcm_f32le", (24000, 44100, 48000), exact=True, glued=True),
    "wav a-law": Form("wav", "pcm_alaw", (8000,), glued=True),
    "wav mu-law": Form("wav", "pcm_mulaw", (8000,), glued=True),
    "wav adpcm": Form("wav", "adpcm_ima_wav", CD, glued=True),
    "wav g722": Form("wav", "g722", (16000,)),
    "wav mp3": Form("wav", "libmp3lame", CD),
    "rf64": Form("wav", "pcm_s16le", CD, exact=True, options={"rf64": "always"}),
    "w64": Form("w64", "pcm_s16le", CD, exact=True),
    "aiff": Form("aiff", "pcm_s16be", CD, exact=True),
    "aiff-c": Form("aifc", "pcm_s16le", CD, exact=True, container="aiff"),
    "aiff-c ima": Form("aif", "adpcm_ima_qt", CD),
    "caf": Form("caf", "pcm_s16le", (44100,), exact=True),
    "caf alac": Form("caf", "alac", (44100,), exact=True),
    "au": Form("au", "pcm_mulaw", (8000,)),
    "voc": Form("voc", "pcm_s16le", CD, exact=True),
    "amr": Form("amr", "libopencore_amrnb", (8000,)),
    "3gp": Form("3gp", "libopencore_amrnb", (8000,)),
    "mp3": Form("mp3", "libmp3lame", ALL, glued=True),
    "mp3 bare": Form("mp3", "libmp3lame", ALL, glued=True, options={"write_xing": "0", "id3v2_version": "0"}),
    "mp2": Form("mp2", "mp2", (44100, 48000)),
    "m4a": Form("m4a", "aac", (22050, 44100, 48000), glued=True, tracks=True),
    "m4a no edit list": Form("m4a", "aac", (44100,), options={"use_editlist": "0"}),
    "m4a in fragments": Form("m4a", "aac", (44100, 48000), options=FRAGMENTED),
    "m4a alac": Form("m4a", "alac", (44100,), exact=True),
    "mp4 opus": Form("mp4", "libopus", FILM),
    "aac": Form("aac", "aac", (44100, 48000), glued=True),
    "latm": Form("loas", "aac", (44100, 48000), container="latm"),
    "ogg opus": Form("ogg", "libopus", FILM, glued=True),
    "ogg flac": Form("oga", "flac", (44100,), exact=True, container="ogg"),
    "webm": Form("webm", "libopus", FILM, glued=True),
    "webm live": Form("webm", "libopus", FILM, glued=True, options={"live": "1"}),
    "flac": Form("flac", "flac", (16000, 44100, 96000), exact=True, glued=True),
    "mka": Form("mka", "aac", (44100, 48000), glued=True, tracks=True),
    "ts": Form("ts", "aac", FILM),
    "ac3": Form("ac3", "ac3", FILM),
    "flv": Form("flv", "aac", (44100,)),
    "wavpack": Form("wv", "wavpack", CD, exact=True),
    "tta": Form("tta", "tta", CD, exact=True),
    "mp4 film": Form("mp4", "aac", (44100, 48000), picture="libx264", tracks=True),
    "mov film": Form("mov", "pcm_s16le", FILM, exact=True, picture="mpeg4", tracks=True),
    "mkv film": Form("mkv", "aac", FILM, picture="libx264", tracks=True),
    "mxf film": Form("mxf", "pcm_s16le", FILM, exact=True, picture="mpeg2video"),
    "avi film": Form("avi", "pcm_s16le", CD, exact=True, picture="mpeg4"),
    "mpg film": Form("mpg", "mp2", (44100, 48000), picture="mpeg1video"),
}  # fmt: skip
#: What is met behind sound of another kind.
GLUED = ("wav 16", "mp3", "m4a", "aac", "ogg opus", "webm", "flac", "mka")
LAYOUTS = ("mono", "mono", "stereo", "upside down", "left only", "weaker and upside down", "5.1")
#: Files that are met with more than two channels.
SURROUND = ("wav 16", "wav 24", "wav float", "w64", "flac", "m4a", "mp4 film", "mov film", "mkv film", "ac3")
MONO_ONLY = ("libopencore_amrnb", "g722")
WAV_LIES = (
    "",
    "",
    "ffffffff",
    "7fffffff",
    "zero",
    "2e9",
    "half",
    "byte rate",
    "words behind",
    "words in front",
)
MP3_LIES = ("", "zeros in front", "an answer in front", "tag in front", "tag behind")
#: Of what was written whole: no name, a name that says nothing, a wrong one.
NAMES = ("", "", "", "voice", "voice.bin", "voice.mp3")


@dataclass(frozen=True)
class Case:
    """A voice to be made.

    Attributes:
        mixed: whether the pieces differ in rate.
        silent_first: whether another sound, a silent one, stands before it.
        behind: the form of the last piece, where that is another.
    """

    form: str
    rate: int
    layout: str
    pieces: int
    mixed: bool
    silent_first: bool
    lie: str
    name: str
    seed: int
    behind: str = ""

    def __str__(self) -> str:
        ways = [
            f"{self.form}, {self.rate} Hz, {self.layout}, {self.pieces} piece(s)",
            "of several rates" if self.mixed else "",
            f"the last of them {self.behind}" if self.behind else "",
            "behind a silent track" if self.silent_first else "",
            self.lie or "true",
            f"called {self.name}" if self.name else "",
        ]
        return ", ".join(way for way in ways if way)


def draw(rng: random.Random) -> Case:
    name = rng.choice(sorted(FORMS))
    form = FORMS[name]
    pieces = rng.choice((1, 1, 2, 3)) if form.glued else 1
    bare = name in ("wav 8", "wav 16", "wav 24", "wav 32", "wav float")
    lie = rng.choice(WAV_LIES if bare else MP3_LIES if form.suffix == "mp3" else ("",))
    if pieces > 1 and lie in ("half", "byte rate", "7fffffff", "2e9"):
        lie = "ffffffff"
    layout = rng.choice(LAYOUTS)
    if layout == "5.1" and name not in SURROUND:
        layout = "stereo"
    behind = rng.choice(GLUED) if pieces > 1 and rng.random() < 1 / 3 else ""
    mixed = (
        pieces > 1
        and not behind
        and form.suffix in ("wav", "mp3")
        and len(form.rates) > 1
        and rng.random() < 1 / 3
    )
    return Case(
        name,
        rng.choice(form.rates),
        "mono" if form.codec in MONO_ONLY else layout,
        pieces,
        mixed,
        form.tracks and pieces == 1 and rng.random() < 1 / 3,
        lie,
        rng.choice(NAMES),
        rng.randrange(2**32),
        "" if FORMS[behind or name].suffix == form.suffix else behind,
    )


def carry_out(case: Case, folder: Path) -> str:
    """What is wrong with what is sent; nothing if it is right, `refused` and why if it is not taken."""
    path, heard, data = folder / (case.name or f"voice.{FORMS[case.form].suffix}"), [], b""
    for number in range(case.pieces):
        form = _form(case, number)
        piece = folder / f"piece-{number}.{form.suffix}"
        voice = _voice(case, number)
        _write(case, number, piece, voice)
        as_made = form.exact and not case.mixed and not case.behind
        heard.append(voice if as_made else _decoded(piece, case, form.container))
        data += (
            piece.read_bytes() if form is not FORMS[case.form] else _lied(piece.read_bytes(), case, number)
        )
    path.write_bytes(data)
    # A stream of AAC has no beginnings of its own: whoever plays it, plays it through.
    wanted = _decoded(path, case, "aac") if case.form == "aac" and not case.behind else np.concatenate(heard)
    try:
        alone = extract_voice(path, probe_voice(path), folder)
        prepare_voice(alone.path, folder / "ready", alone.facts, Limits())
    except InvalidInput as error:
        return f"refused: {error}"
    return _compare(_mono(folder / "ready", case.rate).mean(axis=0), wanted, case.rate)


def _compare(sent: Sound, wanted: Sound, rate: int) -> str:
    seconds = (sent.size - wanted.size) / rate
    if abs(seconds) > LENGTH:
        return f"{seconds:+.3f} s of {wanted.size / rate:.3f}"
    size = min(sent.size, wanted.size)
    sent, wanted = sent[:size].astype(np.float64), wanted[:size].astype(np.float64)
    likeness = float(sent @ wanted / max(1e-9, np.sqrt((sent @ sent) * (wanted @ wanted))))
    return f"correlation {likeness:.4f}" if likeness < LIKENESS else ""


def _form(case: Case, number: int) -> Form:
    return FORMS[case.behind if case.behind and number == case.pieces - 1 else case.form]


def _rate(case: Case, number: int) -> int:
    rates = FORMS[case.form].rates
    if (form := _form(case, number)) is not FORMS[case.form]:
        return case.rate if case.rate in form.rates else form.rates[-1]
    return rates[(rates.index(case.rate) + number) % len(rates)] if case.mixed else case.rate


def _voice(case: Case, number: int) -> Sound:
    rng = np.random.default_rng(case.seed + number)
    voice = speech.speech([int(one) for one in rng.integers(0, 1000, 2)])[0]
    voice = np.resize(voice, max(round(2.2 * speech.RATE), min(voice.size, 4 * speech.RATE)))
    times = np.arange(round(voice.size / speech.RATE * _rate(case, number))) / _rate(case, number)
    return np.interp(times, np.arange(voice.size) / speech.RATE, voice).astype(np.float32)


def _write(case: Case, number: int, path: Path, voice: Sound) -> None:
    form, rate = _form(case, number), _rate(case, number)
    channels = {
        "mono": [1], "stereo": [1, 0.8], "upside down": [1, -1], "left only": [1, 0],
        "weaker and upside down": [1, -0.8], "5.1": [0.2, 0.2, 0.6, 0, 0.1, 0.1],
    }[case.layout]  # fmt: skip
    sound = np.outer(np.array(channels, np.float32), voice)
    layout = {1: "mono", 2: "stereo", 6: "5.1"}[len(sound)]
    with av.open(str(path), "w", format=form.container, options=dict(form.options)) as output:
        picture = _picture(output, form.picture) if form.picture else None
        sounds = [sound * 0, sound] if case.silent_first else [sound]
        streams = [output.add_stream(form.codec, rate=rate, layout=layout) for _ in sounds]
        if picture is not None:
            _write_picture(output, picture, voice.size / rate + 1)
        for stream, samples in zip(streams, sounds, strict=True):
            _write_sound(output, stream, samples, rate, layout)


def _picture(output, codec: str):
    return output.add_stream(codec, rate=25, width=64, height=64, pix_fmt="yuv420p")


def _write_picture(output, stream, seconds: float) -> None:
    """Grey, and longer than the sound."""
    for number in range(round(seconds * 25)):
        frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 99, np.uint8), format="rgb24")
        frame.pts = number
        output.mux(stream.encode(frame))
    output.mux(stream.encode(None))


def _write_sound(output, stream, samples: Sound, rate: int, layout: str) -> None:
    resampler = av.AudioResampler(format=stream.codec_context.format, layout=layout, rate=rate)
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), format="fltp", layout=layout)
    frame.sample_rate, frame.pts = rate, 0
    for piece in (frame, None):
        for ready in resampler.resample(piece):
            output.mux(stream.encode(ready))
    output.mux(stream.encode(None))


def _decoded(path: Path, case: Case, container: str | None) -> Sound:
    """A file as FFmpeg decodes it, in mono: of what was made to cancel itself, the first channel."""
    # What is written as LATM is called LOAS where it is read.
    both = _mono(path, case.rate, {"latm": "loas"}.get(container or "", container), int(case.silent_first))
    return both[0] if "upside down" in case.layout else both.mean(axis=0)


def _mono(path: Path, rate: int, container: str | None = None, track: int = 0) -> Sound:
    blocks = []
    with av.open(str(path), format=container) as source:
        resampler = av.AudioResampler(format="fltp", layout="stereo", rate=rate)
        for packet in source.demux(audio=track):
            # What tells how to decode a stream may come after its first packets.
            with suppress(FFmpegError):
                for frame in packet.decode():
                    frame.pts = None
                    blocks += [ready.to_ndarray() for ready in resampler.resample(frame)]
        blocks += [ready.to_ndarray() for ready in resampler.resample(None)]
    return np.concatenate(blocks, axis=1)


def _lied(data: bytes, case: Case, number: int) -> bytes:
    if FORMS[case.form].suffix != "wav" or not case.lie:
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
    if case.lie == "words in front":
        return _riff(data[:12] + _chunk(b"bext", bytes(602)) + data[12:])
    if case.lie == "words behind":
        return _riff(data + bytes(size % 2) + _chunk(b"LIST", b"INFOISFT" + _chunk(b"", b"an editor\0")))
    claim = told[case.lie]
    whole = {"zero": at - 4, "half": at - 4 + claim}.get(case.lie, claim)
    return data[:4] + struct.pack("<I", whole) + data[8:at] + struct.pack("<I", claim) + data[at + 4 :]


def _chunk(name: bytes, body: bytes) -> bytes:
    return name + struct.pack("<I", len(body)) + body


def _riff(data: bytes) -> bytes:
    return data[:4] + struct.pack("<I", len(data) - 8) + data[8:]


def _mp3_lie(data: bytes, lie: str, number: int) -> bytes:
    if lie == "zeros in front" and number == 0:
        return bytes(3000) + data
    if lie == "an answer in front" and number == 0:
        return b"HTTP/1.1 200 OK\r\nContent-Type: audio/mpeg\r\n\r\n" + data
    if lie == "tag in front":
        return b"ID3\x04\0\0\0\0\x02\0" + bytes(256) + data
    return data + b"TAG" + b"a title".ljust(125, b"\0") if lie == "tag behind" else data

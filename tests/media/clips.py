"""Good and bad clips for the inspection. `python -m tests.media.clips FOLDER` writes them all, to be looked at."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from avatar.media.preview_scene import Scene, frame_levels
from tests.media.recordings import EXAMPLES, write_wav
from tests.media.speech import RATE, speech

FRAME_RATE = 25
SIDE = 256
Pixels = NDArray[np.uint8]
Sound = NDArray[np.float32]
Picture = Callable[[int], Pixels]


def voice() -> Sound:
    """A sentence of 4.3 s."""
    return speech([1])


def pausing_voice() -> Sound:
    """Two sentences with 4 s of silence between them."""
    return np.concatenate([speech([0]), np.zeros((1, 4 * RATE), np.float32), speech([5])], axis=1)


@cache
def scene(samples: bytes, seconds: float) -> Scene:
    frames = round(seconds * FRAME_RATE) + 50
    levels = frame_levels(np.frombuffer(samples, np.float32), RATE, FRAME_RATE, frames)
    return Scene(EXAMPLES / "portrait.png", levels, frame_rate=FRAME_RATE, max_side=SIDE)


def preview(sound: Sound) -> Picture:
    """What the preview draws: a gentle sway, a mouth, a meter."""
    return scene(sound.tobytes(), sound.shape[1] / RATE).frame


@cache
def portrait() -> Image.Image:
    return Image.open(EXAMPLES / "portrait.png").convert("RGB").resize((300, 300))


def drifting(number: int) -> Pixels:
    """The portrait and nothing else, moving by 1 % of its width a second."""
    left = number * 0.01 * SIDE / FRAME_RATE
    return np.asarray(
        portrait().resize((SIDE, SIDE), Image.Resampling.BILINEAR, box=(left, 10, left + SIDE, 10 + SIDE))
    )


def talking(number: int) -> Pixels:
    """The portrait, perfectly still but for a small mouth of a twentieth of its width."""
    pixels = np.array(portrait().resize((SIDE, SIDE)))
    opening = round(5 + 4 * np.sin(number * 1.1))
    pixels[100 : 100 + opening, 120:133] = (70, 20, 25)
    return pixels


def one_colour(colour: tuple[int, int, int]) -> Picture:
    return lambda _: np.full((SIDE, SIDE, 3), colour, np.uint8)


def held(picture: Picture, first: float, last: float = 1e9) -> Picture:
    """The picture, standing still between two moments (seconds)."""

    def at(number: int) -> Pixels:
        return picture(round(first * FRAME_RATE)) if first <= number / FRAME_RATE < last else picture(number)

    return at


def replaced(picture: Picture, other: Picture, first: float, last: float) -> Picture:
    return lambda number: (other if first <= number / FRAME_RATE < last else picture)(number)


def unchanged(samples: Sound) -> Sound:
    return samples


@dataclass(frozen=True)
class Clip:
    """How a clip is made, and what an inspection should say of it.

    Attributes:
        picture: from the voice to frames.
        sound: from the voice to what is heard; None for no sound at all.
        seconds: of picture beyond the voice.
        begins: when the file says that its sound begins, in seconds.
        caught_by: checks that must fail; none for a good clip, `rejected` for a file that does not decode.
        keep: share of the finished file that is kept.
    """

    caught_by: tuple[str, ...] = ()
    picture: Callable[[Sound], Picture] = preview
    sound: Callable[[Sound], Sound] | None = unchanged
    voice: Callable[[], Sound] = voice
    seconds: float = 0.04
    begins: float = 0.0
    size: tuple[int, int] = (SIDE, SIDE)
    crf: int = 28
    bits: int = 96_000
    keep: float = 1.0
    options: dict[str, str] = field(default_factory=dict)


def late(seconds: float) -> Callable[[Sound], Sound]:
    """The sound moved by so many seconds, its length unchanged."""
    steps = round(seconds * RATE)
    return lambda samples: np.roll(np.pad(samples, ((0, 0), (RATE, RATE))), steps)[:, RATE:-RATE]


def muted(first: float, last: float) -> Callable[[Sound], Sound]:
    def mute(samples: Sound) -> Sound:
        quiet = samples.copy()
        quiet[:, round(first * RATE) : round(last * RATE)] = 0
        return quiet

    return mute


def noisy(samples: Sound) -> Sound:
    """Half as loud, beside a fan."""
    hiss = 0.004 * np.random.default_rng(1).standard_normal(samples.shape)
    return (samples / 2 + hiss).astype(np.float32)


def other_voice(samples: Sound) -> Sound:
    """Another sentence, as long."""
    return np.resize(speech([8, 9]), samples.shape)


def other_end(samples: Sound) -> Sound:
    """The right voice, and from 10 s on another."""
    return np.concatenate([samples[:, : 10 * RATE], other_voice(samples[:, 10 * RATE :])], axis=1)


GOOD = {
    "preview": Clip(),
    "longer": Clip(picture=lambda sound: held(preview(sound), sound.shape[1] / RATE - 0.1), seconds=0.5),
    "drifting": Clip(picture=lambda _: drifting),
    "small-mouth": Clip(picture=lambda _: talking),
    "still-in-a-pause": Clip(picture=lambda sound: held(preview(sound), 2.0, 6.2), voice=pausing_voice),
    "poor-encoding": Clip(crf=40, bits=32_000),
    "noisy": Clip(sound=noisy),
    "late-40-ms": Clip(sound=late(0.04)),
    "turned-over": Clip(sound=lambda samples: -samples),
}  # fmt: skip

BAD = {
    "black": Clip(("blank picture", "still picture"), picture=lambda _: one_colour((0, 0, 0))),
    "white": Clip(("blank picture",), picture=lambda _: one_colour((250, 250, 250))),
    "green": Clip(("blank picture",), picture=lambda _: one_colour((0, 135, 0))),
    "black-for-a-moment": Clip(
        ("blank picture",), picture=lambda sound: replaced(preview(sound), one_colour((0, 0, 0)), 2.0, 2.5)
    ),
    "frozen": Clip(("still picture",), picture=lambda sound: held(preview(sound), 0)),
    "frozen-poorly": Clip(
        ("still picture",), picture=lambda sound: held(preview(sound), 0), crf=38, options={"g": "10"}
    ),
    "frozen-half": Clip(("still picture",), picture=lambda sound: held(preview(sound), 1.5)),
    "frozen-in-speech": Clip(
        ("still picture",), picture=lambda sound: held(preview(sound), 2.0, 8.5), voice=pausing_voice
    ),
    "short": Clip(("picture length", "sound length"), sound=lambda samples: samples[:, : 2 * RATE], seconds=-2.3),
    "short-picture": Clip(("picture length",), seconds=-0.4),
    "silent": Clip(("loudness", "speech heard", "same voice"), sound=np.zeros_like),
    "faint": Clip(("speech heard",), sound=lambda samples: samples * 0.01),
    "muted-for-a-moment": Clip(("speech heard",), sound=muted(1.0, 1.8)),
    "late": Clip(("lag",), sound=late(0.2)),
    "late-by-its-times": Clip(("lag",), begins=0.2),
    "early": Clip(("lag",), sound=late(-0.2)),
    "tiny": Clip(("sides",), size=(16, 16)),
    "truncated": Clip(("rejected",), keep=0.6),
    "no-sound": Clip(("sound", "sound length"), sound=None),
    "another-voice": Clip(("same voice",), sound=other_voice),
    "another-voice-later": Clip(
        ("same voice",), voice=lambda: speech([1, 2, 6]), sound=other_end, picture=lambda _: talking
    ),
}  # fmt: skip


def write_clip(clip: Clip, folder: Path) -> tuple[Path, Path, float]:
    """Make a clip; returns its file, its voice's file, and the voice's length in seconds."""
    samples = clip.voice()
    seconds = samples.shape[1] / RATE
    path, spoken = folder / "clip.mp4", write_wav(folder / "voice.wav", samples, RATE)
    with av.open(str(path), "w", options={"movflags": "+faststart"}) as output:
        add_tracks(output, clip, samples, round((seconds + clip.seconds) * FRAME_RATE))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * clip.keep)])
    return path, spoken, seconds


def add_tracks(output: Any, clip: Clip, samples: Sound, frames: int) -> None:
    video = output.add_stream("libx264", rate=FRAME_RATE)
    video.width, video.height = clip.size
    video.pix_fmt, video.options = "yuv420p", {"preset": "ultrafast", "crf": str(clip.crf), **clip.options}
    if clip.sound is not None:
        track = output.add_stream("aac", rate=44100, layout="mono", bit_rate=clip.bits)
        add_sound(output, track, clip.sound(samples), clip.begins)
    picture = clip.picture(samples)
    for number in range(frames):
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture(number)), format="rgb24")
        frame = frame.reformat(*clip.size, format="yuv420p")
        frame.pts = number
        output.mux(video.encode(frame))
    output.mux(video.encode(None))


def add_sound(output: Any, track: Any, samples: Sound, begins: float) -> None:
    frame = av.AudioFrame.from_ndarray(
        np.ascontiguousarray(samples, np.float32), format="fltp", layout="mono"
    )
    frame.sample_rate, frame.pts = RATE, round(begins * RATE)
    resampler = av.AudioResampler(format="fltp", layout="mono", rate=track.rate)
    for piece in (frame, None):
        for ready in resampler.resample(piece):
            output.mux(track.encode(ready))
    output.mux(track.encode(None))


if __name__ == "__main__":
    for name, made in (GOOD | BAD).items():
        place = Path(sys.argv[1]) / name
        place.mkdir(parents=True, exist_ok=True)
        print(write_clip(made, place)[0])

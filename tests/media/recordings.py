"""Sounds and videos made for a test, with lengths known to the sample."""

import wave
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

EXAMPLES = Path(__file__).parents[2] / "examples"


def tone(seconds: float, rate: int = 44100, channels: int = 1, level: float = 0.3) -> NDArray[np.float32]:
    """A 330 Hz tone that swells and fades like syllables, channels x samples."""
    times = np.arange(round(seconds * rate)) / rate
    sound = level * np.sin(2 * np.pi * 330 * times) * (0.55 + 0.45 * np.sin(2 * np.pi * 3 * times))
    return np.tile(sound.astype(np.float32), (channels, 1))


def write_wav(path: Path, samples: NDArray[np.float32], rate: int = 44100) -> Path:
    """16-bit PCM."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(len(samples))
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((samples.T * 32767).astype("<i2").tobytes())
    return path


def encode(
    path: Path, samples: NDArray[np.float32], codec: str, rate: int = 44100, container: str | None = None
) -> Path:
    """Any codec FFmpeg has; the container by the name, unless given."""
    layout = "mono" if len(samples) == 1 else "stereo"
    with av.open(str(path), "w", format=container) as output:
        stream = output.add_stream(codec, rate=rate, layout=layout)
        _write_sound(output, stream, samples, rate)
    return path


def _write_sound(output, stream, samples, rate):
    resampler = av.AudioResampler(format=stream.codec_context.format, layout=stream.layout, rate=stream.rate)
    frame = av.AudioFrame.from_ndarray(
        np.ascontiguousarray(samples), format="fltp", layout=stream.layout.name
    )
    frame.sample_rate, frame.pts = rate, 0
    for piece in (frame, None):
        for ready in resampler.resample(piece):
            output.mux(stream.encode(ready))
    output.mux(stream.encode(None))


def write_video(
    path: Path,
    *,
    seconds: float = 2.0,
    sound: float | None = 2.0,
    pictures=None,
    faststart: bool = True,
    tracks: int = 1,
) -> Path:
    """H.264 at 25 frames per second, 320x240, with `sound` seconds of AAC on each of `tracks` audio tracks.

    `pictures` gives the frame's pixels by its number; by default a moving gradient.
    """
    options = {"movflags": "+faststart"} if faststart else {}
    with av.open(str(path), "w", options=options) as output:
        video = output.add_stream("libx264", rate=25, width=320, height=240, pix_fmt="yuv420p")
        voices = [output.add_stream("aac", rate=44100, layout="mono") for _ in range(tracks if sound else 0)]
        for number in range(round(seconds * 25)):
            frame = av.VideoFrame.from_ndarray((pictures or gradient)(number), format="rgb24")
            frame.pts = number
            output.mux(video.encode(frame))
        output.mux(video.encode(None))
        for voice in voices:
            _write_sound(output, voice, tone(sound or 0), 44100)
    return path


def gradient(number: int) -> NDArray[np.uint8]:
    row = (np.arange(320) + 3 * number) % 256
    return np.broadcast_to(row[None, :, None], (240, 320, 3)).astype(np.uint8).copy()

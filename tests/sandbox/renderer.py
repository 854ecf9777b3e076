"""The sandbox's renderer: portrait and voice in, a real MP4 out. Shares no code with the product."""

import io
import uuid
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from av.container import OutputContainer
from numpy.typing import NDArray
from PIL import Image

RATE = 44_100
SWAY = 12  # pixels the picture moves to each side
CHUNK = 1024  # samples in one AAC frame

#: What a render can be made to look like; each is a fault an inspection must notice.
DEFECTS = ("", "black", "frozen", "silent", "no_audio", "no_video", "short", "long", "late_voice")


@dataclass(frozen=True)
class Look:
    """How a video is made: longest side in pixels, frames per second, seconds beyond the voice, a defect."""

    max_side: int
    frame_rate: int
    extra_seconds: float
    defect: str = ""


def decode(voice: bytes) -> NDArray[np.float32]:
    """The whole voice as mono samples at `RATE`."""
    resampler = av.AudioResampler(format="flt", layout="mono", rate=RATE)
    with av.open(io.BytesIO(voice), "r") as container:
        pieces = [
            piece.to_ndarray()[0]
            for frame in [*container.decode(audio=0), None]
            for piece in resampler.resample(frame)
        ]
    return np.concatenate(pieces).astype(np.float32)


def render(portrait: bytes, voice: bytes, target: Path, look: Look) -> float:
    """Write the video to `target` (complete or not at all); returns its length in seconds."""
    spoken = decode(voice)
    samples = spoil(spoken, look)
    frames = max(1, round((len(samples) / RATE + look.extra_seconds) * look.frame_rate))
    levels = [*loudness(spoken, look.frame_rate), *[0.0] * frames][:frames]
    # After a reset the same video may still be in the making for a job that was forgotten.
    partial = target.with_suffix(f".{uuid.uuid4().hex}.part")
    with av.open(str(partial), "w", format="mp4", options={"movflags": "faststart"}) as container:
        write(container, picture(portrait, look), samples, levels, look)
    partial.replace(target)
    return frames / look.frame_rate


def spoil(samples: NDArray[np.float32], look: Look) -> NDArray[np.float32]:
    """Apply the defects that concern length and sound."""
    if look.defect == "short":
        return samples[: len(samples) // 2]
    if look.defect == "long":
        return np.concatenate([samples, np.zeros(3 * RATE, np.float32)])
    if look.defect == "silent":
        return np.zeros_like(samples)
    if look.defect == "late_voice":
        return np.concatenate([np.zeros(RATE // 2, np.float32), samples])[: len(samples)]
    return samples


def picture(portrait: bytes, look: Look) -> NDArray[np.uint8]:
    """The portrait as RGB, with `SWAY` pixels to spare on each side and even sides after cropping them."""
    image = Image.open(io.BytesIO(portrait)).convert("RGB")
    scale = min(1.0, look.max_side / max(image.size))
    width, height = (max(16, int(side * scale) // 2 * 2) for side in image.size)
    pixels = np.asarray(image.resize((width + 2 * SWAY, height + 2 * SWAY)))
    return np.zeros_like(pixels) if look.defect == "black" else pixels


def write(
    container: OutputContainer,
    pixels: NDArray[np.uint8],
    samples: NDArray[np.float32],
    levels: list[float],
    look: Look,
) -> None:
    """Encode both tracks: first the voice, then a frame of the picture for each level."""
    video = container.add_stream("libx264", rate=look.frame_rate) if look.defect != "no_video" else None
    audio = container.add_stream("aac", rate=RATE, layout="mono") if look.defect != "no_audio" else None
    if video is not None:
        video.height, video.width = (side - 2 * SWAY for side in pixels.shape[:2])
        video.pix_fmt = "yuv420p"
        video.options = {"preset": "ultrafast", "crf": "30"}
    if audio is not None:
        for start in range(0, len(samples), CHUNK):
            container.mux(audio.encode(sound(samples, start)))
        container.mux(audio.encode(None))
    if video is not None:
        for index, level in enumerate(levels):
            container.mux(video.encode(still(pixels, index, level, look)))
        container.mux(video.encode(None))


def sound(samples: NDArray[np.float32], start: int) -> av.AudioFrame:
    frame = av.AudioFrame.from_ndarray(samples[None, start : start + CHUNK], format="fltp", layout="mono")
    frame.sample_rate, frame.pts = RATE, start
    return frame


def loudness(samples: NDArray[np.float32], frame_rate: int) -> list[float]:
    """The voice's level in each frame, 0 to 1: a bar in the picture shows how far picture and sound are apart."""
    edges = range(0, len(samples), RATE // frame_rate)
    pieces = (samples[start : start + RATE // frame_rate] for start in edges)
    return [min(1.0, 3 * float(np.sqrt(np.mean(np.square(piece))))) for piece in pieces]


def still(pixels: NDArray[np.uint8], index: int, level: float, look: Look) -> av.VideoFrame:
    """One frame: the portrait, a pixel further in its zigzag than the last, with a level bar at its foot."""
    moved = 0 if look.defect == "frozen" else index
    left, top = zigzag(moved), zigzag(moved // 3)
    height, width = (side - 2 * SWAY for side in pixels.shape[:2])
    view = np.ascontiguousarray(pixels[top : top + height, left : left + width])
    if look.defect not in {"black", "frozen"}:
        view[-8:, : round(level * width)] = (40, 220, 90)
    frame = av.VideoFrame.from_ndarray(view, format="rgb24")
    frame.pts = index
    return frame


def zigzag(step: int) -> int:
    """From 0 to twice `SWAY` and back, a pixel at a time: no two frames in a row are the same."""
    return abs(step % (4 * SWAY) - 2 * SWAY)

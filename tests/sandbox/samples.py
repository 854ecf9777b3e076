"""Inputs made on the spot: a portrait and a voice any provider takes, and ones none does."""

import functools
import http.server
import threading
import wave
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

SECONDS = 2.5  # length of voice.wav


class Files(http.server.ThreadingHTTPServer):
    request_queue_size = 256  # a batch fetches its inputs all at once


class QuietFiles(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Make the inputs in a folder and serve it; yields its base URL.

    `portrait.png` and `voice.wav` are good; `tiny.png`, `strip.png`, `moving.gif`, `page.png`, `brief.wav` and
    `voice.ogg` are refused.
    """
    make_inputs(folder)
    handler = functools.partial(QuietFiles, directory=str(folder))
    with Files(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def make_inputs(folder: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (20, 15, 3), dtype=np.uint8)
    for name, size in {"portrait.png": (480, 640), "tiny.png": (200, 200), "strip.png": (300, 900)}.items():
        Image.fromarray(noise).resize(size).save(folder / name)
    Image.fromarray(noise).resize((400, 400)).save(folder / "moving.gif")
    (folder / "page.png").write_text("<html>Not found</html>")
    write_voice(folder / "voice.wav", SECONDS)
    write_voice(folder / "brief.wav", 1.0)
    convert(folder / "voice.wav", folder / "voice.ogg", "libopus")


def write_voice(path: Path, seconds: float, rate: int = 22050) -> None:
    """A tone that is on and off four times a second, 16-bit mono."""
    moments = np.arange(int(seconds * rate)) / rate
    tone = np.sin(2 * np.pi * 220 * moments) * (np.sin(2 * np.pi * 2 * moments) > 0)
    with wave.open(str(path), "wb") as target:
        target.setnchannels(1)
        target.setsampwidth(2)
        target.setframerate(rate)
        target.writeframes((tone * 9000).astype("<i2").tobytes())


def convert(source: Path, target: Path, codec: str, rate: int = 48000) -> None:
    with av.open(str(source), "r") as voice, av.open(str(target), "w") as other:
        stream = other.add_stream(codec, rate=rate, layout="mono")
        assert isinstance(stream, av.AudioStream)
        for frame in voice.decode(audio=0):
            other.mux(stream.encode(frame))
        other.mux(stream.encode(None))

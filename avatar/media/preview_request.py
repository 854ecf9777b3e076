"""A preview request on disk, so that any process of this machine can follow it, and restart what died.

<state>/preview/<request_id>/
request.json portrait voice     written by submit; the request exists once request.json does
render.lock                     held by the renderer for life; a line per start
renderer.pid                    whom to stop, if the lock is held
progress.json                   how far it is
cancelled | failure.json | video.mp4    how it ended
<state>/preview/slots/<n>.lock      held by whoever renders: so many renders at a time, the rest wait

Locks are `flock`s: they die with their holder, whatever kills it.
"""

import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from avatar.media.decoder_limits import environment
from avatar.media.facts import Box

#: Starts after which a renderer that keeps dying is given up: the third death is not an accident.
MAX_STARTS = 3
LOG_TAIL = 400


@dataclass(frozen=True)
class PreviewRequest:
    """What to render. Lengths in pixels and frames per second; where the face is, as shares of the portrait's sides."""

    request_id: str
    render_id: str
    max_side: int
    frame_rate: int
    face: Box | None = None


@dataclass(frozen=True)
class Progress:
    """Share done, 0 to 1, and the seconds it will still take."""

    share: float
    remaining: float


class StartResult(StrEnum):
    RUNNING = "running"  #: a renderer is at it, started just now or before
    QUEUED = "queued"  #: every slot is taken
    HOPELESS = "hopeless"  #: it died too often


class PreviewFolder:
    """The files of one request."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.portrait = path / "portrait"
        self.voice = path / "voice"
        self.part = path / "video.part"
        self.video = path / "video.mp4"
        self._request = path / "request.json"
        self._lock = path / "render.lock"
        self._pid = path / "renderer.pid"
        self._progress = path / "progress.json"
        self._cancelled = path / "cancelled"
        self._failure = path / "failure.json"
        self._log = path / "render.log"

    def create(self, request: PreviewRequest) -> None:
        """Make the request real: its inputs are in the folder."""
        _write_json(self._request, asdict(request))

    def request(self) -> PreviewRequest:
        return PreviewRequest(**json.loads(self._request.read_text()))

    def exists(self) -> bool:
        return self._request.is_file()

    def is_cancelled(self) -> bool:
        return self._cancelled.exists()

    def failure(self) -> str | None:
        found = _read_json(self._failure)
        return str(found["message"]) if found else None

    def write_failure(self, message: str) -> None:
        _write_json(self._failure, {"message": message})

    def progress(self) -> Progress | None:
        found = _read_json(self._progress)
        return Progress(**found) if found else None

    def write_progress(self, progress: Progress) -> None:
        _write_json(self._progress, asdict(progress))

    def is_rendering(self) -> bool:
        held = try_lock(self._lock)
        if held is None:
            return True
        os.close(held)
        return False

    def start(self, slots: int) -> StartResult:
        """See to it that a renderer is at work, if one of `slots` is free. Any process may call it any time."""
        lock = try_lock(self._lock)
        if lock is None:
            return StartResult.RUNNING
        try:
            return self._start_locked(lock, slots)
        finally:
            os.close(lock)

    def _start_locked(self, lock: int, slots: int) -> StartResult:
        if self.video.exists() or self.is_cancelled():
            return StartResult.RUNNING
        if len(self._lock.read_text().splitlines()) >= MAX_STARTS:
            self.write_failure(f"the renderer died {MAX_STARTS} times; its last words: {self._last_words()}")
            return StartResult.HOPELESS
        slot = _free_slot(self.path.parent / "slots", slots)
        if slot is None:
            return StartResult.QUEUED
        try:
            self._pid.unlink(missing_ok=True)  # the number of a dead renderer may be anybody's by now
            os.write(lock, b"started\n")
            self._pid.write_text(str(self._spawn(lock, slot)))
        finally:
            os.close(slot)
        return StartResult.RUNNING

    def _spawn(self, *held: int) -> int:
        """Start the renderer, which inherits the locks, and reap it when it ends."""
        with self._log.open("wb") as log:
            process = subprocess.Popen(  # noqa: S603 - our own module
                [sys.executable, "-m", "avatar.media.preview_render", str(self.path)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment(),
                pass_fds=held,
                start_new_session=True,  # Ctrl-C stops the flow, which finds the render done when it resumes
            )
        threading.Thread(target=process.wait, name="preview-renderer", daemon=True).start()
        return process.pid

    def _last_words(self) -> str:
        try:
            return self._log.read_text(errors="replace")[-LOG_TAIL:].strip() or "none"
        except OSError:
            return "none"

    def cancel(self) -> bool:
        """Stop the render. True if one was at work; it also stops by itself when it sees the mark."""
        self._cancelled.touch()
        if not self.is_rendering():
            return False
        with contextlib.suppress(OSError, ValueError):
            os.kill(int(self._pid.read_text()), signal.SIGTERM)
        return True

    def discard_inputs(self) -> None:
        self.portrait.unlink(missing_ok=True)
        self.voice.unlink(missing_ok=True)

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)


def try_lock(path: Path) -> int | None:
    """An open descriptor that holds the file's lock until it and its heirs are closed; None if it is held."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def _free_slot(folder: Path, slots: int) -> int | None:
    folder.mkdir(exist_ok=True)
    held = (try_lock(folder / f"{number}.lock") for number in range(slots))
    return next((slot for slot in held if slot is not None), None)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    part = path.with_suffix(f".{os.getpid()}.part")
    part.write_text(json.dumps(content))
    part.replace(path)


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        return dict(json.loads(path.read_text()))
    except FileNotFoundError:
        return None

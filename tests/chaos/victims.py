"""Victims: `avatar` processes that are started, watched and killed."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
#: No run in this suite may take longer, in seconds.
PATIENCE = 240.0


@dataclass(frozen=True)
class Shown:
    """What a run left for whoever started it. `code` is None if it was killed."""

    code: int | None
    stdout: str
    stderr: str

    @property
    def answer(self) -> dict[str, Any]:
        """The JSON object on stdout; empty if there is none."""
        with suppress(ValueError, IndexError):
            found = json.loads(self.stdout.strip().splitlines()[-1])
            return found if isinstance(found, dict) else {}
        return {}

    @property
    def error(self) -> dict[str, str]:
        found = self.answer.get("error", {})
        return found if isinstance(found, dict) else {}

    @property
    def published(self) -> bool:
        return self.code == 0 and self.answer.get("state") == "published"

    @property
    def text(self) -> str:
        return self.stdout + self.stderr


class Victim:
    """One running `avatar`."""

    def __init__(self, pid: int, folder: Path) -> None:
        self.pid, self.folder = pid, folder
        self.killed = False

    def kill(self) -> None:
        """SIGKILL, unless it has ended."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
            self.killed = not (self.folder / "exit").exists()

    def send(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def runs(self) -> bool:
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        return True

    def wait(self, seconds: float = PATIENCE) -> Shown:
        """Its end, which is brought about after `seconds`."""
        deadline = time.monotonic() + seconds
        while self.runs():
            if time.monotonic() > deadline:
                self.kill()
                deadline += 10
            time.sleep(0.01)
        return self.shown()

    def shown(self) -> Shown:
        code = self.folder / "exit"
        texts = [(self.folder / name).read_text(errors="replace") for name in ("stdout", "stderr")]
        return Shown(int(code.read_text()) if code.exists() else None, *texts)


class Zygote:
    """The process that forks victims. May be used from several threads."""

    def __init__(self, environment: Mapping[str, str], folder: Path) -> None:
        self.folder = folder
        self._log = (folder / "zygote.log").open("wb")
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.zygote"],
            cwd=folder,  # no `.env` of anybody's
            env={**environment, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True,
        )  # fmt: skip
        if self._answer() != "ready":
            raise RuntimeError((folder / "zygote.log").read_text()[-2000:])

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def start(self, argv: Sequence[str], environment: Mapping[str, str], **disguise: Any) -> Victim:
        """Fork `avatar ARGV`; `disguise`: skew in seconds, host, mutate."""
        folder = Path(tempfile.mkdtemp(prefix="run-", dir=self.folder))
        for name in ("stdin", "stdout", "stderr"):
            (folder / name).touch()
        order = {"argv": list(argv), "env": dict(environment), "folder": str(folder), **disguise}
        with self._lock:
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
            return Victim(int(self._answer()), folder)

    def stop(self) -> None:
        self._process.communicate()
        self._log.close()

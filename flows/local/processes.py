"""Detached processes: started apart from our terminal, recognised later by pid and birth, stopped in bounds."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from tasks.storage import processes

#: Linux; elsewhere (macOS) `ps` is asked.
_PROC = Path("/proc")


class Process(BaseModel):
    """A process that can be told from a later one with the same pid."""

    model_config = ConfigDict(frozen=True)

    pid: int
    born: str


def spawn(command: Sequence[str], environment: Mapping[str, str], log: Path) -> Process:
    """Start `command` detached, with its output in `log`; the log of the run before is kept beside it."""
    with suppress(FileNotFoundError):
        log.replace(log.with_suffix(".previous.log"))
    return identify(processes.launch(command, environment, log))


def identify(pid: int) -> Process:
    """The running process `pid`, with the birth by which it is known again."""
    return Process(pid=pid, born=_birth(pid))


def alive(process: Process) -> bool:
    """Whether this very process still runs (a zombie does not, nor does a stranger with its pid)."""
    with suppress(ChildProcessError):
        os.waitpid(process.pid, os.WNOHANG)
    return bool(process.born) and _birth(process.pid) == process.born


def stop(process: Process, *, grace: float) -> None:
    """End `process`: SIGTERM, up to `grace` seconds, then SIGKILL for what is left. Does nothing to a stranger."""
    if not alive(process):
        return
    terminate(process)
    if not ended(process, grace):
        kill(process)


def terminate(process: Process) -> None:
    """Ask `process` to end. Only ever once: Prefect takes a second SIGTERM as an order to kill."""
    if alive(process):
        _signal(process.pid, signal.SIGTERM)


def kill(process: Process) -> None:
    """End `process` without asking."""
    if alive(process):
        _signal(process.pid, signal.SIGKILL)
        ended(process, 5)


def ended(process: Process, seconds: float) -> bool:
    """Wait up to `seconds` for the end of `process`."""
    deadline = time.monotonic() + seconds
    while alive(process):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def children(process: Process) -> tuple[Process, ...]:
    """The direct children of `process`, whatever session they are in."""
    return tuple(identify(pid) for pid, parent in _parents().items() if parent == process.pid)


def tail(log: Path, lines: int = 12) -> str:
    """The last lines of a log, for an error's text."""
    with suppress(OSError):
        return "\n".join(log.read_text(errors="replace").rstrip().splitlines()[-lines:])
    return ""


def python(*arguments: str) -> list[str]:
    """A command in this interpreter that never imports from the current directory (-P)."""
    return [sys.executable, "-P", *arguments]


def _birth(pid: int) -> str:
    """When the kernel says `pid` was started; empty if there is no such process or it is a zombie."""
    if not _PROC.is_dir():
        state, _, started = _ps("-o", "stat=,lstart=", "-p", str(pid)).strip().partition(" ")
        return "" if state.startswith("Z") else started.strip()
    fields = _stat(pid)
    return "" if not fields or fields[0] in "ZX" else fields[19]


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the command's name, which may itself hold spaces and brackets."""
    with suppress(OSError):
        return _PROC.joinpath(str(pid), "stat").read_text().rpartition(")")[2].split()
    return []


def _parents() -> dict[int, int]:
    """The parent of every process on this machine."""
    if not _PROC.is_dir():
        lines = _ps("-A", "-o", "pid=,ppid=").splitlines()
        return {int(pid): int(parent) for pid, parent in map(str.split, lines)}
    pids = (int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit())
    return {pid: int(fields[1]) for pid in pids if (fields := _stat(pid))}


def _ps(*arguments: str) -> str:
    done = subprocess.run(["/bin/ps", *arguments], capture_output=True, text=True, check=False)  # noqa: S603 (fixed arguments)
    return done.stdout


def _signal(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)

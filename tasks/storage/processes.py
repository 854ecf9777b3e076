"""Processes that outlive their starter: start them, recognise them, end them and nothing else."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path


def launch(command: Sequence[str], environment: Mapping[str, str], log: Path) -> int:
    """Start a program in a session of its own, its output into a new file `log`; its pid.

    Ctrl-C in this terminal does not reach it. It takes SIGINT even if this process ignores that, as the
    background jobs of a shell do. Not `subprocess`: its objects complain about a child left running.
    """
    truncate = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    pid = os.posix_spawn(
        command[0],
        [*command],
        environment,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log), truncate, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
        setsigdef=[signal.SIGINT],
    )
    # The system returns an instant before the new program's arguments can be seen.
    wait_until(lambda: bool(command_line(pid)), 1.0)
    return pid


def is_running(pid: int, marks: Sequence[str]) -> bool:
    """Whether `pid` is alive and has all `marks` among its arguments."""
    with suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
    arguments = command_line(pid)
    return all(mark in arguments for mark in marks)


def end(pid: int, marks: Sequence[str], wait_seconds: float) -> None:
    """SIGTERM, and SIGKILL after `wait_seconds`; nothing if the process is another one or gone."""
    for number, patience in ((signal.SIGTERM, wait_seconds), (signal.SIGKILL, 5.0)):
        if not is_running(pid, marks):
            return
        with suppress(ProcessLookupError):
            os.kill(pid, number)
        wait_until(lambda: not is_running(pid, marks), patience)


def wait_until(condition: Callable[[], bool], seconds: float) -> None:
    """Return when the condition holds, or `seconds` have passed."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)


def command_line(pid: int) -> list[str]:
    """The arguments of a process; empty if it is gone."""
    if Path("/proc/self").exists():
        try:
            return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
        except OSError:
            return []
    # macOS has no /proc.
    shown = subprocess.run(  # noqa: S603 - a fixed program and a number
        ["/bin/ps", "-ww", "-p", str(pid), "-o", "command="], capture_output=True, text=True, check=False
    )
    return shown.stdout.split()

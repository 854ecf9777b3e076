"""Programs of this machine: started apart from our terminal, recognised later by pid and birth, stopped in bounds."""

import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, Never

from pydantic import BaseModel, ConfigDict

from avatar.errors import AvatarError

#: Linux; elsewhere (macOS) `ps` is asked.
_PROC = Path("/proc")


class Process(BaseModel):
    """A process that can be told from a later one with the same pid."""

    model_config = ConfigDict(frozen=True)

    pid: int
    born: str


def spawn(command: Sequence[str], environment: Mapping[str, str], log: Path) -> Process:
    """Start a program in a session of its own, with its output in `log`; the log of the run before is kept beside it.

    Ctrl-C in this terminal does not reach it. It takes SIGINT even if this process ignores that, as the
    background jobs of a shell do. Not `subprocess`: its objects complain about a child left running.
    """
    with suppress(FileNotFoundError):
        log.replace(log.with_suffix(".previous.log"))
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
    return identify(pid)


def python(*arguments: str) -> list[str]:
    """A command in this interpreter that never imports from the current directory (-P)."""
    return [sys.executable, "-P", *arguments]


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
    terminate(process)
    if not wait_for_end(process, grace):
        kill(process)


def terminate(process: Process) -> None:
    """Ask `process` to end. Only ever once: Prefect takes a second SIGTERM as an order to kill."""
    _signal(process, signal.SIGTERM)


def kill(process: Process) -> None:
    """End `process` without asking."""
    _signal(process, signal.SIGKILL)
    wait_for_end(process, 5)


def wait_for_end(process: Process, seconds: float) -> bool:
    """Wait up to `seconds` for the end of `process`."""
    deadline = time.monotonic() + seconds
    while alive(process):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def _signal(process: Process, number: signal.Signals) -> None:
    if alive(process):
        with suppress(ProcessLookupError):
            os.kill(process.pid, number)


def children(process: Process) -> tuple[Process, ...]:
    """The direct children of `process`, whatever session they are in."""
    return tuple(identify(pid) for pid, parent in _parents().items() if parent == process.pid)


def command_line(pid: int) -> list[str]:
    """The arguments of a process; empty if it is gone."""
    if not _PROC.is_dir():
        return _ps("-ww", "-p", str(pid), "-o", "command=").split()
    with suppress(OSError):
        return _PROC.joinpath(str(pid), "cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
    return []


def tail(log: Path, lines: int = 12) -> str:
    """The last lines of a log, for an error's text."""
    with suppress(OSError):
        return "\n".join(
            line[:400] for line in log.read_text(errors="replace").rstrip().splitlines()[-lines:]
        )
    return ""


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


# Free ports of this machine for the Prefect server, the gallery and the bridge.
#: Below those of the embedded store, and far below those that the system hands to outgoing connections: a server
#: needs seconds until it listens, and would find one of them on its port.
LOWEST, HIGHEST = 10_000, 18_000
TRIES = 200


def is_free(port: int) -> bool:
    """Whether a server can listen on the port of this machine now."""
    with closing(socket.socket()) as probe:
        # Connections of an earlier run that are still winding down do not keep a server from listening.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def free_port(preferred: int) -> int:
    """`preferred` if nothing listens there on 127.0.0.1, else any free port, as for 0. Raises `AvatarError`."""
    if preferred and is_free(preferred):
        return preferred
    for _ in range(TRIES):
        port = LOWEST + secrets.randbelow(HIGHEST - LOWEST)
        if is_free(port):
            return port
    raise AvatarError(
        f"No free port between {LOWEST} and {HIGHEST} on 127.0.0.1 was found. Nothing was spent.",
        hint="point PREFECT_API_URL at a running Prefect server",
    )


@contextmanager
def interrupted_by_sigterm() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the block as Ctrl-C does, unless somebody else has taken them."""
    free = [
        number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) is signal.SIG_DFL
    ]
    with _handled(free, _interrupt):
        yield


@contextmanager
def ignoring_signals() -> Iterator[None]:
    """Ignore the signals that ask to end: the block is what they ask for, and bounded in time."""
    with _handled((signal.SIGINT, signal.SIGTERM, signal.SIGHUP), signal.SIG_IGN):
        yield


@contextmanager
def _handled(numbers: Any, handler: Any) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers, and only it gets signals
        return
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


def _interrupt(_: int, __: FrameType | None) -> Never:
    raise KeyboardInterrupt

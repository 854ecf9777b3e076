"""Start a flow run in a fork of a process that has imported Prefect and the flows; without one, import them here.

The job variable `command` of deployments names this file: `python -I -S flows/launch.py`. It is all that a worker sees
of a run: it hands over its environment, directory and output, passes on signals, and ends as the run ends. It imports
the standard library only, and nothing of ours: that is what makes it fast.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import signal
import socket
import stat
import struct
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("avatar", "flows", "tasks")
#: Before an order, its length; after it, a byte once the run was begun, and the status that `wait` tells of it.
LENGTH, BEGUN, STATUS = struct.Struct("!I"), b"+", struct.Struct("!i")
#: How a run without a server is started.
ENGINE = (sys.executable, "-m", "prefect.engine")


def main() -> NoReturn:
    path = socket_path()
    if path is not None:
        try:
            server = hand_over(path)
        except OSError:
            start_server(path)
        else:
            exit_as(wait_for_run(server))
    os.execv(ENGINE[0], ENGINE)  # noqa: S606 - the worker's own command


def socket_path() -> Path | None:
    """Where the server listens that has this worker's settings and this code; None where there can be none."""
    folder = Path(tempfile.gettempdir()) / f"avatar-runs-{os.getuid()}"
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    private = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077
    if sys.platform != "linux" or not private:
        return None
    settings = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("PREFECT__") and name.startswith(("PREFECT_", "AVATAR_"))
    }
    files = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    code = [(str(path), path.stat().st_mtime_ns) for path in files]
    known = json.dumps([sorted(settings.items()), code, sys.executable, os.getppid()])
    return folder / hashlib.sha256(known.encode()).hexdigest()[:32]


def hand_over(path: Path) -> socket.socket:
    """Have the server begin the run. Raises `OSError` if it did not, for certain: a fork dies with its server."""
    server = socket.socket(socket.AF_UNIX)
    server.connect(str(path))
    order = json.dumps({"environment": dict(os.environ), "directory": str(Path.cwd())}).encode()
    socket.send_fds(server, [LENGTH.pack(len(order))], [0, 1, 2])
    server.sendall(order)
    if server.recv(1) != BEGUN:
        raise ConnectionResetError("the server ends")
    return server


def start_server(path: Path) -> None:
    """Start one for the runs to come, unless another run does so now. It outlives this run, not its worker."""
    lock = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT__")}
    # Not the run's directory, which the worker puts there: other packages of these names may lie in it.
    kept["PYTHONPATH"] = str(ROOT)
    subprocess.Popen(  # noqa: S603 - our own module
        (sys.executable, "-P", "-m", "flows.fork_server", str(path), str(os.getppid())),
        env=kept, cwd="/", stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True, pass_fds=(lock,),
    )  # fmt: skip
    os.close(lock)


def wait_for_run(server: socket.socket) -> int | None:
    """Pass signals on to the run, and return its wait status; None if its server is gone, and it with it."""

    def pass_on(number: int, _: object) -> None:
        with contextlib.suppress(OSError):
            server.send(bytes((number,)))

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, pass_on)
    try:
        answer = server.recv(STATUS.size, socket.MSG_WAITALL)
    except OSError:
        return None
    return STATUS.unpack(answer)[0] if len(answer) == STATUS.size else None


def exit_as(status: int | None) -> NoReturn:
    """End with the exit code of the run, or by the signal that ended it."""
    if status is not None and os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if number != signal.SIGKILL:
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    sys.exit(1 if status is None else os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main()

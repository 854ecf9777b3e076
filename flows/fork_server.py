"""Forks a process for each flow run that `flows.launch` hands over; Prefect and the flows are imported once, here.

What decodes for the runs is forked as well, from a process that knows none of their secrets.

    python -m flows.fork_server SOCKET WORKER

It ends with the worker whose pid it is given, after its last run, or when nothing was asked of it for a while.
"""

import contextlib
import ctypes
import gc
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

from avatar.media.decoder_pool import fork_children
from flows.launch import BEGUN, LENGTH, STATUS

#: What a run imports. Nothing of it may start a thread: a fork has only the one it is made in.
MODULES = (
    "prefect.engine", "prefect.flow_engine", "prefect.task_engine", "prefect.runner.storage",
    "prefect.deployments.steps", "prefect.events.clients", "prefect.concurrency.asyncio",
    "flows.generate", "flows.batch", "flows.inbox", "flows.upkeep", "avatar.local.services",
    "avatar.money.budget", "avatar.money.journal", "avatar.providers.fal", "avatar.providers.pixazo",
    "avatar.providers.preview",
    # What they import only when they run.
    "prefect.utilities.visualization", "anyio._backends._asyncio",
)  # fmt: skip
#: Seconds without a run after which it ends: what it holds in memory is for those that come soon.
IDLE_SECONDS = 600.0
#: `prctl`: the signal that a process gets when its parent ends.
PR_SET_PDEATHSIG = 1


@dataclass
class ForkedRun:
    """A fork, and the launcher that waits for it."""

    pid: int
    pidfd: int
    launcher: socket.socket


@dataclass
class RunRequest:
    """What a fork needs to become the run."""

    environment: dict[str, str]
    directory: str
    descriptors: list[int]


def serve(path: Path, worker: int) -> RunRequest | None:
    """Fork until there is no more to do. Returns twice or more: in each fork its order, in the server None."""
    listening = socket.socket(socket.AF_UNIX)
    path.unlink(missing_ok=True)  # left by one that was killed; the lock says that none runs
    listening.bind(str(path))
    listening.listen(64)
    with selectors.DefaultSelector() as selector:
        selector.register(listening, selectors.EVENT_READ)
        with contextlib.suppress(ProcessLookupError):
            selector.register(os.pidfd_open(worker), selectors.EVENT_READ, "worker")
        while True:
            runs = [key for key in selector.get_map().values() if isinstance(key.data, ForkedRun)]
            events = selector.select(None if runs else IDLE_SECONDS)
            gone = any(key.data == "worker" for key, _ in events)
            if not runs and (gone or not events):
                path.unlink(missing_ok=True)
                path.with_suffix(".lock").unlink(missing_ok=True)
                return None
            for key, _ in events:
                if key.fileobj is listening:
                    if order := _begin(listening, selector):
                        return order
                elif key.data == "worker":
                    selector.unregister(key.fileobj)
                elif isinstance(key.data, ForkedRun):
                    _move_on(key, selector)


def _begin(listening: socket.socket, selector: selectors.BaseSelector) -> RunRequest | None:
    """Fork for the next launcher. Returns the order in the fork."""
    launcher, _ = listening.accept()
    launcher.settimeout(10)
    order = _received(launcher)
    if order is None:
        launcher.close()
        return None
    server = os.getpid()
    pid = os.fork()
    if pid == 0:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != server:
            os._exit(1)
        launcher.close()
        for key in tuple(selector.get_map().values()):
            # A socket that still had its number would close whatever has it by then.
            os.close(key.fileobj.detach() if isinstance(key.fileobj, socket.socket) else key.fd)
        return order
    for descriptor in order.descriptors:
        os.close(descriptor)
    run = ForkedRun(pid, os.pidfd_open(pid), launcher)
    with contextlib.suppress(OSError):
        launcher.sendall(BEGUN)
    selector.register(run.pidfd, selectors.EVENT_READ, run)
    selector.register(launcher, selectors.EVENT_READ, run)
    return None


def _received(launcher: socket.socket) -> RunRequest | None:
    descriptors: list[int] = []
    try:
        head, descriptors, _, _ = socket.recv_fds(launcher, LENGTH.size, 3)
        body = launcher.recv(LENGTH.unpack(head)[0], socket.MSG_WAITALL)
        return RunRequest(**json.loads(body), descriptors=descriptors)
    except (OSError, ValueError, TypeError):
        for descriptor in descriptors:
            os.close(descriptor)
        return None


def _move_on(key: selectors.SelectorKey, selector: selectors.BaseSelector) -> None:
    """A run has ended, its launcher passes a signal on, or the launcher was killed and the run goes with it."""
    run: ForkedRun = key.data
    if key.fileobj == run.pidfd:
        _, status = os.waitpid(run.pid, 0)
        with contextlib.suppress(OSError):
            run.launcher.sendall(STATUS.pack(status))
        selector.unregister(run.pidfd)
        with contextlib.suppress(KeyError):
            selector.unregister(run.launcher)
        os.close(run.pidfd)
        run.launcher.close()
        return
    try:
        numbers = run.launcher.recv(64)
    except OSError:
        numbers = b""
    for number in numbers or (signal.SIGKILL,):
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(run.pidfd, number)
    if not numbers:
        selector.unregister(run.launcher)


def run_in_fork(order: RunRequest) -> None:
    """The run: its environment, directory and output, then Prefect's engine as `python -m prefect.engine` has it."""
    for target, descriptor in enumerate(order.descriptors):
        os.dup2(descriptor, target)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(order.environment)
    os.chdir(order.directory)
    sys.argv = ["prefect.engine"]
    runpy.run_module("prefect.engine", run_name="__main__", alter_sys=True)


def main() -> None:
    path, worker = sys.argv[1:]
    fork_children()
    for module in MODULES:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()  # so that forks share it
    if order := serve(Path(path), int(worker)):
        run_in_fork(order)


if __name__ == "__main__":
    main()

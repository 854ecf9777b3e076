"""The worker of this machine: it takes flow runs from the work pool and gives each a process of its own."""

import hashlib
import json
import os
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from uuid import uuid4

import httpx

from flows.local.prefect_api import online_workers
from flows.local.processes import Process, alive, children, ended, kill, python, spawn, tail, terminate
from flows.local.record import StateDirectory, WorkerEntry
from tasks.errors import AvatarError

POOL = "avatar"
START_SECONDS = 60.0
#: A flow that is told to stop says so to the API and the store first.
STOP_SECONDS = 20.0
#: How long the worker itself may take after that.
WORKER_SECONDS = 10.0
#: Flow runs at a time. Each is a Python process of some 100 MB that mostly waits for a provider.
LIMIT = 8

_TUNING = {
    # Seconds between looks for new runs; Prefect's 10 are felt by whoever pressed "Run".
    "PREFECT_WORKER_QUERY_SECONDS": "2",
    # The API calls a worker offline after three missed heartbeats: 30 s instead of 90.
    "PREFECT_WORKER_HEARTBEAT_SECONDS": "10",
}


def ensure_worker(
    state: StateDirectory, variables: Mapping[str, str], api_url: str, wanted: Callable[[], bool]
) -> WorkerEntry:
    """The worker, started unless one runs with these very settings.

    It creates the work pool if need be. A worker left behind by a crash is kept, with the runs in it,
    unless the settings have changed since.

    Raises:
        AvatarError: it did not come online; the text holds the last lines of its log.
    """
    known = state.read().worker
    if known and known.runs and known.fingerprint == fingerprint(variables):
        return known
    if known:
        stop_worker(known)
    entry = start_worker(state, variables)
    if not _online(entry, api_url, wanted):
        stop_worker(entry)
        state.change(worker=None)
        log = state.log("worker")
        raise AvatarError(
            f"The worker did not start. Nothing was spent. The end of its log, {log}:\n{tail(log)}",
            hint=f"see whether the work pool {POOL!r} is of type `process` and not paused",
        )
    return entry


def start_worker(state: StateDirectory, variables: Mapping[str, str]) -> WorkerEntry:
    """Start the worker, without waiting for it."""
    name = f"{socket.gethostname()}-{uuid4().hex[:8]}"
    options = ["--pool", POOL, "--type", "process", "--name", name, "--limit", str(LIMIT)]
    process = spawn(
        python("-m", "prefect", "--no-prompt", "worker", "start", *options),
        {**_TUNING, **os.environ, **variables},
        state.log("worker"),
    )
    entry = WorkerEntry(process=process, name=name, fingerprint=fingerprint(variables))
    state.change(worker=entry)
    return entry


def stop_worker(entry: WorkerEntry) -> None:
    """Stop the flow runs in the worker, then the worker.

    By itself it would wait for them as long as a provider takes, or, told in the same moment as they, end them
    before they have reported their state: they would count as running for ever. Each has a session of its own,
    so they are told one by one. The journal lets them go on later where they were.
    """
    deadline = time.monotonic() + STOP_SECONDS
    while (runs := children(entry.process)) and time.monotonic() < deadline:
        _end(runs, deadline)
    left = children(entry.process)
    _end((entry.process, *left), time.monotonic() + WORKER_SECONDS)


def _end(processes: tuple[Process, ...], deadline: float) -> None:
    """SIGTERM to all of them, once; SIGKILL to those that are left at `deadline`."""
    for process in processes:
        terminate(process)
    for process in processes:
        if not ended(process, deadline - time.monotonic()):
            kill(process)


def fingerprint(variables: Mapping[str, str]) -> str:
    """Tells whether two workers' flows would see the same settings, without revealing them."""
    return hashlib.sha256(json.dumps(sorted(variables.items())).encode()).hexdigest()


def _online(entry: WorkerEntry, api_url: str, wanted: Callable[[], bool]) -> bool:
    """Wait until the API lists the worker, or it has died, or is no longer wanted."""
    deadline = time.monotonic() + START_SECONDS
    while alive(entry.process) and wanted() and time.monotonic() < deadline:
        with suppress(httpx.HTTPError):
            if entry.name in online_workers(api_url, POOL):
                return True
        time.sleep(0.2)
    return False

"""The workers of this machine: they take flow runs from the work pool and give each a process of its own."""

import hashlib
import json
import os
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from uuid import uuid4

import httpx

from avatar.errors import AvatarError
from avatar.local.prefect_api import online_workers
from avatar.local.processes import Process, alive, children, ended, kill, python, spawn, tail, terminate
from avatar.local.record import StateDirectory, WorkerEntry

POOL = "avatar"
START_SECONDS = 60.0
#: A flow that is told to stop says so to the API and the store first.
STOP_SECONDS = 20.0
#: How long a worker itself may take after that.
WORKER_SECONDS = 10.0


@dataclass(frozen=True)
class Duty:
    """What a worker is there for.

    Attributes:
        name: its name in the record.
        limit: flow runs at a time. Each is a Python process of some 100 MB that mostly waits.
        look_seconds: between looks for new runs.
        queue: the only work queue it takes runs from; without one, all of the pool.
    """

    name: str
    limit: int
    look_seconds: int
    queue: str = ""

    @property
    def options(self) -> list[str]:
        """Of `prefect worker start`."""
        queue = ["--work-queue", self.queue] if self.queue else []
        return ["--pool", POOL, "--type", "process", "--limit", str(self.limit), *queue]

    def variables(self) -> dict[str, str]:
        """Defaults that a user's own environment may override."""
        return {
            "PREFECT_WORKER_QUERY_SECONDS": str(self.look_seconds),
            # The API calls a worker offline after three missed heartbeats: 30 s instead of 90.
            "PREFECT_WORKER_HEARTBEAT_SECONDS": "10",
        }


#: Prefect's 10 seconds between looks are felt by whoever pressed "Run".
ALL = Duty("worker", limit=8, look_seconds=2)
#: What mends runs must not wait behind those that are to be mended. The other worker takes these too.
UPKEEP = Duty("upkeep", limit=2, look_seconds=5, queue="upkeep")
DUTIES = (ALL, UPKEEP)


def ensure_workers(
    state: StateDirectory, variables: Mapping[str, str], api_url: str, wanted: Callable[[], bool]
) -> None:
    """A worker for every duty, started unless one runs with these very settings. `wanted` turning false ends the wait.

    They create the work pool if need be. A worker left behind by a crash is kept, with the runs in it,
    unless the settings have changed since.

    Raises:
        AvatarError: one did not come online; the text holds the last lines of its log.
    """
    known = known_workers(state)
    kept = {
        duty for duty, entry in known.items() if entry.runs and entry.fingerprint == fingerprint(variables)
    }
    stop_workers(*(entry for duty, entry in known.items() if duty not in kept))
    started = {duty: start_worker(state, duty, variables) for duty in DUTIES if duty not in kept}
    for duty, entry in started.items():
        if not _online(entry, api_url, wanted):
            stop_workers(entry)
            state.change(**{duty.name: None})
            log = state.log(duty.name)
            raise AvatarError(
                f"The worker {entry.name} did not start. Nothing was spent. The end of its log, {log}:\n{tail(log)}",
                hint=f"see whether the work pool {POOL!r} is of type `process` and not paused",
            )


def known_workers(state: StateDirectory) -> dict[Duty, WorkerEntry]:
    """Those that were started and not yet stopped."""
    record = state.read()
    return {duty: entry for duty in DUTIES if (entry := getattr(record, duty.name))}


def start_worker(state: StateDirectory, duty: Duty, variables: Mapping[str, str]) -> WorkerEntry:
    """Start a worker, without waiting for it."""
    name = f"{socket.gethostname()}-{duty.name}-{uuid4().hex[:8]}"
    process = spawn(
        python("-m", "prefect", "--no-prompt", "worker", "start", "--name", name, *duty.options),
        {**duty.variables(), **os.environ, **variables},
        state.log(duty.name),
    )
    entry = WorkerEntry(process=process, name=name, fingerprint=fingerprint(variables))
    state.change(**{duty.name: entry})
    return entry


def stop_workers(*entries: WorkerEntry) -> None:
    """Stop the flow runs in these workers, then the workers.

    By themselves they would wait for them as long as a provider takes, or, told in the same moment as they, end them
    before they have reported their state: they would count as running for ever. Each has a session of its own,
    so they are told one by one. The journal lets them go on later where they were.
    """
    workers = tuple(entry.process for entry in entries)
    deadline = time.monotonic() + STOP_SECONDS
    while (runs := _runs_of(workers)) and time.monotonic() < deadline:
        _end(runs, deadline)
    _end((*workers, *_runs_of(workers)), time.monotonic() + WORKER_SECONDS)


def _runs_of(workers: tuple[Process, ...]) -> tuple[Process, ...]:
    return tuple(run for worker in workers for run in children(worker))


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

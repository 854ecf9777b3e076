"""The Prefect server, the workers, the gallery and the bridge of this machine: what each is, and how it is started."""

import hashlib
import json
import os
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import httpx

from avatar.errors import AvatarError
from avatar.local import prefect_client
from avatar.local.processes import (
    Process,
    children,
    free_port,
    kill,
    python,
    spawn,
    stop,
    tail,
    terminate,
    wait_for_end,
)
from avatar.local.state_directory import TITLES, StartedProgram, StateDirectory
from avatar.settings_sections import BridgeSettings, GallerySettings

POOL = "avatar"
#: Prefect's usual port; the UI's bookmarks point at it.
USUAL_PORT = 4200

#: Defaults for the server that a user's own environment may override. Names and values were tried on Prefect 3.9.1.
TUNING = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    # By default one task run is recorded per commit: some 40 a second, and what queues up beyond 10,000 is lost.
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "100",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": "100",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_BATCH_SIZE": "200",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_READ_BATCH_SIZE": "100",
    "PREFECT_SERVER_SERVICES_TRIGGERS_READ_BATCH_SIZE": "100",
    # Runs of schedules are made ahead, by default for an hour: after a pause of one, a hundred would start at once.
    "PREFECT_SERVER_SERVICES_SCHEDULER_MIN_SCHEDULED_TIME": "PT3M",
    # In memory, leases die with the server while the slots they hold stay taken for ever.
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
    # By default flow runs, their logs and artifacts are kept for ever.
    "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": '["events","flow_runs"]',
    "PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD": "90d",
}

#: Defaults for a worker. Prefect's 10 seconds between looks are felt by whoever pressed "Run"; and the API calls a
#: worker offline after three missed heartbeats: 30 s instead of 90.
_WORKER = {"PREFECT_WORKER_HEARTBEAT_SECONDS": "10"}
_LIMITS = {
    "worker": ("8", "1"),
    "upkeep": ("2", "5"),
}  # runs at a time, of 100 MB each; seconds between looks
UPKEEP_QUEUE = "upkeep"


@dataclass(frozen=True)
class Program:
    """A program that is to run on this machine.

    Attributes:
        field: of the record; also the name of its log.
        command: what runs it on a port; on none, if `port` is None.
        environment: on a port.
        answers: whether the one that was started does its work yet. May raise `httpx.HTTPError`: not yet.
        hint: what to do if it does not start.
        port: where it listens unless it did elsewhere before; 0 for any free one.
        port_is_set: whether a person chose the port, which then holds before a remembered one.
        port_taken: what its log says when somebody else listens there.
        fingerprint: of the settings that it must run with; empty if any will do.
        start_seconds: how long it may take to start.
        stop_seconds: how long to stop.
    """

    field: str
    command: Callable[[int], list[str]]
    environment: Callable[[int], Mapping[str, str]]
    answers: Callable[[StartedProgram], bool]
    hint: str
    name: str = ""
    host: str = "127.0.0.1"
    port: int | None = None
    port_is_set: bool = False
    port_taken: str = "already in use"
    fingerprint: str = ""
    start_seconds: float = 120.0
    stop_seconds: float = 15.0


def ensure_program(state: StateDirectory, program: Program, wanted: Callable[[], bool]) -> StartedProgram:
    """The program, started unless it runs with these settings. `wanted` turning false ends the wait.

    One that was left behind by a crash is kept; one that died keeps its port, for others link to it. The caller
    holds the start lock.

    Raises:
        AvatarError: it did not start; the text holds the last lines of its log.
    """
    known: StartedProgram | None = getattr(state.read(), program.field)
    if known and known.fingerprint == program.fingerprint and _does_its_work(known, program, wanted):
        return known
    if known:
        stop_program(known)
    log, remembered = (
        state.log(_log_name(program)),
        known.port if known else state.read().ports.get(program.field),
    )
    for preferred in (program.port if program.port_is_set else remembered or program.port, 0, 0):
        entry = _start(state, program, log, 0 if program.port is None else free_port(preferred or 0))
        if _does_its_work(entry, program, wanted):
            return entry
        stop_program(entry, program.stop_seconds)
        state.change(**{program.field: None})
        # Somebody was faster to the port; a long traceback may follow those words.
        if program.port is None or program.port_taken not in tail(log, 200):
            break
    raise AvatarError(
        f"{TITLES[program.field]} did not start. Nothing was spent. The end of its log, {log}:\n{tail(log)}",
        hint=program.hint,
    )


def _log_name(program: Program) -> str:
    return "prefect-server" if program.field == "api" else program.field


def _start(state: StateDirectory, program: Program, log: Path, port: int) -> StartedProgram:
    process = spawn(program.command(port), program.environment(port), log)
    place = {"host": program.host, "port": port, "name": program.name}
    entry = StartedProgram(process=process, fingerprint=program.fingerprint, **place)
    state.change(**{program.field: entry})
    return entry


def _does_its_work(entry: StartedProgram, program: Program, wanted: Callable[[], bool]) -> bool:
    """Wait until it does, or has died, or is no longer wanted."""
    deadline = time.monotonic() + program.start_seconds
    while entry.runs and wanted() and time.monotonic() < deadline:
        with suppress(httpx.HTTPError):
            if program.answers(entry):
                return True
        time.sleep(0.1)
    return False


def stop_program(entry: StartedProgram, seconds: float = 15.0) -> None:
    """End it, and the flow runs in it if it is a worker."""
    if entry.name:
        stop_workers(entry)
    else:
        stop(entry.process, grace=seconds)


def fingerprint(variables: Mapping[str, str]) -> str:
    """Tells whether two processes would see the same settings, without revealing them."""
    return hashlib.sha256(json.dumps(sorted(variables.items())).encode()).hexdigest()


# The Prefect server: SQLite under the state directory, on 127.0.0.1 only, nothing reported anywhere.
def server_program(state: StateDirectory, port: int = USUAL_PORT) -> Program:
    """The local Prefect server. Its first start creates the database: over a minute on slow machines."""
    return Program(
        "api",
        command=lambda port: python("-m", "flows.api_server", str(port)),
        environment=lambda port: server_environment(state.prefect_home, port, os.environ),
        answers=lambda entry: prefect_client.healthy(entry.api_url) and _is_ours(entry, state),
        hint="point PREFECT_API_URL at a running Prefect server, or read the log",
        port=port,
    )


def server_environment(home: Path, port: int, outer: Mapping[str, str]) -> dict[str, str]:
    """The environment of the server: `outer`, our defaults below it, and what must hold above it."""
    return {
        **TUNING,
        **outer,
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        # Relative, so that the UI also works as `localhost` and through a forwarded port.
        "PREFECT_SERVER_UI_API_URL": "/api",
    }


def _is_ours(entry: StartedProgram, state: StateDirectory) -> bool:
    """Whether the server that answers keeps its data where ours does: another may have been faster to the port."""
    try:
        found = prefect_client.read(entry.api_url, "/admin/settings")
    except httpx.HTTPStatusError as error:
        # It asks for credentials that only the user has.
        return error.response.status_code in {httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN}
    return found is not None and Path(found["home"]) == state.prefect_home


# The workers: they take flow runs from the work pool and give each a process of its own.
#: A flow that is told to stop says so to the API and the store first.
STOP_SECONDS = 20.0
#: How long a worker itself may take after that.
WORKER_SECONDS = 10.0


def worker_program(field: str, variables: Mapping[str, str], api_url: str) -> Program:
    """A worker for all of the pool, or for the queue `upkeep` alone; it creates the pool if need be.

    What mends runs must not wait behind those that are to be mended.
    """
    name = f"{socket.gethostname()}-{field}-{uuid4().hex[:8]}"
    limit, look_seconds = _LIMITS[field]
    queue = ["--work-queue", UPKEEP_QUEUE] if field == "upkeep" else []
    start = ["worker", "start", "--name", name, "--pool", POOL, "--type", "process", "--limit", limit, *queue]
    own = {**_WORKER, "PREFECT_WORKER_QUERY_SECONDS": look_seconds}
    return Program(
        field,
        command=lambda _: python("-m", "prefect", "--no-prompt", *start),
        environment=lambda _: {**own, **os.environ, **variables},
        answers=lambda entry: entry.name in prefect_client.online_workers(api_url, POOL),
        hint=f"see whether the work pool {POOL!r} is of type `process` and not paused",
        name=name,
        fingerprint=fingerprint(variables),
    )


def stop_workers(*entries: StartedProgram) -> None:
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
        if not wait_for_end(process, deadline - time.monotonic()):
            kill(process)


# The gallery and the bridge: commands of our own.
def site_program(
    state: StateDirectory,
    field: str,
    section: GallerySettings | BridgeSettings,
    variables: Mapping[str, str],
) -> Program:
    """The gallery or the bridge: `field` is the verb of `avatar` that runs it.

    What answers at its address may be another program, which was faster to the port: that it listens, it says itself.
    """
    start = ("-m", "avatar", field, "--host", section.host, "--port")
    log = state.log(field)

    def answers(entry: StartedProgram) -> bool:
        return entry.url in tail(log, 100) and httpx.get(f"{entry.url}health", timeout=3).is_success

    return Program(
        field,
        command=lambda port: python(*start, str(port)),
        environment=lambda _: {**os.environ, **variables},
        answers=answers,
        hint=f"see AVATAR_{field.upper()}__HOST and AVATAR_{field.upper()}__PORT",
        host=section.host,
        port=section.port,
        port_is_set="port" in section.model_fields_set and section.port > 0,
        port_taken="cannot listen",
        fingerprint=fingerprint(variables),
        # It gives requests under way two seconds.
        stop_seconds=8.0,
    )

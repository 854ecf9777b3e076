"""The local Prefect server: SQLite under the state directory, on 127.0.0.1 only, nothing reported anywhere."""

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import httpx

from avatar.errors import AvatarError
from avatar.local import prefect_api
from avatar.local.processes import alive, free_port, python, spawn, stop, tail
from avatar.local.record import ApiEntry, StateDirectory

#: Prefect's usual port; the UI's bookmarks point at it.
USUAL_PORT = 4200
#: The first start creates the database, which takes over a minute on slow machines.
START_SECONDS = 120.0
STOP_SECONDS = 15.0

#: Defaults that a user's own environment may override. Names and values were tried on Prefect 3.9.1.
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


def ensure_server(state: StateDirectory, wanted: Callable[[], bool]) -> ApiEntry:
    """The local server, started unless it runs. `wanted` turning false ends the wait.

    Raises:
        AvatarError: it did not start; the text holds the last lines of its log.
    """
    known = state.read().api
    if known and known.runs:
        if _answers(known, state, wanted):
            return known
        stop(known.process, grace=STOP_SECONDS)
    return start_server(state, known.port if known else USUAL_PORT, wanted)


def start_server(state: StateDirectory, port: int, wanted: Callable[[], bool]) -> ApiEntry:
    """Start the server on `port`, or on any free one if that is taken, also when somebody is faster to it."""
    log = state.log("prefect-server")
    for preferred in (port, 0, 0):
        entry = _spawn(state, free_port(preferred))
        if _answers(entry, state, wanted):
            return entry
        stop(entry.process, grace=STOP_SECONDS)
        state.change(api=None)
        if "already in use" not in tail(log, 200):  # a long traceback follows it
            break
    raise AvatarError(
        f"The local Prefect server did not start. Nothing was spent. The end of its log, {log}:\n{tail(log)}",
        hint="point PREFECT_API_URL at a running Prefect server, or read the log",
    )


def _spawn(state: StateDirectory, port: int) -> ApiEntry:
    command = python(
        "-m", "prefect", "--no-prompt", "server", "start", "--host", "127.0.0.1", "--port", str(port)
    )
    process = spawn(
        command, server_environment(state.prefect_home, port, os.environ), state.log("prefect-server")
    )
    entry = ApiEntry(process=process, port=port)
    state.change(api=entry)
    return entry


def _answers(entry: ApiEntry, state: StateDirectory, wanted: Callable[[], bool]) -> bool:
    """Wait until the server answers as ours, or has died, or is no longer wanted."""
    deadline = time.monotonic() + START_SECONDS
    while alive(entry.process) and wanted() and time.monotonic() < deadline:
        if prefect_api.healthy(entry.api_url) and _is_ours(entry, state):
            return True
        time.sleep(0.1)
    return False


def _is_ours(entry: ApiEntry, state: StateDirectory) -> bool:
    """Whether the server that answers keeps its data where ours does: another may have been faster to the port."""
    try:
        found = prefect_api.read(entry.api_url, "/admin/settings")
    except httpx.HTTPStatusError:
        return True  # it asks for credentials that only the user has
    except httpx.HTTPError:
        return False
    return found is not None and Path(found["home"]) == state.prefect_home

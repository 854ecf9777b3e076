"""The gallery of this machine, as a process of its own beside the server and the worker."""

import os
import time
from collections.abc import Callable, Mapping

import httpx

from flows.local.processes import alive, python, spawn, stop, tail
from flows.local.record import GalleryEntry, StateDirectory
from flows.local.server import free_port
from flows.local.worker import fingerprint
from tasks.errors import AvatarError
from tasks.settings import GallerySettings

START_SECONDS = 60.0
#: The gallery gives downloads under way two seconds.
STOP_SECONDS = 8.0


def ensure_gallery(
    state: StateDirectory, settings: GallerySettings, variables: Mapping[str, str], wanted: Callable[[], bool]
) -> GalleryEntry:
    """The gallery, started unless one runs with these very settings. `wanted` turning false ends the wait.

    Raises:
        AvatarError: it did not start; the text holds the last lines of its log.
    """
    known = state.read().gallery
    same = known is not None and known.fingerprint == fingerprint(variables)
    if known and same and known.runs:
        return known
    if known:
        stop_gallery(known)
    # One that died keeps its address: artifacts link to it.
    return _start(state, settings, variables, known.port if known and same else settings.port, wanted)


def stop_gallery(entry: GalleryEntry) -> None:
    stop(entry.process, grace=STOP_SECONDS)


def _start(
    state: StateDirectory,
    settings: GallerySettings,
    variables: Mapping[str, str],
    port: int,
    wanted: Callable[[], bool],
) -> GalleryEntry:
    """Start it on `port`, or on any free one if that is taken, also when somebody is faster to it."""
    log = state.log("gallery")
    for preferred in (port, 0, 0):
        entry = _spawn(state, settings.host, free_port(preferred), variables)
        if _answers(entry, wanted):
            return entry
        stop_gallery(entry)
        state.change(gallery=None)
        if "cannot listen" not in tail(log):
            break
    raise AvatarError(
        f"The gallery did not start. Nothing was spent. The end of its log, {log}:\n{tail(log)}",
        hint="see AVATAR_GALLERY__HOST and AVATAR_GALLERY__PORT",
    )


def _spawn(state: StateDirectory, host: str, port: int, variables: Mapping[str, str]) -> GalleryEntry:
    command = python("-m", "flows", "gallery", "--host", host, "--port", str(port))
    process = spawn(command, {**os.environ, **variables}, state.log("gallery"))
    entry = GalleryEntry(process=process, host=host, port=port, fingerprint=fingerprint(variables))
    state.change(gallery=entry)
    return entry


def _answers(entry: GalleryEntry, wanted: Callable[[], bool]) -> bool:
    """Wait until the gallery answers, or has died, or is no longer wanted."""
    deadline = time.monotonic() + START_SECONDS
    while alive(entry.process) and wanted() and time.monotonic() < deadline:
        try:
            if httpx.get(f"{entry.url}health", timeout=3).is_success:
                return True
        except httpx.HTTPError:
            time.sleep(0.1)
    return False

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
    if known and known.runs and known.fingerprint == fingerprint(variables):
        return known
    if known:
        stop_gallery(known)
    entry = _start(state, settings, variables)
    if not _answers(entry, wanted):
        stop_gallery(entry)
        state.change(gallery=None)
        log = state.log("gallery")
        raise AvatarError(
            f"The gallery did not start. Nothing was spent. The end of its log, {log}:\n{tail(log)}",
            hint="see AVATAR_GALLERY__HOST and AVATAR_GALLERY__PORT",
        )
    return entry


def stop_gallery(entry: GalleryEntry) -> None:
    stop(entry.process, grace=STOP_SECONDS)


def _start(state: StateDirectory, settings: GallerySettings, variables: Mapping[str, str]) -> GalleryEntry:
    """Start it on the port of the settings, or on any free one if that is taken."""
    port = free_port(settings.port)
    command = python("-m", "flows", "gallery", "--host", settings.host, "--port", str(port))
    process = spawn(command, {**os.environ, **variables}, state.log("gallery"))
    entry = GalleryEntry(process=process, host=settings.host, port=port, fingerprint=fingerprint(variables))
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

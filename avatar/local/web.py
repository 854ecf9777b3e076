"""The web servers of this machine, gallery and bridge, as processes of their own beside the server and the worker."""

import os
import secrets
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import httpx

from avatar.errors import AvatarError
from avatar.local.embedded import Listener, write_private
from avatar.local.processes import alive, free_port, python, spawn, stop, tail
from avatar.local.record import StateDirectory, WebEntry
from avatar.local.worker import fingerprint
from avatar.settings import AvatarSettings


# The bridge of this machine: the token that is made for it, and what the embedded store needs to find it.
def listener(state: StateDirectory, settings: AvatarSettings) -> Listener:
    """What the embedded store is told when it starts, so that it tells the bridge of uploads."""
    return Listener(f"{settings.store.bucket}/{settings.inbox.prefix}", bridge_token(state))


def bridge_token(state: StateDirectory) -> str:
    """The token of this state directory, made once. Only its owner can read it."""
    state.path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not _kept(state):
        draft = state.token.with_name(f"bridge.{secrets.token_hex(4)}.token")
        write_private(draft, secrets.token_urlsafe(32))
        with suppress(FileExistsError):  # somebody was faster, and theirs holds
            os.link(draft, state.token)
        draft.unlink()
    return _kept(state)


def _kept(state: StateDirectory) -> str:
    with suppress(FileNotFoundError):
        if token := state.token.read_text().strip():
            return token
        state.token.unlink()  # a full disk leaves an empty file, and an empty token would let everybody in
    return ""


def store_port(state: StateDirectory, settings: AvatarSettings) -> int | None:
    """Where the embedded store expects the bridge; None if another store is in use."""
    store = state.read().store
    ours = store is not None and store.runs and settings.store.endpoint in {None, store.endpoint}
    return store.listener_port if store and ours else None


START_SECONDS = 60.0
#: They give requests under way two seconds.
STOP_SECONDS = 8.0


@dataclass(frozen=True)
class Site:
    """What is to run where.

    Attributes:
        name: the verb of `avatar` that runs it, and its name in the record.
        host: the address it listens on.
        port: the port it gets if that is free.
    """

    name: str
    host: str
    port: int


def ensure_site(
    state: StateDirectory, site: Site, variables: Mapping[str, str], wanted: Callable[[], bool]
) -> WebEntry:
    """The site, started unless it runs with these very settings. `wanted` turning false ends the wait.

    Raises:
        AvatarError: it did not start; the text holds the last lines of its log.
    """
    known: WebEntry | None = getattr(state.read(), site.name)
    same = known is not None and known.fingerprint == fingerprint(variables)
    if known and same and known.runs:
        return known
    if known:
        stop_site(known)
    # One that died keeps its address: others link to it.
    return _start(state, site, variables, known.port if known and same else site.port, wanted)


def stop_site(entry: WebEntry) -> None:
    stop(entry.process, grace=STOP_SECONDS)


def _start(
    state: StateDirectory, site: Site, variables: Mapping[str, str], port: int, wanted: Callable[[], bool]
) -> WebEntry:
    """Start it on `port`, or on any free one if that is taken, also when somebody is faster to it."""
    log = state.log(site.name)
    for preferred in (port, 0, 0):
        entry = _spawn(state, site, free_port(preferred), variables)
        if _answers(entry, log, wanted):
            return entry
        stop_site(entry)
        state.change(**{site.name: None})
        if "cannot listen" not in tail(log):
            break
    raise AvatarError(
        f"The {site.name} did not start. Nothing was spent. The end of its log, {log}:\n{tail(log)}",
        hint=f"see AVATAR_{site.name.upper()}__HOST and AVATAR_{site.name.upper()}__PORT",
    )


def _spawn(state: StateDirectory, site: Site, port: int, variables: Mapping[str, str]) -> WebEntry:
    command = python("-m", "avatar", site.name, "--host", site.host, "--port", str(port))
    process = spawn(command, {**os.environ, **variables}, state.log(site.name))
    entry = WebEntry(process=process, host=site.host, port=port, fingerprint=fingerprint(variables))
    state.change(**{site.name: entry})
    return entry


def _answers(entry: WebEntry, log: Path, wanted: Callable[[], bool]) -> bool:
    """Wait until the site listens and answers, or has died, or is no longer wanted.

    That it listens it says itself: what answers at its address may be another one, which was faster to the port.
    """
    deadline = time.monotonic() + START_SECONDS
    while alive(entry.process) and wanted() and time.monotonic() < deadline:
        with suppress(httpx.HTTPError):
            if entry.url in tail(log, 100) and httpx.get(f"{entry.url}health", timeout=3).is_success:
                return True
        time.sleep(0.1)
    return False

"""Services as a context: found or started on entry, stopped on exit by the last one who uses them."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import FrameType
from typing import Never

from flows.local import locks, prefect_api
from flows.local.environment import Services, environment
from flows.local.prefect_api import PrefectAccess
from flows.local.processes import identify, stop
from flows.local.record import ApiEntry, StateDirectory, StoreEntry
from flows.local.server import STOP_SECONDS, ensure_server
from flows.local.worker import ensure_worker, stop_worker
from tasks.settings import AvatarSettings
from tasks.storage import embedded

Say = Callable[[str], None]


def silently(_: str) -> None:
    """The `say` of a caller that has nobody to tell."""


@contextmanager
def services(
    settings: AvatarSettings, *, api: bool = True, worker: bool = False, say: Say = silently
) -> Iterator[Services]:
    """What `settings` need on this machine: found running, or started.

    The embedded store is used unless a store is configured; the Prefect API at PREFECT_API_URL is used if it
    answers, else the local one. Everything started here keeps running until the last command that uses it
    ends; what a killed command left behind is taken over by the next. SIGTERM ends the block as Ctrl-C does.

    Args:
        settings: where the state directory is, and whether a store is configured.
        api: whether a Prefect API is needed.
        worker: whether a worker (and its work pool) is needed; it is stopped on exit in any case.
        say: told, in a line each, what is started, so that a person knows why it takes seconds.

    Raises:
        AvatarError: something did not start; the text holds the last lines of its log.
    """
    state = StateDirectory(settings.state_dir)
    state.prepare()
    with terminated_like_interrupted(), locks.shared(state.in_use) as membership:
        try:
            yield _bring_up(settings, state, api=api, worker=worker, say=say)
        finally:
            with undisturbed():
                _leave(state, membership, worker=worker)


def find(settings: AvatarSettings) -> Services:
    """What runs now, without starting anything: empty addresses and no store for what does not."""
    state = StateDirectory(settings.state_dir)
    record = state.read()
    store = record.store.settings(settings.store) if record.store and record.store.runs else None
    chosen = _chosen_api()
    local = record.api if record.api and record.api.runs else None
    return _services(None if settings.store.endpoint else store, chosen, None if chosen else local)


def _bring_up(settings: AvatarSettings, state: StateDirectory, *, api: bool, worker: bool, say: Say) -> Services:
    starting = threading.Event()
    starting.set()
    with locks.exclusive(state.starting), ThreadPoolExecutor(2) as both:
        try:
            store = both.submit(_store, settings, state, say)
            server = both.submit(_api, state, say, starting.is_set) if api else None
            found, (chosen, local) = store.result(), server.result() if server else ("", None)
            running = _services(found, chosen, local)
            if worker:
                ensure_worker(state, environment(settings, running), running.api_url, starting.is_set)
        except BaseException:
            starting.clear()  # so that Ctrl-C need not wait for a start nobody wants any more
            raise
    return running


def _services(store: object, chosen: str, local: ApiEntry | None) -> Services: ...

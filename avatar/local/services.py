"""Services as a context: found or started on entry, stopped on exit by the last one who uses them; and `avatar up`."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

from avatar.errors import AvatarError
from avatar.local import embedded_store, prefect_client
from avatar.local import state_directory as locks
from avatar.local.deploy import deploy
from avatar.local.embedded_store import StoreListener
from avatar.local.environment import Services, environment
from avatar.local.processes import ignoring_signals, interrupted_by_sigterm
from avatar.local.start_programs import (
    POOL,
    ensure_program,
    server_program,
    site_program,
    stop_program,
    stop_workers,
    worker_program,
)
from avatar.local.state_directory import StartedProgram, StateDirectory
from avatar.settings import AvatarSettings
from avatar.settings_sections import StoreSettings

Say = Callable[[str], None]

#: Addresses of the gallery from which only this machine can start jobs.
LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
_NONE = Services(store=None, api_url="", ui_url="", started_api=False)
#: Seconds a revived service must live for its death not to count with the one before.
STABLE = 60.0
#: Deaths in a row before `up` gives up.
MOST_DEATHS = 5


def say_nothing(_: str) -> None:
    """The `say` of a caller that has nobody to tell."""


def say_aloud(text: str) -> None:
    """Say it on stdout at once, also when that is a pipe."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


@contextmanager
def services(
    settings: AvatarSettings, *, api: bool = True, everything: bool = False, say: Say = say_nothing
) -> Iterator[Services]:
    """What `settings` need on this machine: found running, or started.

    The embedded store is used unless a store is configured; the Prefect API at PREFECT_API_URL is used if it
    answers, else the local one. Everything started here keeps running until the last command that uses it
    ends; what a killed command left behind is taken over by the next. SIGTERM ends the block as Ctrl-C does.

    Args:
        settings: where the state directory is, and whether a store is configured.
        api: whether a Prefect API is needed.
        everything: whether workers (and their work pool), gallery and bridge are needed too; those are stopped
            on exit in any case.
        say: told, in a line each, what is started, so that a person knows why it takes seconds.

    Raises:
        AvatarError: something did not start; the text holds the last lines of its log.
    """
    state = StateDirectory(settings.state_dir)
    state.prepare()
    with interrupted_by_sigterm(), locks.shared_lock(state.in_use) as membership:
        try:
            yield _bring_up(settings, state, api=api, everything=everything, say=say)
        finally:
            with ignoring_signals():
                _leave(state, membership, everything=everything, say=say)


def find(settings: AvatarSettings) -> Services:
    """What runs now, without starting anything. What does not run has no address."""
    state = StateDirectory(settings.state_dir)
    record = state.read()
    local = _local(record.api) if record.api and record.api.runs else _NONE
    store = record.store.settings(settings.store) if record.store and record.store.runs else None
    found = _configured(state, say_nothing) or local
    return _with_sites(replace(found, store=None if settings.store.endpoint else store), state)


def _with_sites(running: Services, state: StateDirectory) -> Services:
    """With the addresses of gallery and bridge, whoever started them."""
    record = state.read()
    gallery, bridge = (entry.url if entry and entry.runs else "" for entry in (record.gallery, record.bridge))
    return replace(running, gallery_url=gallery, bridge_url=bridge)


def _bring_up(
    settings: AvatarSettings,
    state: StateDirectory,
    *,
    api: bool,
    everything: bool,
    say: Say,
    running: Services | None = None,
) -> Services:
    """Find or start what is asked for; with `running`, what is left of that stays."""
    abandoned = threading.Event()

    def wanted() -> bool:
        return not abandoned.is_set()

    with locks.exclusive_lock(state.starting), ThreadPoolExecutor(2) as both:
        try:
            store = both.submit(_store, settings, state, say)
            found = both.submit(_api, state, running, say, wanted) if api else None
            now = replace(found.result() if found else _NONE, store=store.result())
            now = _with_sites(now, state)
            return _everything(settings, state, now, both, wanted) if everything else now
        except BaseException:
            abandoned.set()  # so that Ctrl-C does not wait for a start that nobody wants any more
            raise


def _store(settings: AvatarSettings, state: StateDirectory, say: Say) -> StoreSettings | None:
    if settings.store.endpoint:
        return None
    known = state.read().store
    if not (known and known.runs):
        say("Starting the embedded store.")
    store = embedded_store.start(state.store, listener=bridge_listener(settings, state))
    state.change(store=store)
    return store.settings(settings.store)


def bridge_listener(settings: AvatarSettings, state: StateDirectory) -> StoreListener:
    """The bridge, as the embedded store is told of it when it starts: it tells the bridge of uploads."""
    return StoreListener(f"{settings.store.bucket}/{settings.inbox.prefix}", state.bridge_token())


def _api(state: StateDirectory, running: Services | None, say: Say, wanted: Callable[[], bool]) -> Services:
    """The user's, or else the local one; and what `running` has stays, though the user's may not answer just now."""
    if running and not running.started_api:
        return running
    if not running and (configured := _configured(state, say)):
        return configured
    known = state.read().api
    if not (known and known.runs):
        say("Starting the local Prefect server, which takes some seconds.")
    return _local(ensure_program(state, server_program(state), wanted))


def _configured(state: StateDirectory, say: Say) -> Services | None:
    """The user's own Prefect API, if one is configured and answers."""
    access = prefect_client.PrefectAccess()
    url = (access.api_url or "").rstrip("/")
    known = state.read().api
    if not url or (known and url == known.api_url):
        return None
    if not prefect_client.healthy(url):
        say(f"The Prefect API at {url} (PREFECT_API_URL) does not answer; using the local one.")
        return None
    ui_url = access.ui_url or (url.removesuffix("/api") if url.endswith("/api") else "")
    return Services(store=None, api_url=url, ui_url=ui_url, started_api=False)


def _local(entry: StartedProgram) -> Services:
    return Services(store=None, api_url=entry.api_url, ui_url=entry.url.rstrip("/"), started_api=True)


def _everything(
    settings: AvatarSettings,
    state: StateDirectory,
    running: Services,
    both: ThreadPoolExecutor,
    wanted: Callable[[], bool],
) -> Services:
    """Gallery and bridge, then the workers, which are told of the gallery.

    Gallery and bridge are not: one at a new address does not have the other started anew.
    """
    start = partial(ensure_program, state, wanted=wanted)
    variables = environment(settings, replace(running, gallery_url=""))
    desk = settings.gallery.desk is None and settings.gallery.host in LOOPBACK
    programs = [
        site_program(
            state, "gallery", settings.gallery, variables | ({"AVATAR_GALLERY__DESK": "true"} if desk else {})
        ),
        site_program(state, "bridge", settings.bridge, variables),
    ]
    list(both.map(start, programs))
    running = _with_sites(running, state)
    variables = environment(settings, running)
    list(
        both.map(start, [worker_program(field, variables, running.api_url) for field in ("worker", "upkeep")])
    )
    return running


def _leave(state: StateDirectory, membership: int, *, everything: bool, say: Say) -> None:
    """Stop what `up` alone uses if it is we, and everything else if nobody uses it any more."""
    with locks.exclusive_lock(state.starting):
        record = state.read()
        last = locks.becomes_exclusive(membership)
        if everything or last:
            stop_workers(*(entry for entry in (record.worker, record.upkeep) if entry))
            for entry in (record.gallery, record.bridge):
                if entry:
                    stop_program(entry, 8.0)
            state.change(worker=None, upkeep=None, gallery=None, bridge=None)
        if last:
            if record.api:
                stop_program(record.api)
            if record.store:
                embedded_store.stop(record.store)
            state.change(api=None, store=None)
        elif everything:
            say("Store and server go on: another command uses them, and stops them when it ends.")


def run_up(settings: AvatarSettings, *, say: Say = say_aloud) -> int:
    """Run store, Prefect server, deployments and workers until SIGINT or SIGTERM; returns the exit code.

    A service that dies is started again. A second `up` on the same state directory says where the first one
    is, and ends.

    Raises:
        AvatarError: something did not start, or keeps dying; what was started has been stopped again.
    """
    state = StateDirectory(settings.state_dir)
    state.prepare()
    with locks.try_exclusive_lock(state.up) as ours:
        if not ours:
            say(f"avatar up is already running: {find(settings).ui_url or 'still starting'}")
            return 0
        try:
            with services(settings, everything=True, say=say) as running:
                try:
                    names = deploy(environment(settings, running))
                    _announce(settings, running, names, say)
                    _supervise(settings, state, running, say)
                except KeyboardInterrupt:
                    say("Stopping.")
                    raise
        except KeyboardInterrupt:
            say("Stopped.")
        return 0


def _announce(settings: AvatarSettings, running: Services, names: list[str], say: Say) -> None:
    store = running.applied_to(settings).store
    say(f"Prefect UI   {running.ui_url or running.api_url}")
    say(f"Gallery      {running.gallery_url}")
    say(f"Bridge       {running.bridge_url}")
    say(f"Store        {store.endpoint}, bucket {store.bucket}")
    say(f"Workers      online in pool {POOL}, one of them for upkeep alone")
    say(f"Deployments  {', '.join(names)}")
    say("Everything runs. Ctrl-C stops it.")


def _supervise(settings: AvatarSettings, state: StateDirectory, running: Services, say: Say) -> None:
    deaths, revived = 0, time.monotonic()
    while True:
        time.sleep(1)
        dead = state.read().dead()
        if not dead:
            continue
        deaths = 1 if time.monotonic() - revived > STABLE else deaths + 1
        if deaths > MOST_DEATHS:
            raise AvatarError(
                f"{dead} keeps dying; gave up after {MOST_DEATHS} attempts. Renders under way are safe: they are in "
                f"the journal. See the logs in {state.path / 'logs'}."
            )
        say(f"{dead} died; starting it again.")
        time.sleep(2 ** (deaths - 1))
        running = _bring_up(settings, state, api=True, everything=True, say=say, running=running)
        revived = time.monotonic()

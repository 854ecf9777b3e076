"""Services as a context: found or started on entry, stopped on exit by the last one who uses them."""

import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

from avatar.local import embedded, prefect_api
from avatar.local import record as locks
from avatar.local.environment import Services, environment
from avatar.local.processes import identify, interrupted_by_sigterm, stop, undisturbed
from avatar.local.record import ApiEntry, StateDirectory, StoreEntry, WebEntry
from avatar.local.server import STOP_SECONDS, ensure_server
from avatar.local.web import Site, ensure_site, listener, stop_site
from avatar.local.worker import ensure_workers, known_workers, stop_workers
from avatar.settings import AvatarSettings, StoreSettings

Say = Callable[[str], None]
Wanted = Callable[[], bool]

_NONE = Services(store=None, api_url="", ui_url="", started_api=False)


def silently(_: str) -> None:
    """The `say` of a caller that has nobody to tell."""


@contextmanager
def services(
    settings: AvatarSettings,
    *,
    api: bool = True,
    worker: bool = False,
    gallery: bool = False,
    bridge: bool = False,
    say: Say = silently,
) -> Iterator[Services]:
    """What `settings` need on this machine: found running, or started.

    The embedded store is used unless a store is configured; the Prefect API at PREFECT_API_URL is used if it
    answers, else the local one. Everything started here keeps running until the last command that uses it
    ends; what a killed command left behind is taken over by the next. SIGTERM ends the block as Ctrl-C does.

    Args:
        settings: where the state directory is, and whether a store is configured.
        api: whether a Prefect API is needed.
        worker: whether workers (and their work pool) are needed; they are stopped on exit in any case.
        gallery: whether a gallery is needed; it is stopped on exit in any case.
        bridge: whether a bridge is needed; it is stopped on exit in any case.
        say: told, in a line each, what is started, so that a person knows why it takes seconds.

    Raises:
        AvatarError: something did not start; the text holds the last lines of its log.
    """
    state = StateDirectory(settings.state_dir)
    state.prepare()
    with interrupted_by_sigterm(), locks.shared(state.in_use) as membership:
        try:
            yield _bring_up(settings, state, api=api, worker=worker, gallery=gallery, bridge=bridge, say=say)
        finally:
            with undisturbed():
                _leave(state, membership, own=worker or gallery or bridge, say=say)


def find(settings: AvatarSettings) -> Services:
    """What runs now, without starting anything. What does not run has no address."""
    state = StateDirectory(settings.state_dir)
    record = state.read()
    local = _local(record.api) if record.api and record.api.runs else _NONE
    store = record.store.settings(settings.store) if record.store and record.store.runs else None
    found = _configured(state, silently) or local
    return replace(
        found,
        store=None if settings.store.endpoint else store,
        gallery_url=_url(record.gallery),
        bridge_url=_url(record.bridge),
    )


def revive(settings: AvatarSettings, running: Services, say: Say) -> Services:
    """Start again what has died of `running`, workers included, and keep what lives."""
    state = StateDirectory(settings.state_dir)
    with locks.exclusive(state.starting):
        store = _store(settings, state, say)
        api = _local(ensure_server(state, _always)) if running.started_api else running
        found = replace(api, store=store, gallery_url="", bridge_url="")
        sites = {"gallery": bool(running.gallery_url), "bridge": bool(running.bridge_url)}
        found = _with_sites(settings, state, found, sites, _always)
        ensure_workers(state, environment(settings, found), found.api_url, _always)
    return found


def _url(site: WebEntry | None) -> str:
    return site.url if site and site.runs else ""


def _with_sites(
    settings: AvatarSettings,
    state: StateDirectory,
    running: Services,
    asked: Mapping[str, bool],
    wanted: Wanted,
) -> Services:
    """`running`, with the web servers that are asked for, or run anyway.

    None of them is told of the others, so that one at a new address does not have the others started anew.
    """
    variables = environment(settings, running)
    for name in (name for name, is_asked in asked.items() if is_asked):
        section = getattr(settings, name)
        ensure_site(state, Site(name, section.host, section.port), variables, wanted)
    record = state.read()
    return replace(running, gallery_url=_url(record.gallery), bridge_url=_url(record.bridge))


def _bring_up(
    settings: AvatarSettings,
    state: StateDirectory,
    *,
    api: bool,
    worker: bool,
    gallery: bool,
    bridge: bool,
    say: Say,
) -> Services:
    abandoned = threading.Event()

    def wanted() -> bool:
        return not abandoned.is_set()

    with locks.exclusive(state.starting), ThreadPoolExecutor(2) as both:
        try:
            store = both.submit(_store, settings, state, say)
            found = both.submit(_api, state, say, wanted) if api else None
            running = replace(found.result() if found else _NONE, store=store.result())
            running = _with_sites(settings, state, running, {"gallery": gallery, "bridge": bridge}, wanted)
            if worker:
                ensure_workers(state, environment(settings, running), running.api_url, wanted)
        except BaseException:
            abandoned.set()  # so that Ctrl-C does not wait for a start that nobody wants any more
            raise
    return running


def _store(settings: AvatarSettings, state: StateDirectory, say: Say) -> StoreSettings | None:
    if settings.store.endpoint:
        return None
    known = state.read().store
    if not (known and known.runs):
        say("Starting the embedded store.")
    store = embedded.start(state.store, listener=listener(state, settings))
    entry = StoreEntry(
        process=identify(store.pid),
        endpoint=store.endpoint,
        access_key=store.access_key,
        secret_key=store.secret_key,
        directory=store.directory,
    )
    state.change(store=entry)
    return entry.settings(settings.store)


def _api(state: StateDirectory, say: Say, wanted: Wanted) -> Services:
    if configured := _configured(state, say):
        return configured
    known = state.read().api
    if not (known and known.runs):
        say("Starting the local Prefect server, which takes some seconds.")
    return _local(ensure_server(state, wanted))


def _configured(state: StateDirectory, say: Say) -> Services | None:
    """The user's own Prefect API, if one is configured and answers."""
    access = prefect_api.PrefectAccess()
    url = (access.api_url or "").rstrip("/")
    known = state.read().api
    if not url or (known and url == known.api_url):
        return None
    if not prefect_api.healthy(url):
        say(f"The Prefect API at {url} (PREFECT_API_URL) does not answer; using the local one.")
        return None
    ui_url = access.ui_url or (url.removesuffix("/api") if url.endswith("/api") else "")
    return Services(store=None, api_url=url, ui_url=ui_url, started_api=False)


def _local(entry: ApiEntry) -> Services:
    return Services(store=None, api_url=entry.api_url, ui_url=entry.ui_url, started_api=True)


def _leave(state: StateDirectory, membership: int, *, own: bool, say: Say) -> None:
    """Stop workers and web servers if we asked for them, and everything else if nobody uses it any more."""
    with locks.exclusive(state.starting):
        record = state.read()
        last = locks.becomes_exclusive(membership)
        if own or last:
            _stop_own(state)
        if not last:
            if own:
                say("Store and server go on: another command uses them, and stops them when it ends.")
            return
        if record.api:
            stop(record.api.process, grace=STOP_SECONDS)
        if record.store and record.store.runs:
            embedded.stop(record.store.process.pid)
        state.change(api=None, store=None)


def _stop_own(state: StateDirectory) -> None:
    record = state.read()
    stop_workers(*known_workers(state).values())
    for site in (record.gallery, record.bridge):
        if site:
            stop_site(site)
    state.change(worker=None, upkeep=None, gallery=None, bridge=None)


def _always() -> bool:
    return True

"""`avatar bridge`: take notifications of uploads from the bucket, and webhooks of providers."""

import argparse
import asyncio
import os
import sys
from typing import Any

from tasks.settings import AvatarSettings, BridgeSettings
from tasks.storage.store import Store


def run(arguments: argparse.Namespace) -> int:
    from flows.bridge.serving import check_reach
    from flows.local import environment, find, services
    from flows.local.prefect_api import PrefectAccess

    settings = _asked(AvatarSettings(), arguments)
    check_reach(settings)
    if arguments.host is None and arguments.port is None and (url := find(settings).bridge_url):
        _say(f"The bridge of avatar up is already running: {url}")
        return 0
    # A Prefect API of the user's is told as soon as it answers; another in its place would be told in vain.
    api_url = (PrefectAccess().api_url or "").rstrip("/")
    if settings.store.endpoint and api_url:
        return _serve(settings, api_url)
    with services(settings, api=not api_url, say=lambda text: print(text, file=sys.stderr)) as running:
        os.environ.update(environment(settings, running))
        return _serve(running.applied_to(settings), api_url or running.api_url)


def _serve(settings: AvatarSettings, api_url: str) -> int:
    from flows.bridge.serving import serve
    from flows.local.bridge import store_port
    from flows.local.record import StateDirectory

    if store_port(StateDirectory(settings.state_dir), settings):
        asyncio.run(_ensure_bucket(settings))  # a store of our own may have none before the first job
    return serve(settings, api_url, say=_say)


def _asked(settings: AvatarSettings, arguments: argparse.Namespace) -> AvatarSettings:
    """The settings, with what the command line says about host and port."""
    given: dict[str, Any] = {"host": arguments.host, "port": arguments.port}
    stated = settings.bridge.model_dump(exclude_unset=True)
    stated |= {name: value for name, value in given.items() if value is not None}
    return settings.model_copy(update={"bridge": BridgeSettings.model_validate(stated)})


async def _ensure_bucket(settings: AvatarSettings) -> None:
    store = Store(settings.store)
    try:
        await store.ensure_bucket()
    finally:
        await store.aclose()


def _say(text: str) -> None:
    print(text, flush=True)

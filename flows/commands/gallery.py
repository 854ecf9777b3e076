"""`avatar gallery`: look at what was rendered, in a browser."""

import argparse
import asyncio
import sys
from typing import Any

from tasks.settings import AvatarSettings, GallerySettings
from tasks.storage.store import Store


def run(arguments: argparse.Namespace) -> int:
    from flows.gallery.serving import serve
    from flows.local import find, services

    settings = _asked(AvatarSettings(), arguments)
    if arguments.host is None and arguments.port is None and (url := find(settings).gallery_url):
        _say(f"The gallery of avatar up is already running: {url}")
        return 0
    if settings.store.endpoint:
        return serve(settings, say=_say)
    with services(settings, api=False, say=lambda text: print(text, file=sys.stderr)) as running:
        settings = running.applied_to(settings)
        asyncio.run(_ensure_bucket(settings))  # of a store of our own: before the first job it may have none
        return serve(settings, say=_say)


def _asked(settings: AvatarSettings, arguments: argparse.Namespace) -> AvatarSettings:
    """The settings, with what the command line says about host and port."""
    given: dict[str, Any] = {"host": arguments.host, "port": arguments.port}
    stated = settings.gallery.model_dump(exclude_unset=True)
    stated |= {name: value for name, value in given.items() if value is not None}
    return settings.model_copy(update={"gallery": GallerySettings.model_validate(stated)})


async def _ensure_bucket(settings: AvatarSettings) -> None:
    store = Store(settings.store)
    try:
        await store.ensure_bucket()
    finally:
        await store.aclose()


def _say(text: str) -> None:
    print(text, flush=True)

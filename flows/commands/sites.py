"""What `avatar gallery` and `avatar bridge` share: where they listen, and a bucket that is there."""

import argparse
from typing import Any

from tasks.settings import AvatarSettings
from tasks.storage.store import Store


def listening_as_asked(
    settings: AvatarSettings, section: str, arguments: argparse.Namespace
) -> AvatarSettings:
    """The settings, with what the command line says about host and port of a section of them."""
    before = getattr(settings, section)
    given: dict[str, Any] = {"host": arguments.host, "port": arguments.port}
    stated = before.model_dump(exclude_unset=True)
    stated |= {name: value for name, value in given.items() if value is not None}
    return settings.model_copy(update={section: type(before).model_validate(stated)})


async def ensure_bucket(settings: AvatarSettings) -> None:
    """Create the bucket of a store of our own: before the first job it may have none."""
    store = Store(settings.store)
    try:
        await store.ensure_bucket()
    finally:
        await store.aclose()


def say(text: str) -> None:
    print(text, flush=True)

"""Inputs given as https:// addresses: fetched with limits, and never told with more than their host and path."""

import asyncio
import re
from pathlib import Path
from urllib.parse import urlsplit

from tasks.errors import AvatarError, InvalidInput, SourceUnavailable
from tasks.providers.base import Limits
from tasks.providers.download import STARTS_OF_TEXT, NotFetched, Rules, fetch
from tasks.settings import AvatarSettings

#: Connections for one input. There is no money in it yet, so patience ends sooner than for a video.
ATTEMPTS = 3
#: A portrait may be this many times as large as what the provider takes: it is converted.
ROOM_TO_CONVERT = 20


def is_link(source: str) -> bool:
    """Whether the source is an address on the web, in any spelling of its scheme."""
    return source.lower().startswith(("https://", "http://"))


def shown(source: str) -> str:
    """The source as it may be told: a link without its query, which may be a signature, and without a user."""
    if not is_link(source):
        return source
    scheme, _, rest = source.partition("://")
    return f"{scheme}://{re.split(r'[?#]', rest, maxsplit=1)[0].rpartition('@')[2]}"


def is_plain(link: str) -> bool:
    """Whether the link can be used as it is written: no spaces or control characters, a host."""
    try:
        return link.isprintable() and " " not in link and bool(urlsplit(link).hostname)
    except ValueError:
        return False


async def fetch_input(settings: AvatarSettings, link: str, target: Path, *, what: str) -> None:
    """Write what the link serves to `target`, complete or not at all.

    Args:
        settings: how much (`download.max_input_bytes`) and how long (`download.input_seconds`).
        link: a secret as a whole, as presigned ones are.
        target: where to.
        what: "portrait", "voice" or "manifest".

    Raises:
        InvalidInput: the link may not be followed, or what it serves cannot be what it should be.
        SourceUnavailable: its server did not answer, `ATTEMPTS` times.
    """
    name, allowed = shown(link), settings.download.allow_private_hosts
    if not is_plain(link):
        raise _refused(what, name, "it is not a URL")
    if link.lower().startswith("http://") and not allowed:
        raise _refused(what, name, "only https:// addresses are read, and this is http://")
    try:
        async with asyncio.timeout(settings.download.input_seconds):
            await fetch(link, target, _rules(settings, what))
    except NotFetched as error:
        raise _told(error, what, name) from None
    except TimeoutError:
        why = f"it had not arrived after {settings.download.input_seconds:g} s"
        raise _refused(what, name, why) from None


def _rules(settings: AvatarSettings, what: str) -> Rules:
    download, largest = settings.download, settings.download.max_input_bytes
    if what == "portrait":
        taken = settings.limits.max_image_bytes or Limits().max_image_bytes
        largest = min(largest, ROOM_TO_CONVERT * taken)
    return Rules(
        what=what,
        max_bytes=largest,
        attempts=min(ATTEMPTS, download.attempts),
        private=download.allow_private_hosts,
        not_starting=(b"<",) if what == "manifest" else STARTS_OF_TEXT,
        not_types=(),  # the bytes decide: servers call them anything
    )


def _told(error: NotFetched, what: str, name: str) -> AvatarError:
    if error.kind != "unavailable":
        return _refused(what, name, error.why)
    return SourceUnavailable(
        f"The {what} {name!r} could not be fetched: {error.why}. Nothing was sent or spent.",
        hint="Try again later, or copy the file to the bucket and give s3://bucket/key.",
    )


def _refused(what: str, name: str, why: str) -> InvalidInput:
    return InvalidInput(
        f"The {what} {name!r} was not fetched: {why}. Nothing was sent or spent.",
        hint="Give an https:// address that anybody may read, a path, or s3://bucket/key.",
    )

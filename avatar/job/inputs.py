"""Inputs: what the user named, fetched with limits and brought into the store under the name of its content."""

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

from avatar.errors import AvatarError, InvalidInput, ObjectNotFound, SourceUnavailable
from avatar.media.kinds import sniff_file
from avatar.media.webvtt import LARGEST as LARGEST_CAPTIONS
from avatar.models import Limits, is_link, shown
from avatar.providers.download import STARTS_OF_TEXT, FetchRules, NotFetched, fetch
from avatar.settings import AvatarSettings, start_directory
from avatar.store.objects import hash_file
from avatar.stored_models import Asset
from avatar.workspace import Workspace

# Inputs given as https:// addresses: fetched with limits, and never told with more than their host and path.
#: Connections for one input. There is no money in it yet, so patience ends sooner than for a video.
ATTEMPTS = 3
#: What people bring to the gallery: files by content and name, and what they asked to be made of them.
BROUGHT, ORDERS = "desk/files/", "desk/orders/"
#: A portrait may be this many times as large as what the provider takes: it is converted.
ROOM_TO_CONVERT = 20


def is_plain_link(link: str) -> bool:
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
        what: "portrait", "voice", "captions" or "manifest".

    Raises:
        InvalidInput: the link may not be followed, or what it serves cannot be what it should be.
        SourceUnavailable: its server did not answer, `ATTEMPTS` times.
    """
    name, allowed = shown(link), settings.download.allow_private_hosts
    if not is_plain_link(link):
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


def _rules(settings: AvatarSettings, what: str) -> FetchRules:
    download, largest = settings.download, settings.download.max_input_bytes
    if what == "portrait":
        taken = settings.limits.max_image_bytes or Limits().max_image_bytes
        largest = min(largest, ROOM_TO_CONVERT * taken)
    if what == "captions":
        largest = min(largest, LARGEST_CAPTIONS)
    return FetchRules(
        what=what,
        max_bytes=largest,
        attempts=min(ATTEMPTS, download.attempts),
        private=download.allow_private_hosts,
        not_starting=(b"<",) if what in ("manifest", "captions") else STARTS_OF_TEXT,
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


# Bring what the user named into the store, under the name of its content.
async def store_file(workspace: Workspace, path: Path) -> Asset:
    """Store a local file by its content. The same bytes a second time move nothing."""
    sha256 = await asyncio.to_thread(hash_file, path)
    extension, content_type = sniff_file(path)
    asset = Asset(
        key=f"assets/{sha256}.{extension}", sha256=sha256, size=path.stat().st_size, content_type=content_type
    )
    await workspace.store.put_file(asset.key, path, content_type=content_type, sha256=sha256)
    await workspace.copies.keep_checked(asset.key, path, sha256)
    return asset


async def ingest(workspace: Workspace, source: str, *, what: str) -> Asset:
    """Store the file that `source` names: a path, s3://bucket/key of our own bucket, or an https:// address.

    Raises:
        InvalidInput: there is no such file, it is empty, or the address is not one that is read.
        SourceUnavailable: the server of an https:// address did not answer.
        StoreUnavailable: the store failed.
    """
    async with open_input(workspace, source, what=what) as path:
        return await store_file(workspace, path)


@asynccontextmanager
async def open_input(workspace: Workspace, source: str, *, what: str) -> AsyncIterator[Path]:
    """The file that `source` names, on this machine for as long as the block runs. Raises as `ingest` does."""
    async with _as_file(workspace, source, what=what) as path:
        if _size(path, source, what) == 0:
            raise InvalidInput(f"The {what} {shown(source)!r} is empty (0 bytes). Nothing was sent or spent.")
        yield path


def _size(path: Path, source: str, what: str) -> int:
    """Bytes of a file that can be read; no device, pipe or directory."""
    try:
        found = path.is_file() and os.access(path, os.R_OK)
        size = path.stat().st_size if found else 0
    except (OSError, ValueError):  # a name that no file can have, a folder not ours
        found = False
    if not found:
        raise InvalidInput(
            f"The {what} {source[:300]!r} is not a file on this machine, or cannot be read. Nothing was sent or spent.",
            hint="Give a path that the worker can read, s3://bucket/key, or an https:// address. A relative path means a "
            "file in AVATAR_INPUT_FOLDERS, or, without that, in the directory where the worker was started.",
        )
    return size


@asynccontextmanager
async def _as_file(workspace: Workspace, source: str, *, what: str) -> AsyncIterator[Path]:
    if "://" not in source:
        yield local_path(workspace, source, what=what)
        return
    with tempfile.TemporaryDirectory(dir=workspace.scratch) as folder:
        path = Path(folder) / "download"
        if is_link(source):
            await fetch_input(workspace.settings, source, path, what=what)
        else:
            await _download(workspace, source, path, what=what)
        yield path


def local_path(workspace: Workspace, source: str, *, what: str) -> Path:
    """Where a file or folder of this machine is. Raises `InvalidInput` if it is outside AVATAR_INPUT_FOLDERS.

    A relative path is looked for in these, without them in the directory that the worker or command was started in.
    """
    path = Path(os.path.expanduser(source))  # noqa: PTH111 - Path's own raises for a user there is not
    folders = workspace.settings.input_folders
    if folders is None:
        return start_directory() / path
    allowed = [os.path.realpath(os.path.expanduser(folder)) for folder in folders.split(os.pathsep) if folder]  # noqa: PTH111
    # Where links lead to is what counts, and what is opened.
    if "\0" in source:
        real = path
    else:
        places = [Path(os.path.realpath(Path(folder) / path)) for folder in allowed]
        real = next((place for place in places if os.path.lexists(place)), (places or [path])[0])
    if not any(real.is_relative_to(folder) for folder in allowed):
        raise InvalidInput(
            f"The {what} {source[:300]!r} is not in a folder that jobs may take files from (AVATAR_INPUT_FOLDERS). "
            "Nothing was sent or spent.",
            hint="Put it into one of those folders, or into the bucket, and give s3://bucket/key.",
        )
    return real


async def _download(workspace: Workspace, source: str, path: Path, *, what: str) -> None:
    try:
        await workspace.store.download(_own_key(workspace, source, what=what), path)
    except ObjectNotFound as error:
        raise InvalidInput(
            f"The {what} {source!r} is not in the store. Nothing was sent or spent."
        ) from error


def _own_key(workspace: Workspace, source: str, *, what: str) -> str:
    scheme, _, rest = source.partition("://")
    if scheme.lower() != "s3":
        raise InvalidInput(
            f"The {what} is given as a {scheme[:40]!r} address, which is not read. Nothing was sent or spent.",
            hint="Give a path, an https:// address, or s3://bucket/key.",
        )
    bucket, _, key = rest.partition("/")
    if bucket != workspace.store.bucket:
        raise InvalidInput(
            f"The {what} is in bucket {bucket[:100]!r}; this installation reads {workspace.store.bucket!r} only. "
            "Nothing was sent or spent.",
            hint="Copy the file there, or set AVATAR_STORE__BUCKET.",
        )
    return unquote(key.lstrip("/"))

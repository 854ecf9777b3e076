"""What lies in the inbox, and what each upload asks for. An empty one is one listing."""

import asyncio
import hashlib
import json
import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any, Literal, TypeVar

from pydantic import Field

from avatar.batch.manifest import KINDS
from avatar.errors import InvalidInput, ObjectNotFound
from avatar.media.kinds import sniff
from avatar.media.webvtt import KINDS as KINDS_OF_CAPTIONS
from avatar.media.webvtt import SUBTITLES, language_of
from avatar.models import is_link
from avatar.settings_sections import InboxSettings
from avatar.store.objects import LONGEST_KEY, Stat, check_readable
from avatar.store.store import Store
from avatar.stored_models import Model
from avatar.workspace import Workspace

# What lies in the inbox, and what is written down of an upload that a flow run has taken.
#: Raise when the same files come to mean other jobs.
INBOX_VERSION = 1
#: Bytes by which a key grows when its file is filed away.
ROOM_FOR_FILING = 64


@dataclass(frozen=True)
class Inbox:
    """Where uploads are dropped."""

    workspace: Workspace

    @property
    def store(self) -> Store:
        return self.workspace.store

    @property
    def settings(self) -> InboxSettings:
        return self.workspace.settings.inbox

    @property
    def prefix(self) -> str:
        return self.settings.prefix

    def folder(self, name: str) -> str:
        return f"{self.prefix}{name}/"

    def address(self, key: str) -> str:
        """A key as jobs name it. A percent sign would be read as the beginning of an escape."""
        return f"s3://{self.store.bucket}/{key.replace('%', '%25')}"


class File(Model):
    """An uploaded file as it was when it was looked at."""

    key: str
    etag: str
    size: int = Field(ge=0, description="bytes")


@dataclass(frozen=True)
class Upload:
    """A folder of the inbox with its files.

    Attributes:
        name: as the user wrote it.
        files: in the order of their keys.
        modified: when something in it last changed, by the store's clock.
        age: seconds since then, by the same clock.
    """

    name: str
    files: tuple[File, ...]
    modified: datetime
    age: float

    @property
    def signature(self) -> str:
        """Another one as soon as a file is added, removed or overwritten with other content."""
        facts = [INBOX_VERSION, self.name, [(file.key, file.etag, file.size) for file in self.files]]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]

    @property
    def unusable(self) -> str | None:
        """A key that cannot be asked for, or not be filed away."""
        return next((file.key for file in self.files if not is_usable(file.key)), None)


def is_usable(key: str) -> bool:
    try:
        return len(check_readable(key).encode()) <= LONGEST_KEY - ROOM_FOR_FILING
    except InvalidInput:
        return False


def is_hidden(key: str) -> bool:
    """Whether it is one of those that file managers leave behind (`.DS_Store`, `._portrait.png`)."""
    return key.rsplit("/", 1)[-1].startswith(".")


def file_of(stat: Stat) -> File:
    return File(key=stat.key, etag=stat.etag, size=stat.size)


G = TypeVar("G")
T = TypeVar("T")

#: Folders of the inbox that are ours. All that begin with a dot are left alone.
TAKEN, WAITING, ROWS, DONE, FAILED = ".taken/", ".waiting/", ".rows/", ".done/", ".failed/"
#: Requests at a time.
ABREAST = 8
#: Objects asked for the store's clock, which may be gone in the meantime.
CLOCKS = 3


@dataclass(frozen=True)
class FoundUploads:
    """One look at the inbox.

    Attributes:
        uploads: its folders, but not those that hold a manifest: they belong to a batch.
        loose: files that lie beside the folders, as one upload without a name; manifests are not among them.
        ours: which of our own folders are there.
    """

    uploads: tuple[Upload, ...] = ()
    loose: Upload | None = None
    ours: frozenset[str] = frozenset()


async def list_uploads(inbox: Inbox) -> FoundUploads:
    """Every folder with its files. Raises `StoreUnavailable`: a store that fails is never an empty inbox."""
    entries = await inbox.store.list(inbox.prefix, recursive=False)
    names = [entry.key.removeprefix(inbox.prefix)[:-1] for entry in entries if entry.key.endswith("/")]
    folders = [name for name in names if name and not name.startswith(".")]
    listings = await in_turns(lambda name: inbox.store.list(inbox.folder(name)), folders)
    contents = {name: _files(stats) for name, stats in zip(folders, listings, strict=True)}
    loose = [stat for stat in _files(entries) if not is_hidden(stat.key) and not is_manifest(stat.key)]
    now = await _clock(inbox, [stat for stats in (*contents.values(), loose) for stat in stats])
    found = [_upload(name, stats, now) for name, stats in contents.items() if stats]
    return FoundUploads(
        uploads=tuple(each for each in found if not any(is_manifest(file.key) for file in each.files)),
        loose=_upload("", loose, now) if loose else None,
        ours=frozenset(f"{name}/" for name in names if name.startswith(".")),
    )


async def read_signature(inbox: Inbox, name: str) -> str:
    """The signature of what is in the folder now."""
    stats = _files(await inbox.store.list(inbox.folder(name)))
    return _upload(name, stats, datetime.now(UTC)).signature if stats else ""


async def list_settled_uploads(inbox: Inbox, wait_seconds: float) -> FoundUploads:
    """Like `list_uploads`, after waiting for uploads that are still changing, `wait_seconds` at most."""
    deadline = asyncio.get_running_loop().time() + wait_seconds
    while True:
        found = await list_uploads(inbox)
        quiet = min((each.age for each in found.uploads), default=inbox.settings.settle_seconds)
        left = deadline - asyncio.get_running_loop().time()
        if quiet >= inbox.settings.settle_seconds or left <= 0:
            return found
        await asyncio.sleep(min(left, inbox.settings.settle_seconds - quiet + 0.05))


async def in_turns(work: Callable[[G], Awaitable[T]], given: Iterable[G]) -> list[T]:
    """The work on everything that is given, a few at a time. What one raises is raised when all have ended."""
    turn = asyncio.Semaphore(ABREAST)

    async def one(each: G) -> T:
        async with turn:
            return await work(each)

    ended = await asyncio.gather(*(one(each) for each in given), return_exceptions=True)
    for each in ended:
        if isinstance(each, BaseException):
            raise each
    return [each for each in ended if not isinstance(each, BaseException)]


def is_manifest(key: str) -> bool:
    return PurePosixPath(key).suffix.lower() in KINDS and not is_hidden(key)


def _files(stats: Iterable[Stat]) -> list[Stat]:
    """Without folders, and without the empty objects that stand for them."""
    return [stat for stat in stats if not stat.key.endswith("/")]


def _upload(name: str, stats: Sequence[Stat], now: datetime) -> Upload:
    modified = max(stat.modified for stat in stats)
    age = max(0.0, (now - modified).total_seconds())
    return Upload(name, tuple(file_of(stat) for stat in stats), modified, age)


async def _clock(inbox: Inbox, stats: Sequence[Stat]) -> datetime:
    """The store's own time: that of this machine may differ, and changes are told by the store's."""
    for stat in stats[:CLOCKS]:
        try:
            now = (await inbox.store.stat(stat.key)).served_at
        except (ObjectNotFound, InvalidInput):
            continue
        if now is not None:
            return now
    return datetime.now(UTC)


JOB = "job.json"
#: Largest job.json that is read, in bytes: a prompt and two addresses, every character escaped, and room.
LARGEST_JOB = 32 * 1024
#: First bytes that tell what a file without a telling name is.
HEAD = 16

Kind = Literal["image", "audio", ""]
#: By the end of the name; what it does not tell is told by the first bytes. Phones record voices as mp4 and webm.
_ENDS: tuple[tuple[re.Pattern[str], Kind], ...] = (
    (re.compile(r"(?i)\.(png|jpe?g|jpe|jfif|webp|gif|bmp|tiff?|hei[cf]|avif)$"), "image"),
    (
        re.compile(r"(?i)\.(mp3|wave?|m4a|aac|og[ga]|opus|flac|wma|aiff?|amr|caf|ac3|mka|mp4|webm|3gp)$"),
        "audio",
    ),
    (re.compile(r"(?i)\.(json|txt|md|pdf|html?|xml|zip|srt|vtt|docx?)$"), ""),
)


@dataclass(frozen=True)
class Contents:
    """What an upload asks for.

    Attributes:
        rows: one job each, as in a manifest; empty if there is something missing, or a fault.
        missing: what is not there yet.
        fault: why it will never be rendered as it is.
    """

    rows: tuple[dict[str, Any], ...] = ()
    missing: str = ""
    fault: str = ""


class MissingFile(Exception):
    """Something is not there yet, and what."""


async def read_contents(inbox: Inbox, upload: Upload) -> Contents:
    """The jobs of an upload, or what keeps it from having any. Raises `StoreUnavailable`."""
    try:
        asked = await _read_job(inbox, upload)
        kinds = {file.key: await kind_of(inbox, file) for file in upload.files if not is_hidden(file.key)}
        portrait = _portrait(inbox, upload, asked, kinds)
        voices = _voices(inbox, upload, asked, kinds)
        rows = tuple(
            {
                "title": _title(upload, voice, voices),
                **asked,
                **_captions(inbox, upload, asked, voice, voices),
                "portrait": portrait,
                "voice": voice,
            }
            for voice in voices
        )
    except ObjectNotFound:
        return Contents(missing="files that were removed a moment ago")
    except MissingFile as error:
        return Contents(missing=str(error))
    except InvalidInput as error:
        return Contents(fault=str(error))
    return Contents(rows)


def _captions(
    inbox: Inbox, upload: Upload, asked: dict[str, Any], voice: str, voices: Sequence[str]
) -> dict[str, list[str]]:
    """Captions lie beside their voice, and begin with its name where there are several; a script always does."""
    if isinstance(named := asked.get("captions"), list):
        return {"captions": [_named(inbox, upload, each, "captions") for each in named]}
    stem = PurePosixPath(voice.replace("%25", "%")).stem
    found = []
    for file in upload.files:
        name = PurePosixPath(file.key)
        taken = KINDS_OF_CAPTIONS if _belongs(name, stem) else SUBTITLES if len(voices) == 1 else ()
        if name.suffix.lower() in taken:
            found.append(inbox.address(file.key))
    return {"captions": found} if found else {}


def _belongs(name: PurePosixPath, stem: str) -> bool:
    return name.stem in (stem, f"{stem}.{language_of(name.name)}")


def _title(upload: Upload, voice: str, voices: Sequence[str]) -> str:
    """The folder's name; of several voices, with that of the voice."""
    stem = PurePosixPath(voice.replace("%25", "%")).stem
    return (upload.name if len(voices) == 1 else f"{upload.name}: {stem}")[:200]


async def kind_of(inbox: Inbox, file: File) -> Kind:
    """Whether a file is an image or a sound: by its name, else by its first bytes."""
    told = [kind for end, kind in _ENDS if end.search(file.key)]
    if told or file.size == 0:
        return told[0] if told else ""
    head = b"".join([chunk async for chunk in inbox.store.stream(file.key, length=min(HEAD, file.size))])
    content_type = sniff(head)[1]
    if content_type.startswith("image/"):
        return "image"
    return "audio" if content_type.startswith(("audio/", "video/")) else ""


async def _read_job(inbox: Inbox, upload: Upload) -> dict[str, Any]:
    """What job.json says, if there is one."""
    key = inbox.folder(upload.name) + JOB
    if all(file.key != key for file in upload.files):
        return {}
    blob = await inbox.store.get(key, max_bytes=LARGEST_JOB)
    try:
        asked = json.loads(blob.data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"job.json cannot be read: {error}. Nothing was sent or spent.") from None
    if not isinstance(asked, dict):
        raise InvalidInput(
            'job.json is not a JSON object such as {"prompt": "…"}. Nothing was sent or spent.'
        )
    return {name: value for name, value in asked.items() if value is not None}


def _portrait(inbox: Inbox, upload: Upload, asked: dict[str, Any], kinds: dict[str, Kind]) -> str:
    if "portrait" in asked:
        return _named(inbox, upload, asked["portrait"], "portrait")
    images = [key for key, kind in kinds.items() if kind == "image"]
    called = [key for key in images if PurePosixPath(key).stem.lower() == "portrait"]
    chosen = called if len(images) > 1 else images
    if len(chosen) == 1:
        return inbox.address(chosen[0])
    if not images:
        raise MissingFile("its portrait (an image)")
    raise MissingFile(f"a name: which of its {len(images)} images is the portrait? Call that one portrait")


def _voices(inbox: Inbox, upload: Upload, asked: dict[str, Any], kinds: dict[str, Kind]) -> list[str]:
    if "voice" in asked:
        return [_named(inbox, upload, asked["voice"], "voice")]
    sounds = [key for key, kind in kinds.items() if kind == "audio"]
    if not sounds:
        raise MissingFile("its voice (a sound file)")
    return [inbox.address(key) for key in sounds]


def _named(inbox: Inbox, upload: Upload, source: object, what: str) -> str:
    """An address as it is, a file of the upload by its key. A path would be one of the worker's machine: refused."""
    if not isinstance(source, str) or not source:
        raise InvalidInput(f"job.json: {what} must be the name of a file. Nothing was sent or spent.")
    if source.lower().startswith("s3://") or is_link(source):
        return source
    name = source.removeprefix("./")
    if "://" in name or name.startswith(("/", "~")) or ".." in name.split("/"):
        raise InvalidInput(
            f"job.json: the {what} {source[:200]!r} is neither a file of this folder nor an s3:// or https:// address. "
            "Nothing was sent or spent."
        )
    key = inbox.folder(upload.name) + name
    if all(file.key != key for file in upload.files):
        raise MissingFile(f"the {what} that its job.json names, {source[:200]!r}")
    return inbox.address(key)

"""What lies in the inbox, and what is written down of an upload that a flow run has taken."""

import hashlib
import json
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from pydantic import Field

from tasks.errors import InvalidInput
from tasks.forms import Model
from tasks.settings import InboxSettings
from tasks.storage.objects import LONGEST_KEY, Stat, check_readable
from tasks.storage.store import Store
from tasks.workspace import Workspace

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


class Ending(StrEnum):
    DONE = "done"  #: every row has its video
    FAILED = "failed"  #: will not pass by itself
    LATER = "later"  #: stays in the inbox, and is taken again


class Taken(Model):
    """An upload taken by a flow run. Whoever creates number *seq* has it; only that run writes it again."""

    name: str
    signature: str
    seq: int = Field(1, ge=1)
    owner: str = Field(description="id of the flow run")
    token: str = Field(description="unique, so that a run recognises its own after a lost answer")
    files: tuple[File, ...]
    rows: tuple[dict[str, Any], ...] = Field((), description="one job each, as in a manifest")
    fault: str = Field("", description="why it cannot be rendered as it is")
    failures: int = Field(0, description="runs that ended without a verdict, or with a failure that may pass")
    delays: int = Field(0, description="times it was put off because something has to happen first")
    ending: Ending | None = None
    told: str = Field("", description="what is filed beside it, or why it stays")
    folder: str = Field("", description="where it is filed")
    wait_seconds: float = Field(60.0, description="not to be taken over sooner after this was written")


@dataclass(frozen=True)
class Waiting:
    """An upload that is not taken, and what it waits for."""

    name: str
    why: str
    age: float
    signature: str


@dataclass(frozen=True)
class Filed:
    """How an upload ended."""

    name: str
    ending: Ending
    where: str
    told: str
    billed: str = ""
    changed: bool = False

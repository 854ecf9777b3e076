"""From bucket notifications to events: what stores say about new objects, and what Prefect is told of uploads.

Nothing in a notification is ever fetched. What is noted is in memory only: the sweep finds every upload without it.
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar
from urllib.parse import unquote_plus
from uuid import UUID, uuid5

import httpx
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from avatar.errors import AvatarError, InvalidInput
from avatar.inbox.uploads import Inbox, Upload, file_of, in_turns, is_manifest, is_usable, read_contents
from avatar.local import prefect_client
from avatar.store.objects import check_readable

_BUCKETS = "/buckets/"


@dataclass(frozen=True)
class WrittenObject:
    """An object that was written."""

    bucket: str
    key: str


class _Part(BaseModel):
    """A part of a notification. What stores say beyond that is theirs, and null is as good as absent."""

    model_config = ConfigDict(alias_generator=to_camel, extra="ignore", frozen=True)


class _Bucket(_Part):
    name: str = Field(min_length=1)


class _Object(_Part):
    key: str = Field(min_length=1)


class _S3(_Part):
    bucket: _Bucket
    object: _Object


class _Record(_Part):
    event_name: str
    s3: _S3


class _S3Notification(BaseModel):
    #: A test of the connection (`s3:TestEvent`) has none.
    records: list[_Record] = Field([], alias="Records")


class _Entry(BaseModel):
    name: str = ""
    is_directory: bool = False


class _Message(BaseModel):
    new_entry: _Entry | None = None
    new_parent_path: str = ""


class _FilerNotification(BaseModel):
    key: str = Field(min_length=1)
    message: _Message


def from_s3(body: bytes) -> list[WrittenObject]:
    """Read a notification of MinIO or S3, which have the same form.

    https://docs.aws.amazon.com/AmazonS3/latest/userguide/notification-content-structure.html

    Raises:
        InvalidInput: it is no such notification.
    """
    records = _read(_S3Notification, body).records
    return [_written(record.s3) for record in records if "ObjectCreated:" in record.event_name]


def from_filer(body: bytes) -> list[WrittenObject]:
    """Read a message of SeaweedFS's filer (as weed 4.48 sends it): a path, and the entry as it is now, if there is one.

    Raises:
        InvalidInput: it is no such message.
    """
    notification = _read(_FilerNotification, body)
    entry = notification.message.new_entry
    if entry is None or entry.is_directory:
        return []
    # After a rename `key` is the old path.
    parent = notification.message.new_parent_path
    path = f"{parent}/{entry.name}" if parent and entry.name else notification.key
    bucket, _, key = path.removeprefix(_BUCKETS).partition("/")
    return [WrittenObject(bucket, key)] if path.startswith(_BUCKETS) and key else []


def uploads_in(written: Iterable[WrittenObject], bucket: str, prefix: str) -> set[str]:
    """Names of the uploads that changed. `inbox/.done/…` and its like are ours; what lies in no folder is no upload."""
    names = set()
    for each in written:
        upload, _, rest = each.key.removeprefix(prefix).partition("/")
        inside = each.bucket == bucket and each.key.startswith(prefix)
        if inside and rest and not upload.startswith(".") and _is_readable(each.key):
            names.add(upload)
    return names


def _is_readable(key: str) -> bool:
    """Whether the store can be asked for it: one that fails on a key would be asked for ever."""
    try:
        check_readable(key)
    except InvalidInput:
        return False
    return True


def _written(s3: _S3) -> WrittenObject:
    return WrittenObject(s3.bucket.name, unquote_plus(s3.object.key))


def _read(model: type[Any], body: bytes) -> Any:
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        fault = error.errors(include_input=False, include_url=False, include_context=False)[0]
        where = ".".join(str(part) for part in fault["loc"])
        raise InvalidInput(f"This is not a notification: {where or 'body'}: {fault['msg']}.") from None


# What lies in the inbox, as far as the bridge has to know: which uploads there are, and which are whole.
class WaitingUploads:
    """The folders of the inbox that wait to be taken."""

    def __init__(self, inbox: Inbox) -> None:
        self.inbox = inbox

    async def names(self) -> list[str]:
        """All of them, whole or not. Raises `StoreUnavailable`."""
        prefix = self.inbox.prefix
        found = await self.inbox.store.list(prefix, recursive=False)
        folders = [stat.key.removeprefix(prefix)[:-1] for stat in found if stat.key.endswith("/")]
        # One that the store cannot be asked for would have it asked for ever.
        return [name for name in folders if name and name[0] != "." and is_usable(f"{prefix}{name}/file")]

    async def states(self, names: Iterable[str]) -> dict[str, str]:
        """Of those that a run can do something with, what tells each from an earlier one by the same name.

        One with a fault is among them: the run files it away with the reason. Raises `StoreUnavailable`.
        """
        found = await in_turns(self._state, names)
        return {name: state for name, state in found if state}

    async def _state(self, name: str) -> tuple[str, str]:
        upload = await self._find(name)
        whole = upload is not None and not (await read_contents(self.inbox, upload)).missing
        # The same files dropped again have the same signature, but another time.
        return name, f"{upload.signature} {upload.modified.isoformat()}" if upload and whole else ""

    async def _find(self, name: str) -> Upload | None:
        """The upload as it is now; None if it is gone, or a manifest makes it a batch's."""
        listed = await self.inbox.store.list(self.inbox.folder(name))
        stats = [stat for stat in listed if not stat.key.endswith("/")]
        if not stats or any(is_manifest(stat.key) for stat in stats):
            return None
        modified = max(stat.modified for stat in stats)
        age = (datetime.now(UTC) - modified).total_seconds()
        return Upload(name, tuple(file_of(stat) for stat in stats), modified, age)


EVENT = "avatar.inbox.settled"
RESOURCE = {"prefect.resource.id": "avatar.inbox"}
_T = TypeVar("_T")
_NAMESPACE = UUID("1f6f2a3e-6d0e-5d1b-9a53-5d3c6f2d8a11")
#: Seconds for which whole uploads wait for others that still arrive, to go with them in one event.
BURST_SECONDS = 5.0
#: Uploads in one event; the flow it starts takes parameters of up to 512 KB.
MOST_IN_EVENT = 500
#: Uploads remembered, waiting or told; the sweep finds those beyond.
MOST_REMEMBERED = 10_000
#: Seconds between attempts while Prefect or the store is away: doubled each time, up to the last.
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0
#: Answers that say the event itself is at fault: it would be refused for ever, and hold up the others.
_HOPELESS = frozenset({400, 413, 422})


@dataclass
class UploadEvents:
    """Tells Prefect of uploads once they are quiet and whole, in one event for each burst.

    Attributes:
        api_url: where Prefect is, with its `/api`.
        settle_seconds: how long an upload has to be quiet.
        say: called when Prefect or the store goes away and comes back, not each time one is tried.
        waiting: uploads that changed and were not told of, with the time of their last change (monotonic seconds).
    """

    uploads: WaitingUploads
    api_url: str
    settle_seconds: float
    say: Callable[[str], None]
    waiting: dict[str, float] = field(default_factory=dict)
    _told: dict[str, str] = field(default_factory=dict)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _trouble: str = ""

    def note(self, names: Iterable[str], now: float | None = None) -> None:
        """These uploads changed."""
        at = time.monotonic() if now is None else now
        for name in names:
            _remember(self.waiting, name, at)
        self._changed.set()

    async def run(self) -> None:
        """Work until cancelled, beginning with what was dropped while nobody listened."""
        await self._until_done(self.look_around)
        while True:
            self._changed.clear()
            wait = await self._until_done(self.step)
            with suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._changed.wait()

    async def look_around(self, now: float) -> None:
        """Note every upload in the inbox. Raises `StoreUnavailable`."""
        self.note(await self.uploads.names(), now)

    async def step(self, now: float) -> float | None:
        """Do what can be done now; returns in how many seconds there is more to do, None if only a change brings more.

        Raises:
            httpx.HTTPError: Prefect did not take an event. Its uploads go on waiting.
            StoreUnavailable: the inbox could not be looked at. Nothing was forgotten.
        """
        if not self.waiting:
            return None
        quiet = {name: at + self.settle_seconds for name, at in self.waiting.items()}
        begin = min(max(quiet.values()), min(quiet.values()) + BURST_SECONDS)
        if begin > now:
            return begin - now
        due = sorted(name for name, at in quiet.items() if at <= now)[:MOST_IN_EVENT]
        await self._tell({name: self.waiting[name] for name in due})
        return 0

    async def _tell(self, due: Mapping[str, float]) -> None:
        """Send one event about those that are whole and news; the others are forgotten until they change again."""
        states = await self.uploads.states(due)
        news = {name: state for name, state in states.items() if self._told.get(name) != state}
        if news:
            await self._send(upload_event(news))
        for name, state in news.items():
            _remember(self._told, name, state)
        for name, at in due.items():
            if self.waiting.get(name) == at:  # else it changed while it was looked at
                del self.waiting[name]

    async def _send(self, event: Mapping[str, Any]) -> None:
        try:
            await asyncio.to_thread(prefect_client.emit, self.api_url, json.dumps([event]))
        except httpx.HTTPStatusError as error:
            if error.response.status_code not in _HOPELESS:
                raise
            self.say(f"Prefect refused an event, and the sweep has to find its uploads: {error}")

    async def _until_done(self, call: Callable[[float], Awaitable[_T]]) -> _T:
        """Try until it succeeds, at growing intervals."""
        pause = FIRST_PAUSE
        while True:
            try:
                done = await call(time.monotonic())
            except (AvatarError, httpx.HTTPError, httpx.InvalidURL) as error:
                self._report(f"{error}" or type(error).__name__)
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
            else:
                self._report("")
                return done

    def _report(self, trouble: str) -> None:
        if trouble and not self._trouble:
            self.say(f"Uploads wait until Prefect can be told of them: {trouble}")
        elif self._trouble and not trouble:
            self.say("Prefect can be told of uploads again.")
        self._trouble = trouble


def _remember(among: dict[str, _T], name: str, value: _T) -> None:
    """Put it last, and forget the first beyond `MOST_REMEMBERED`."""
    among.pop(name, None)
    among[name] = value
    if len(among) > MOST_REMEMBERED:
        del among[next(iter(among))]


def upload_event(states: Mapping[str, str]) -> dict[str, Any]:
    """The event that tells of uploads in these states. Its id follows from them: sent twice, Prefect takes it once."""
    told = sorted(states.items())
    return {
        "id": str(uuid5(_NAMESPACE, json.dumps(told))),
        "occurred": datetime.now(UTC).isoformat(),
        "event": EVENT,
        "resource": RESOURCE,
        "payload": {"uploads": [name for name, _ in told]},
    }

"""The journal: the append-only record of every render, and the source of truth about money.

`journal/<render_id>/<seq>.json` is written with a conditional create only and never rewritten. Whoever creates
entry *seq* owns that step; everybody else reads it and follows. `TRANSITIONS` is the whole state machine.

Each paid request of a render is an attempt. An attempt writes only after its own entries: a holder that lost its turn
keeps a request id that it still gets beside the journal, as `journal/<render_id>/strays/<digest>.json`.
"""

import asyncio
import hashlib
import json
import logging
import math
import os
import re
import socket
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, TypeVar

from pydantic import Field, ValidationError

from avatar.errors import AvatarError, ObjectNotFound, StoreUnavailable
from avatar.models import KLING_AVATAR, ProviderName, RemoteVideo, Render, Stored, Submission
from avatar.money.journal_cache import SIGN_SECONDS, Seen
from avatar.store.store import Store
from avatar.waiting import LONG, Moment, patiently

log = logging.getLogger("avatar.journal")


class RenderState(StrEnum):
    INTENT = "intent"  #: a holder is about to send, or is sending, the paid request
    NOT_SENT = "not_sent"  #: it provably never left; nothing was charged
    REFUSED = "refused"  #: the provider refused it; nothing was charged
    UNKNOWN = "unknown"  #: the answer was lost; it may have been accepted and charged
    RESOLVED = "resolved"  #: a person declared that nothing was charged
    SUBMITTED = "submitted"  #: accepted; the request id is known; it will be charged
    RENDERED = "rendered"  #: the provider finished; its result is recorded, the video not yet fetched
    COLLECTED = "collected"  #: the video is in the store
    STALLED = "stalled"  #: accepted, and not to be had by itself: lost, overdue, unreadable or unplayable
    FAILED = "failed"  #: the provider accepted it, then said for certain that it failed


#: Of the entries written here. Format 1 had neither `claim` nor `tries`, and no state `stalled`.
FORMAT = 2

Kept = TypeVar("Kept", bound=Stored)
_S = RenderState
#: Which state may follow which. None is a render nobody has asked for yet.
TRANSITIONS: dict[RenderState | None, frozenset[RenderState]] = {
    None: frozenset({_S.INTENT}),
    # An intent follows an intent only as its own holder's sign of life.
    _S.INTENT: frozenset({_S.INTENT, _S.SUBMITTED, _S.NOT_SENT, _S.REFUSED, _S.UNKNOWN}),
    # Where nothing was charged, a request of an earlier attempt may still turn out to be accepted.
    _S.NOT_SENT: frozenset({_S.INTENT, _S.SUBMITTED}),
    _S.REFUSED: frozenset({_S.INTENT, _S.SUBMITTED}),
    # The holder may come back late with its answer; a person, a webhook or the provider's history may bring the id.
    # A second `unknown` brings an answer that could not be understood, and may name the request.
    _S.UNKNOWN: frozenset({_S.UNKNOWN, _S.SUBMITTED, _S.REFUSED, _S.NOT_SENT, _S.RESOLVED}),
    _S.RESOLVED: frozenset({_S.INTENT, _S.SUBMITTED}),
    _S.SUBMITTED: frozenset({_S.RENDERED, _S.STALLED, _S.FAILED}),
    # A second `rendered` records a result that was fetched anew, or a video that did not play.
    _S.RENDERED: frozenset({_S.RENDERED, _S.COLLECTED, _S.STALLED, _S.FAILED}),
    # The provider may know it again, or a person brings the video or its request, or says that it was not charged.
    _S.STALLED: frozenset({_S.SUBMITTED, _S.RENDERED, _S.COLLECTED, _S.STALLED, _S.FAILED, _S.RESOLVED}),
    _S.COLLECTED: frozenset(),
    _S.FAILED: frozenset({_S.INTENT, _S.SUBMITTED, _S.RENDERED, _S.RESOLVED}),
}


class Failure(Stored):
    """Why a render was refused, failed, is unknown or has stalled."""

    kind: str
    message: str
    status: int | None = None
    billed: bool | None = None
    request_id: str | None = Field(None, description="seen in an answer that could not be trusted")
    retry_after: float | None = None
    answer: str | None = Field(None, description="what came back and could not be understood, verbatim")


class Sent(Stored):
    """What the paid request asks for, as the provider's own pages show it."""

    endpoint: str
    model: str = KLING_AVATAR
    prompt: str
    portrait: str = Field(description="the file's name, in which its content's hash stands")
    voice: str = Field(description="the file's name")
    at: datetime = Field(description="the sender's clock, before it was sent")


class Entry(Stored):
    """One step of one render. The newest entry carries all that is still true, so that it can be read alone."""

    format: int = 1
    render_id: str
    seq: int = Field(ge=1)
    state: RenderState
    at: datetime = Field(description="the writer's clock; order is told by `seq`, age by the store's clock")
    holder: str
    token: str = Field(description="unique, so that a writer recognises its own entry after a lost answer")
    lease_seconds: float
    provider: ProviderName
    job_id: str
    quoted: Decimal
    claimed_on: str | None = Field(None, description="UTC day of the budget the sum is claimed on")
    claim: str | None = Field(None, description="the claim's object; entries of format 1 name none")
    attempt: int = Field(1, ge=1, description="how many paid requests were begun for this render")
    sent: Sent | None = None
    tries: int = Field(0, ge=0, description="how often its video was fetched and did not play")
    submission: Submission | None = None
    failure: Failure | None = None
    remote: RemoteVideo | None = Field(
        None, description="the provider's result with its raw payload, verbatim"
    )
    render: Render | None = None
    settled_by: str | None = None


class Stray(Stored):
    """A request that was accepted for an attempt which had lost its turn. It is paid for, and nothing follows it."""

    format: int = 1
    render_id: str
    job_id: str
    attempt: int
    holder: str
    at: datetime
    quoted: Decimal
    submission: Submission

    @property
    def key(self) -> str:
        digest = hashlib.sha256(self.submission.request_id.encode()).hexdigest()[:32]
        return f"{stray_prefix(self.render_id)}{digest}.json"


@dataclass(frozen=True)
class Record:
    """An entry as it stands in the store, with its age by the store's clock (None: the store gave no clock)."""

    entry: Entry
    age: float | None
    strays: bool = False  #: whether requests were accepted that the journal does not follow

    @property
    def state(self) -> RenderState:
        return self.entry.state

    @property
    def lease_expired(self) -> bool:
        """Whether the holder has given no sign of life for longer than its lease. Unknown age: alive."""
        return self.age is not None and self.age > self.entry.lease_seconds


class IllegalTransition(AvatarError):
    """A step that `TRANSITIONS` does not allow: a defect, stopped before it is recorded."""


class EntryUnreadable(StoreUnavailable):
    """An entry that was written by another version, or damaged. `data`: what stands there."""

    data: bytes = b""


def new_holder() -> str:
    """Who writes: host, process, and a random part because process numbers come again."""
    return f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"


def render_prefix(render_id: str) -> str:
    return f"journal/{render_id}/"


def stray_prefix(render_id: str) -> str:
    return f"journal/{render_id}/strays/"


def _settled_key(key: str) -> str:
    return key.removesuffix(".json") + ".settled.json"


_ENTRY = re.compile(r"journal/[^/]+/[0-9]+\.json")
_STRAY = re.compile(r"journal/[^/]+/strays/[0-9a-f]+\.json")


def open_key(render_id: str) -> str:
    """Index of renders not at rest, so that reconciling need not read the whole journal."""
    return f"open/{render_id}.json"


#: Put there by `avatar repair`: what was stored before the indexes were kept is in them.
INDEXED = "index/complete.json"


async def is_indexed(store: Store) -> bool:
    """Whether every video and request of this store is indexed. Raises `StoreUnavailable`."""
    return await store.exists(INDEXED) is not None


def request_key(provider: ProviderName, request_id: str) -> str:
    """Index of the requests that providers accepted. The id may be anything: it is named by its digest."""
    digest = hashlib.sha256(request_id.encode()).hexdigest()[:32]
    return f"index/requests/{provider}.{digest}.json"


class Journal:
    """Reads and appends. All methods raise `StoreUnavailable` if the store fails: never "not there"."""

    def __init__(self, store: Store, *, lease_seconds: float, holder: str | None = None) -> None:
        self.store = store
        self.lease_seconds = lease_seconds
        self.holder = holder or new_holder()
        self._seen = Seen()

    async def head(self, render_id: str) -> Record | None:
        """The newest entry, or None if nobody has asked for this render yet."""
        entries, strays = await self._keys(render_id)
        if entries:
            return replace(await self._read(entries[-1]), strays=bool(strays))
        self._seen.nothing(render_id)
        return None

    async def last_seen(self, render_id: str, *, within: float = math.inf) -> Record | None:
        """The entry that this process wrote last, if that was within so many seconds and is under way; else as `head`.

        Others may have gone on since. Whoever writes after it is told so, since no entry is written twice, and looks anew.
        """
        seen = self._seen.newest(render_id, within)
        under_way = seen is not None and seen.state in {RenderState.SUBMITTED, RenderState.RENDERED}
        return seen if under_way else await self.head(render_id)

    def seemed_new(self, render_id: str) -> bool:
        """Whether this process looked within a minute and found that nobody had asked for this render."""
        return self._seen.was_nothing(render_id)

    async def history(self, render_id: str) -> tuple[Record, ...]:
        """All entries, oldest first."""
        if seen := self._seen.whole(render_id):
            return seen
        entries, _ = await self._keys(render_id)
        return tuple(await asyncio.gather(*(self._read(key) for key in entries)))

    async def strays(self, render_id: str) -> tuple[Stray, ...]:
        """Requests that were accepted and that the journal does not follow."""
        _, keys = await self._keys(render_id)
        blobs = await asyncio.gather(*(self.store.get(key) for key in keys))
        return tuple(self._parse(Stray, key, blob.data) for key, blob in zip(keys, blobs, strict=True))

    async def keep_stray(self, stray: Stray) -> None:
        """Keep a request id that the journal has no place for; the same one again changes nothing."""
        await self.keep_open(stray.render_id)
        await self.store.create(stray.key, stray.model_dump_json().encode())

    async def settle_stray(self, stray: Stray, by: str) -> None:
        """The journal follows it now, or a person has settled it. Nothing of the journal is ever removed."""
        note = json.dumps({"settled_by": by}).encode()
        await self.store.put(_settled_key(stray.key), note, content_type="application/json")

    async def _keys(self, render_id: str) -> tuple[list[str], list[str]]:
        """Keys of its entries, oldest first, and of its strays."""
        keys = [stat.key for stat in await self.store.list(render_prefix(render_id))]
        beside = {key for key in keys if _STRAY.fullmatch(key)}
        strays = [key for key in sorted(beside) if _settled_key(key) not in keys]
        return [key for key in keys if _ENTRY.fullmatch(key)], strays

    async def open_renders(self) -> list[str]:
        """Ids of renders that were begun and are not known to be at rest."""
        stats = await self.store.list("open/")
        names = (stat.key.removeprefix("open/").removesuffix(".json") for stat in stats)
        return [name for name in names if "/" not in name]

    async def keep_open(self, render_id: str) -> None:
        """Index a render that is not at rest; again, as its run's sign of life."""
        await self.store.put(open_key(render_id), b"{}", content_type="application/json")
        self._seen.signs[render_id] = Moment.now()

    async def give_sign(self, render_id: str) -> None:
        """`keep_open`, unless this process did so within `SIGN_SECONDS`."""
        last = self._seen.signs.get(render_id)
        if last is None or last.passed > SIGN_SECONDS:
            await self.keep_open(render_id)

    async def idle_for(self, render_id: str) -> float:
        """Seconds since the last sign of life of a run that follows this render, by the store's clock."""
        stat = await self.store.exists(open_key(render_id))
        return 0.0 if stat is None or stat.age is None else stat.age

    async def keep_request(self, submission: Submission) -> None:
        """Index whose request this is; the first render that holds it is the one that is told."""
        body = json.dumps(
            {"format": 1, "render_id": submission.render_id, "request_id": submission.request_id}
        )
        await self.store.create(request_key(submission.provider, submission.request_id), body.encode())

    async def render_of_request(self, provider: ProviderName, request_id: str) -> str | None:
        """The render that holds a request, as far as the index knows."""
        try:
            blob = await self.store.get(request_key(provider, request_id))
            return str(json.loads(blob.data)["render_id"])
        except ObjectNotFound:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise StoreUnavailable(f"The index of request {request_id} cannot be read: {error}.") from None

    async def begin(
        self,
        after: Record | None,
        *,
        render_id: str,
        job_id: str,
        provider: ProviderName,
        quoted: Decimal,
        claim: str | None = None,
        sent: Sent | None = None,
    ) -> Record | None:
        """Write the intent that must stand before a paid request. None: somebody else was first."""
        await patiently(lambda: self.keep_open(render_id))
        entry = self._entry(
            after,
            state=RenderState.INTENT,
            render_id=render_id,
            job_id=job_id,
            provider=provider,
            quoted=quoted,
            claim=claim,
            sent=sent,
            claimed_on=claim.split("/")[1] if claim else None,
            attempt=after.entry.attempt + 1 if after else 1,
        )
        return await self._create(after, entry, pauses=LONG)

    async def append(self, after: Record, state: RenderState, **facts: Any) -> Record | None:
        """Write the next step with `facts` (fields of `Entry`). None: somebody else wrote it first."""
        entry = self._entry(after, state=state, **facts)
        return await self._create(after, entry)

    async def close(self, render_id: str) -> None:
        """Take a render that is at rest out of the index. The journal itself stays."""
        self._seen.signs.pop(render_id, None)
        await self.store.remove(open_key(render_id))

    def _entry(self, after: Record | None, **facts: Any) -> Entry:
        carried = after.entry.model_dump() if after else {}
        if facts["state"] is RenderState.INTENT and after and after.state is not RenderState.INTENT:
            carried |= dict.fromkeys(("submission", "failure", "remote", "render", "settled_by"))
            carried |= {"tries": 0}
        fresh = {
            "seq": after.entry.seq + 1 if after else 1,
            "at": datetime.now(UTC),
            "holder": self.holder,
            "format": max(FORMAT, carried.get("format", 1)),
            "token": uuid.uuid4().hex,
            "lease_seconds": self.lease_seconds,
        }
        return Entry.model_validate(carried | fresh | facts)

    async def _create(
        self, after: Record | None, entry: Entry, *, pauses: Sequence[float] = ()
    ) -> Record | None:
        if entry.state not in TRANSITIONS[after.state if after else None]:
            raise IllegalTransition(
                f"Render {entry.render_id} cannot go from {after.state if after else 'nothing'} to {entry.state}.",
                render_id=entry.render_id,
            )
        key = f"{render_prefix(entry.render_id)}{entry.seq:06d}.json"
        body = entry.model_dump_json().encode()
        before = self._seen.pop(entry.render_id)
        # The same bytes each time: an earlier try whose answer was lost is recognised as our own.
        won = await patiently(lambda: self.store.create(key, body), pauses)
        if won:
            self._seen.wrote(before, Record(entry, age=0.0))
        if won and entry.submission and entry.state is RenderState.SUBMITTED:
            await self._index(entry.submission)
        return Record(entry, age=0.0) if won else None

    async def _index(self, submission: Submission) -> None:
        """The receipt is written: that it is not indexed is no reason to fail. Open renders are read without the index."""
        try:
            await self.keep_request(submission)
        except StoreUnavailable as error:
            log.warning(
                "Request %s is not indexed (`avatar repair` does it): %s", submission.request_id, error
            )

    async def _read(self, key: str) -> Record:
        blob = await self.store.get(key)
        return Record(self._parse(Entry, key, blob.data), age=blob.stat.age)

    @staticmethod
    def _parse(kind: type[Kept], key: str, data: bytes) -> Kept:
        try:
            return kind.model_validate_json(data)
        except ValidationError as error:
            unreadable = EntryUnreadable(
                f"Journal entry {key} cannot be read ({error.error_count()} faults), so nothing is sent for it. "
                "It was written by another version of avatar-flows, or damaged."
            )
            unreadable.data = data
            raise unreadable from error


def transitions_table(states: Iterable[RenderState | None] = TRANSITIONS) -> str:
    """The state machine as a Markdown table, for the documentation."""
    rows = [
        f"| {state or '(nothing)'} | {', '.join(sorted(TRANSITIONS[state])) or '– (at rest)'} |"
        for state in states
    ]
    return "\n".join(["| from | to |", "| --- | --- |", *rows])

"""The journal: the append-only record of every render, and the source of truth about money.

`journal/<render_id>/<seq>.json` is written with a conditional create only and never rewritten. Whoever creates
entry *seq* owns that step; everybody else reads it and follows. `TRANSITIONS` is the whole state machine.
"""

import asyncio
import os
import socket
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any

from pydantic import Field, ValidationError

from avatar.errors import AvatarError, StoreUnavailable
from avatar.models import Model, ProviderName, RemoteVideo, Render, Submission
from avatar.store.store import Store


class RenderState(StrEnum):
    INTENT = "intent"  #: a holder is about to send, or is sending, the paid request
    NOT_SENT = "not_sent"  #: it provably never left; nothing was charged
    REFUSED = "refused"  #: the provider refused it; nothing was charged
    UNKNOWN = "unknown"  #: the answer was lost; it may have been accepted and charged
    RESOLVED = "resolved"  #: a person declared that nothing was charged
    SUBMITTED = "submitted"  #: accepted; the request id is known; it will be charged
    RENDERED = "rendered"  #: the provider finished; its result is recorded, the video not yet fetched
    COLLECTED = "collected"  #: the video is in the store
    FAILED = "failed"  #: the provider accepted it, then said for certain that it failed


_S = RenderState
#: Which state may follow which. None is a render nobody has asked for yet.
TRANSITIONS: dict[RenderState | None, frozenset[RenderState]] = {
    None: frozenset({_S.INTENT}),
    # An intent follows an intent only as its own holder's sign of life.
    _S.INTENT: frozenset({_S.INTENT, _S.SUBMITTED, _S.NOT_SENT, _S.REFUSED, _S.UNKNOWN}),
    _S.NOT_SENT: frozenset({_S.INTENT}),
    _S.REFUSED: frozenset({_S.INTENT}),
    # The holder may come back late with its answer; a person or a webhook may bring the request id.
    _S.UNKNOWN: frozenset({_S.SUBMITTED, _S.REFUSED, _S.NOT_SENT, _S.RESOLVED}),
    _S.RESOLVED: frozenset({_S.INTENT, _S.SUBMITTED}),
    _S.SUBMITTED: frozenset({_S.RENDERED, _S.FAILED}),
    # A second `rendered` records a result that was fetched anew because its URL had expired.
    _S.RENDERED: frozenset({_S.RENDERED, _S.COLLECTED, _S.FAILED}),
    _S.COLLECTED: frozenset(),
    _S.FAILED: frozenset({_S.INTENT, _S.RESOLVED}),
}


class Failure(Model):
    """Why a render was refused, failed or is unknown."""

    kind: str
    message: str
    status: int | None = None
    billed: bool | None = None
    request_id: str | None = Field(None, description="seen in an answer that could not be trusted")
    retry_after: float | None = None


class Entry(Model):
    """One step of one render. The newest entry carries all that is still true, so that it can be read alone."""

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
    attempt: int = Field(1, ge=1, description="how many paid requests were begun for this render")
    submission: Submission | None = None
    failure: Failure | None = None
    remote: RemoteVideo | None = Field(
        None, description="the provider's result with its raw payload, verbatim"
    )
    render: Render | None = None
    settled_by: str | None = None


@dataclass(frozen=True)
class Record:
    """An entry as it stands in the store, with its age by the store's clock (None: the store gave no clock)."""

    entry: Entry
    age: float | None

    @property
    def state(self) -> RenderState:
        return self.entry.state

    @property
    def lease_expired(self) -> bool:
        """Whether the holder has given no sign of life for longer than its lease. Unknown age: alive."""
        return self.age is not None and self.age > self.entry.lease_seconds


class IllegalTransition(AvatarError):
    """A step that `TRANSITIONS` does not allow: a defect, stopped before it is recorded."""


def new_holder() -> str:
    """Who writes: host, process, and a random part because process numbers come again."""
    return f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"


def render_prefix(render_id: str) -> str:
    return f"journal/{render_id}/"


def open_key(render_id: str) -> str:
    """Index of renders not at rest, so that reconciling need not read the whole journal."""
    return f"open/{render_id}.json"


class Journal:
    """Reads and appends. All methods raise `StoreUnavailable` if the store fails: never "not there"."""

    def __init__(self, store: Store, *, lease_seconds: float, holder: str | None = None) -> None:
        self.store = store
        self.lease_seconds = lease_seconds
        self.holder = holder or new_holder()

    async def head(self, render_id: str) -> Record | None:
        """The newest entry, or None if nobody has asked for this render yet."""
        stats = await self.store.list(render_prefix(render_id))
        return await self._read(stats[-1].key) if stats else None

    async def history(self, render_id: str) -> tuple[Record, ...]:
        """All entries, oldest first."""
        stats = await self.store.list(render_prefix(render_id))
        return tuple(await asyncio.gather(*(self._read(stat.key) for stat in stats)))

    async def open_renders(self) -> list[str]:
        """Ids of renders that were begun and are not known to be at rest."""
        stats = await self.store.list("open/")
        return [stat.key.removeprefix("open/").removesuffix(".json") for stat in stats]

    async def keep_open(self, render_id: str) -> None:
        """Index a render that is not at rest; again, as its run's sign of life."""
        await self.store.put(open_key(render_id), b"{}", content_type="application/json")

    async def idle_for(self, render_id: str) -> float:
        """Seconds since the last sign of life of a run that follows this render, by the store's clock."""
        stat = await self.store.exists(open_key(render_id))
        return 0.0 if stat is None or stat.age is None else stat.age

    async def begin(
        self,
        after: Record | None,
        *,
        render_id: str,
        job_id: str,
        provider: ProviderName,
        quoted: Decimal,
        claimed_on: str | None = None,
    ) -> Record | None:
        """Write the intent that must stand before a paid request. None: somebody else was first."""
        await self.keep_open(render_id)
        entry = self._entry(
            after,
            state=RenderState.INTENT,
            render_id=render_id,
            job_id=job_id,
            provider=provider,
            quoted=quoted,
            claimed_on=claimed_on,
            attempt=after.entry.attempt + 1 if after else 1,
        )
        return await self._create(after, entry)

    async def append(self, after: Record, state: RenderState, **facts: Any) -> Record | None:
        """Write the next step with `facts` (fields of `Entry`). None: somebody else wrote it first."""
        entry = self._entry(after, state=state, **facts)
        return await self._create(after, entry)

    async def close(self, render_id: str) -> None:
        """Take a render that is at rest out of the index. The journal itself stays."""
        await self.store.remove(open_key(render_id))

    def _entry(self, after: Record | None, **facts: Any) -> Entry:
        carried = after.entry.model_dump() if after else {}
        if facts["state"] is RenderState.INTENT and after and after.state is not RenderState.INTENT:
            carried |= dict.fromkeys(("submission", "failure", "remote", "render", "settled_by"))
        fresh = {
            "seq": after.entry.seq + 1 if after else 1,
            "at": datetime.now(UTC),
            "holder": self.holder,
            "token": uuid.uuid4().hex,
            "lease_seconds": self.lease_seconds,
        }
        return Entry.model_validate(carried | fresh | facts)

    async def _create(self, after: Record | None, entry: Entry) -> Record | None:
        if entry.state not in TRANSITIONS[after.state if after else None]:
            raise IllegalTransition(
                f"Render {entry.render_id} cannot go from {after.state if after else 'nothing'} to {entry.state}.",
                render_id=entry.render_id,
            )
        key = f"{render_prefix(entry.render_id)}{entry.seq:06d}.json"
        won = await self.store.create(key, entry.model_dump_json().encode())
        return Record(entry, age=0.0) if won else None

    async def _read(self, key: str) -> Record:
        blob = await self.store.get(key)
        try:
            return Record(Entry.model_validate_json(blob.data), age=blob.stat.age)
        except ValidationError as error:
            raise StoreUnavailable(
                f"Journal entry {key} cannot be read ({error.error_count()} faults), so nothing is sent for it. "
                "It was written by another version of avatar-flows, or damaged."
            ) from error


def transitions_table(states: Iterable[RenderState | None] = TRANSITIONS) -> str:
    """The state machine as a Markdown table, for the documentation."""
    rows = [
        f"| {state or '(nothing)'} | {', '.join(sorted(TRANSITIONS[state])) or '– (at rest)'} |"
        for state in states
    ]
    return "\n".join(["| from | to |", "| --- | --- |", *rows])

"""The journal: the append-only record of every render, and the source of truth about money.

`journal/<render_id>/<seq>.json` is written with a conditional create only and never rewritten. Whoever creates
entry *seq* owns that step; everybody else reads it and follows. `TRANSITIONS` (`entries.py`) is the whole state machine.

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
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, TypeVar

from pydantic import ValidationError

from avatar.errors import ObjectNotFound, StoreUnavailable
from avatar.models import Submission
from avatar.money.entries import (
    FORMAT,
    TRANSITIONS,
    Entry,
    IllegalTransition,
    Record,
    RenderState,
    Sent,
    Stray,
    render_prefix,
)
from avatar.store.store import Store
from avatar.stored_models import ProviderName, Stored
from avatar.waiting import LONG, Moment, patiently

log = logging.getLogger("avatar.journal")


Kept = TypeVar("Kept", bound=Stored)

#: For how many seconds a process believes that nobody has asked for a render; how often it gives a sign of life.
BELIEVED_SECONDS, SIGN_SECONDS = 60.0, 20.0
#: Renders of which a process remembers what it wrote.
MOST_SEEN = 500


class Seen:
    """What one process wrote of renders itself, so that it need not ask the store for it: of the last `MOST_SEEN`."""

    def __init__(self) -> None:
        self._written: dict[str, tuple[Record, ...]] = {}
        self._when: dict[str, Moment] = {}
        self.signs: dict[str, Moment] = {}

    def nothing(self, render_id: str) -> None:
        """The store said that there is no entry."""
        self._keep(render_id, ())

    def was_nothing(self, render_id: str) -> bool:
        recent = render_id in self._when and self._when[render_id].passed < BELIEVED_SECONDS
        return recent and not self._written[render_id]

    def wrote(self, before: tuple[Record, ...], record: Record) -> None:
        """An entry was written by this process after those that it had written before."""
        follows = bool(before) and before[-1].entry.seq == record.entry.seq - 1
        self._keep(record.entry.render_id, (*(before if follows else ()), record))

    def newest(self, render_id: str, within: float) -> Record | None:
        written = self._written.get(render_id)
        return written[-1] if written and self._when[render_id].passed < within else None

    def whole(self, render_id: str) -> tuple[Record, ...]:
        """Every entry up to a collected video, after which none follows; nothing if others wrote some of them."""
        written = self._written.get(render_id, ())
        ended = bool(written) and written[-1].state == "collected"
        return written if ended and written[0].entry.seq == 1 else ()

    def pop(self, render_id: str) -> tuple[Record, ...]:
        """Forget it: whether the next entry gets written is not known yet."""
        self._when.pop(render_id, None)
        return self._written.pop(render_id, ())

    def _keep(self, render_id: str, written: tuple[Record, ...]) -> None:
        self.pop(render_id)
        while len(self._written) >= MOST_SEEN:
            self.pop(next(iter(self._written)))
        self._written[render_id], self._when[render_id] = written, Moment.now()


class EntryUnreadable(StoreUnavailable):
    """An entry that was written by another version, or damaged. `data`: what stands there."""

    data: bytes = b""


def new_holder() -> str:
    """Who writes: host, process, and a random part because process numbers come again."""
    return f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"


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

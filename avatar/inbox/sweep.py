"""One sweep through the inbox: what is ready is taken, what waits is told of, what was left half filed is finished."""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from avatar.batch.check import require_provider
from avatar.errors import AvatarError, Refused
from avatar.inbox.finish import file_away
from avatar.inbox.upload_owner import (
    Ending,
    Filed,
    IsAlive,
    LatestNote,
    Taken,
    Waiting,
    note_taken,
    read_notes,
    remove_notes,
)
from avatar.inbox.uploads import (
    TAKEN,
    WAITING,
    Contents,
    FoundUploads,
    Inbox,
    Upload,
    in_turns,
    list_settled_uploads,
    list_uploads,
    read_contents,
)
from avatar.stored_models import ProviderName

log = logging.getLogger("avatar.inbox")

#: Uploads taken by one run; the next sweep takes others.
MOST_UPLOADS = 200
#: Names told of files that lie beside the folders.
NAMED = 10

_FILED = {Ending.DONE, Ending.FAILED}
Notes = Mapping[str, LatestNote | None]
Ready = tuple[Upload, Contents]


@dataclass(frozen=True)
class SweepResult:
    """What a sweep came to.

    Attributes:
        taken: uploads that are this run's to render.
        filed: uploads whose filing another run had left half done.
        waiting: uploads that wait for something, told for the first time.
    """

    taken: tuple[Taken, ...] = ()
    filed: tuple[Filed, ...] = ()
    waiting: tuple[Waiting, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.taken or self.filed or self.waiting)


class Sweep:
    """Looks through the inbox for one flow run.

    Args:
        inbox: where uploads are dropped.
        owner: id of the flow run.
        is_alive: tells whether another flow run is still at work, by its id.
    """

    def __init__(self, inbox: Inbox, owner: str, is_alive: IsAlive) -> None:
        self.inbox, self.owner, self._is_alive = inbox, owner, is_alive
        self._known = {owner: True}

    async def run(self, wait_seconds: float = 0) -> SweepResult:
        """Take what is ready; a run that was stopped gets what it had taken, and nothing else.

        Raises:
            StoreUnavailable: the store failed. What was taken so far is found again by this run.
        """
        found = await list_settled_uploads(self.inbox, wait_seconds)
        notes = await read_notes(self.inbox) if TAKEN in found.ours else {}
        filed = await self._finish_filing(notes)
        mine = [each.taken for each in notes.values() if each and self._is_mine(each.taken)]
        if mine:
            return SweepResult(sort_uploads(mine), filed)
        busy = await self._busy_names(notes)
        await remove_notes(self.inbox, await self._gone(found, notes))
        ready, waiting = await self._ready([each for each in found.uploads if each.name not in busy], notes)
        taken = await self._take(ready, notes)
        return SweepResult(sort_uploads(taken), filed, await self._tell(found, waiting))

    async def due(self, quiet_seconds: float) -> set[str]:
        """What a run would do something about, by names of its own: empty if it would find nothing. Changes nothing.

        Args:
            quiet_seconds: an upload that nobody had yet counts once nothing in it changed for this long.

        Raises:
            StoreUnavailable: the store failed.
        """
        found = await list_uploads(self.inbox)
        notes = await read_notes(self.inbox) if TAKEN in found.ours else {}
        due = {f"filing {taken.signature}" for taken in await self._half_filed(notes)}
        due |= {f"gone {signature}" for signature in await self._gone(found, notes)}
        busy = await self._busy_names(notes)
        ready, waiting = await self._ready([each for each in found.uploads if each.name not in busy], notes)
        for upload, _ in ready:
            before = _before(notes, upload)
            if before or upload.age >= quiet_seconds:
                due.add(f"upload {upload.signature} {before.seq if before else 0}")
        wanted, old = await self._notices(found, waiting)
        return due | {f"notice {key}" for key in wanted.keys() ^ old}

    def _is_mine(self, taken: Taken) -> bool:
        return taken.owner == self.owner and taken.ending is None

    async def _alive(self, owner: str) -> bool:
        if owner not in self._known:
            self._known[owner] = await self._is_alive(owner)
        return self._known[owner]

    async def _finish_filing(self, notes: Notes) -> tuple[Filed, ...]:
        filed = [await self._file(taken) for taken in await self._half_filed(notes)]
        return tuple(each for each in filed if each is not None)

    async def _half_filed(self, notes: Notes) -> list[Taken]:
        return [
            each.taken
            for each in notes.values()
            if each
            and each.taken.ending in _FILED
            and (each.taken.owner == self.owner or not await self._alive(each.taken.owner))
        ]

    async def _file(self, taken: Taken) -> Filed | None:
        """None if it cannot be moved now; that keeps no other upload from being taken."""
        try:
            return await file_away(self.inbox, taken)
        except AvatarError as error:
            log.warning("%s cannot be filed yet: %s", taken.name, error)
            return None

    async def _busy_names(self, notes: Notes) -> set[str]:
        """Folders that a run is at work on, or that are being filed: only then are they taken again, as they are then."""
        known = [each.taken for each in notes.values() if each and each.taken.ending is not Ending.LATER]
        return {taken.name for taken in known if taken.ending in _FILED or await self._alive(taken.owner)}

    async def _gone(self, found: FoundUploads, notes: Notes) -> list[str]:
        """Notes on uploads that were changed or removed by their user; they count for nothing any more."""
        there = {each.signature for each in found.uploads}
        return [
            signature
            for signature, each in notes.items()
            if each
            and signature not in there
            and each.taken.ending not in _FILED
            and not await self._alive(each.taken.owner)
        ]

    async def _ready(self, uploads: Sequence[Upload], notes: Notes) -> tuple[list[Ready], list[Waiting]]:
        free = [each for each in uploads if await self._is_free(notes, each.signature)]
        settled = [each for each in free if each.age >= self.inbox.settings.settle_seconds]
        read = await in_turns(self._read, settled)
        waiting = [each for each in read if isinstance(each, Waiting)]
        ready = [
            (upload, each) for upload, each in zip(settled, read, strict=True) if isinstance(each, Contents)
        ]
        return ready, waiting

    async def _take(self, ready: Sequence[Ready], notes: Notes) -> list[Taken]:
        before = {each.signature: _before(notes, each) for each, _ in ready}
        # What may have killed its run is taken alone, so that it takes no other with it again.
        fresh = [pair for pair in ready if not _is_suspect(before[pair[0].signature])]
        chosen = fresh[:MOST_UPLOADS] or list(ready[:1])
        taken = await in_turns(
            lambda pair: note_taken(self.inbox, *pair, self.owner, before[pair[0].signature]), chosen
        )
        return [each for each in taken if each is not None]

    async def _is_free(self, notes: Notes, signature: str) -> bool:
        if signature not in notes:
            return True
        note_of_it = notes[signature]
        return note_of_it is not None and note_of_it.rested and not await self._alive(note_of_it.taken.owner)

    async def _read(self, upload: Upload) -> Contents | Waiting:
        """Its jobs, or what it waits for."""
        why = ""
        if upload.unusable is not None:
            why = f"another name for {upload.unusable[:200]!r}, which cannot be moved as it is"
            return self._waiting(upload, why)
        contents = await read_contents(self.inbox, upload)
        why = contents.missing or await self._unfit(contents)
        return self._waiting(upload, why) if why else contents

    @staticmethod
    def _waiting(upload: Upload, why: str) -> Waiting:
        return Waiting(upload.name, why, upload.age, upload.signature)

    async def _unfit(self, contents: Contents) -> str:
        """Why a provider that is asked for cannot be used at all: a key is missing, or the store is unfit."""
        asked = {(str(row.get("provider") or ""), str(row.get("model") or "")) for row in contents.rows}
        for name, model in asked:
            if name and name not in set(ProviderName):
                continue  # told as a fault of the row
            try:
                await require_provider(
                    self.inbox.workspace, ProviderName(name) if name else None, model or None
                )
            except Refused as error:
                return f"settings: {error} {error.hint or ''}".strip()
        return ""

    async def _tell(self, found: FoundUploads, waiting: Sequence[Waiting]) -> tuple[Waiting, ...]:
        """Leave a note for everything that waits for long, once, and remove those of what waits no more."""
        keys, old = await self._notices(found, waiting)
        for key in old - keys.keys():
            await self.inbox.store.remove(key)
        for key in keys.keys() - old:
            text = f"{describe(self.inbox, keys[key])}\n"
            await self.inbox.store.put(key, text.encode(), content_type="text/plain; charset=utf-8")
        return tuple(each for key, each in keys.items() if key not in old)

    async def _notices(
        self, found: FoundUploads, waiting: Sequence[Waiting]
    ) -> tuple[dict[str, Waiting], set[str]]:
        """By the keys of their notes: what waits for long, and what it was left one for."""
        due = [each for each in waiting if each.age >= self.inbox.settings.report_after_seconds]
        if found.loose and found.loose.age >= self.inbox.settings.report_after_seconds:
            due.append(_loose(self.inbox, found.loose))
        keys = {notice_key(self.inbox, each): each for each in due}
        old = set[str]()
        if WAITING in found.ours:
            old = {stat.key for stat in await self.inbox.store.list(self.inbox.prefix + WAITING)}
        return keys, old


def _before(notes: Notes, upload: Upload) -> Taken | None:
    note_of_it = notes.get(upload.signature)
    return note_of_it.taken if note_of_it else None


def _is_suspect(before: Taken | None) -> bool:
    """Whether the runs that had it ended without a word of it, more than once."""
    return before is not None and before.ending is None and before.failures > 0


def _loose(inbox: Inbox, loose: Upload) -> Waiting:
    names = [file.key.removeprefix(inbox.prefix) for file in loose.files]
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    why = f"a folder: {', '.join(names[:NAMED])}{more} beside the folders; put each portrait and its voice into one"
    return Waiting("", why, loose.age, loose.signature)


def describe(inbox: Inbox, waiting: Waiting) -> str:
    """What an upload waits for, in one line. Nothing of it was moved."""
    where = inbox.folder(waiting.name) if waiting.name else inbox.prefix
    return f"{where} waits for {waiting.why}. Nothing was moved, sent or spent."


def notice_key(inbox: Inbox, waiting: Waiting) -> str:
    name = re.sub(r"[^A-Za-z0-9._=-]", "_", waiting.name)[:80] or "no-folder"
    return f"{inbox.prefix}{WAITING}{name}-{waiting.signature[:8]}.txt"


def sort_uploads(taken: Sequence[Taken]) -> tuple[Taken, ...]:
    """The same for the same uploads, so that a run that goes on finds its batch, and its approval."""
    return tuple(sorted(taken, key=lambda each: (each.name, each.signature)))

"""One flow run for each upload: the notes by which runs tell each other what they have taken."""

import logging
import uuid
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pydantic import Field, ValidationError

from avatar.errors import ObjectNotFound
from avatar.inbox.uploads import TAKEN, Contents, File, Inbox, Upload, in_turns, read_signature
from avatar.stored_models import Stored


class Ending(StrEnum):
    DONE = "done"  #: every row has its video
    FAILED = "failed"  #: will not pass by itself
    LATER = "later"  #: stays in the inbox, and is taken again


class Taken(Stored):
    """An upload taken by a flow run. Whoever creates number *seq* has it; only that run writes it again."""

    name: str
    signature: str
    seq: int = Field(1, ge=1)
    owner: str = Field(description="id of the flow run")
    token: str = Field(description="unique, so that a run recognises its own after a lost answer")
    files: tuple[File, ...]
    rows: tuple[dict[str, Any], ...] = Field((), description="one job each, as in a manifest")
    fault: str = Field("", description="why it cannot be rendered as it is")
    failures: int = Field(0, description="runs that ended without a word, or with a failure that may pass")
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


log = logging.getLogger("avatar.inbox")

#: Tells whether a flow run, by its id, still works on what it took, or will go on with it. Raises if nobody knows.
IsAlive = Callable[[str], Awaitable[bool]]

#: Runs that may end without a word on an upload, or with a failure that may pass.
MOST_FAILURES = 3
#: Seconds before an upload is tried again after its first, second, … failure.
RETRY_SECONDS = (60.0, 600.0)
#: Seconds before it is tried again when it has to wait for a person or for tomorrow's budget.
DELAY_SECONDS = 900.0
#: Such waits, three days of them.
MOST_DELAYS = 288
#: Largest note that is read, in bytes: thousands of rows.
LARGEST = 64 * 1024 * 1024


@dataclass(frozen=True)
class LatestNote:
    """The newest note on an upload, with its age by the store's clock in seconds (None: the store gave no clock)."""

    taken: Taken
    age: float | None

    @property
    def rested(self) -> bool:
        """Whether it was left alone long enough to be taken again. Unknown age: no."""
        return self.age is not None and self.age >= self.taken.wait_seconds


def note_key(inbox: Inbox, taken: Taken) -> str:
    return f"{inbox.prefix}{TAKEN}{taken.signature}-{taken.seq:06d}.json"


async def read_notes(inbox: Inbox) -> dict[str, LatestNote | None]:
    """The newest note on every upload that was taken, by signature; None for one that cannot be read."""
    stats = await inbox.store.list(inbox.prefix + TAKEN)
    newest = {stat.key.rpartition("/")[2].rpartition("-")[0]: stat.key for stat in stats}
    read = await in_turns(lambda signature: _read(inbox, signature, newest[signature]), newest)
    return {signature: note_of_it for each in read for signature, note_of_it in each.items()}


async def _read(inbox: Inbox, signature: str, key: str) -> dict[str, LatestNote | None]:
    """Empty if another run has removed it meanwhile."""
    try:
        blob = await inbox.store.get(key, max_bytes=LARGEST)
        return {signature: LatestNote(Taken.model_validate_json(blob.data), blob.stat.age)}
    except ObjectNotFound:
        return {}
    except ValidationError:
        log.warning(
            "%s was written by another version of avatar-flows, or damaged; its upload is left alone.", key
        )
        return {signature: None}


async def note_taken(
    inbox: Inbox, upload: Upload, contents: Contents, owner: str, before: Taken | None
) -> Taken | None:
    """Take an upload for the flow run `owner`. None: another run was first, or it has changed meanwhile.

    Args:
        inbox: where it lies.
        upload: as it was found.
        contents: its jobs, or its fault.
        owner: id of the flow run.
        before: the note of the run that had it before, which is over.
    """
    facts = {"rows": contents.rows, "fault": contents.fault} | (_follow(before) if before else {})
    taken = Taken(
        name=upload.name,
        signature=upload.signature,
        files=upload.files,
        owner=owner,
        token=uuid.uuid4().hex,
        **facts,
    )
    if not await inbox.store.create(note_key(inbox, taken), taken.model_dump_json().encode()):
        return None
    if await read_signature(inbox, upload.name) == upload.signature:
        return taken
    await inbox.store.remove(note_key(inbox, taken))
    return None


def _follow(before: Taken) -> dict[str, object]:
    """What the next note takes over; a run that said nothing of the upload counts as a failure."""
    failures = before.failures + (before.ending is None)
    facts: dict[str, object] = {"seq": before.seq + 1, "failures": failures, "delays": before.delays}
    if failures >= MOST_FAILURES:
        told = before.told or "The run that had it ended without a word of it; see its log in Prefect."
        facts |= {"rows": (), "fault": f"It was given up after {failures} tries. {told}"}
    return facts


def note_waiting(taken: Taken, why: str, *, blameless: bool) -> Taken:
    """The note of an upload that stays in the inbox. Tried too often, it has failed."""
    failures, delays = taken.failures + (not blameless), taken.delays + blameless
    if failures >= MOST_FAILURES or delays >= MOST_DELAYS:
        why = f"It was given up after {failures + delays} tries. {why}"
        return taken.model_copy(update={"ending": Ending.FAILED, "told": why})
    wait = DELAY_SECONDS if blameless else RETRY_SECONDS[min(failures, len(RETRY_SECONDS)) - 1]
    facts = {"failures": failures, "delays": delays, "wait_seconds": wait}
    return taken.model_copy(update={"ending": Ending.LATER, "told": why, **facts})


async def note_end(inbox: Inbox, taken: Taken) -> bool:
    """Write down how an upload of ours ended. False: another run has taken it over, and it is theirs now."""
    stats = await inbox.store.list(f"{inbox.prefix}{TAKEN}{taken.signature}-")
    if not stats or stats[-1].key != note_key(inbox, taken):
        return False
    await inbox.store.put(
        note_key(inbox, taken), taken.model_dump_json().encode(), content_type="application/json"
    )
    return True


async def remove_notes(inbox: Inbox, signatures: Iterable[str]) -> None:
    """Remove every note on uploads that are filed or gone, the newest last: it says how far they are."""
    for signature in signatures:
        for stat in await inbox.store.list(f"{inbox.prefix}{TAKEN}{signature}-"):
            await inbox.store.remove(stat.key)

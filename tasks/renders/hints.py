"""Hints: what a webhook leaves in the store. A hint moves nothing by itself; the provider's API is asked.

`hints/<render_id>.<attempt>.<digest of the request id>.json` says that a webhook about that paid request came in. It
makes whoever waits for the render look at once, and it gives an unknown render its request id: confirmed by the API
and held by no other render, that id is attached as a person would do it with `avatar resolve`.
"""

import asyncio
import hashlib
import logging
import re
from datetime import datetime
from typing import Any

from pydantic import Field, ValidationError

from tasks.errors import AvatarError, InvalidInput, ObjectNotFound, StoreUnavailable, Transient
from tasks.forms import Model
from tasks.models import ProviderName, Submission
from tasks.renders.confirm import confirm_request
from tasks.storage.journal import Record, RenderState
from tasks.workspace import Workspace

log = logging.getLogger("avatar.webhooks")

PREFIX = "hints/"
#: Hints kept for one paid request. One is usual; more come only from somebody who knows the address.
MOST = 8
#: Heads of the journal read together when a request id is looked for.
ABREAST = 64
#: States in which a request id that a webhook brings is news. `resolved`: a person erred, and the render is paid for.
OPEN_ENDED = frozenset({RenderState.UNKNOWN, RenderState.RESOLVED})
#: States in which a hint is kept: somebody waits, or will.
WANTED = OPEN_ENDED | {RenderState.INTENT, RenderState.SUBMITTED}

#: Ids that a hint may bring. Documented ones are letters, digits, hyphens and underscores.
_REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:=~-]{0,199}")


class Hint(Model):
    """A webhook about one paid request came in. Only its address was verified, and fal's signature."""

    render_id: str
    attempt: int = Field(ge=1)
    provider: ProviderName
    request_id: str | None = Field(None, max_length=200, description="as the webhook's body has it")
    received_at: datetime

    @property
    def key(self) -> str:
        digest = hashlib.sha256((self.request_id or "").encode()).hexdigest()[:16]
        return f"{hint_prefix(self.render_id)}{self.attempt}.{digest}.json"


def hint_prefix(render_id: str) -> str:
    return f"{PREFIX}{render_id}."


def render_of(key: str) -> str:
    """The render that a hint's key names."""
    return key.removeprefix(PREFIX).partition(".")[0]


def plain_id(value: Any) -> str | None:
    """`value` if it has the form of a request id; a stranger may have written it."""
    return value if isinstance(value, str) and _REQUEST_ID.fullmatch(value) else None


async def keep_hint(workspace: Workspace, hint: Hint) -> Record | None:
    """Keep a hint that somebody may wait for; the same one again changes nothing.

    Returns:
        The render as it stands; None if the hint is of no use to it.

    Raises:
        StoreUnavailable: it was not kept; let the provider deliver it again.
    """
    record = await workspace.journal.head(hint.render_id)
    if record is None or not await _is_wanted(workspace, record, hint):
        return None
    prefix = f"{hint_prefix(hint.render_id)}{hint.attempt}."
    kept = [stat.key for stat in await workspace.store.list(prefix)]
    if hint.key in kept:
        return record
    if len(kept) >= MOST:
        log.warning("Render %s: %d hints are kept already; one more is dropped.", hint.render_id, len(kept))
        return None
    await workspace.store.create(hint.key, hint.model_dump_json().encode())
    return record


async def _is_wanted(workspace: Workspace, record: Record, hint: Hint) -> bool:
    followed = record.entry.submission
    if _is_about(hint, record):
        if record.state in WANTED - {RenderState.SUBMITTED}:
            return True
        if followed is not None and hint.request_id in {None, followed.request_id}:
            return record.state is RenderState.SUBMITTED
    if hint.request_id and hint.request_id not in await _request_ids(workspace, hint.render_id):
        log.error(
            "A %s webhook for attempt %d of render %s names request %s, which the journal does not hold. If the "
            "provider's dashboard shows it, it was charged beside the one that is followed.",
            hint.provider, hint.attempt, hint.render_id, hint.request_id,
        )  # fmt: skip
    return False


async def settle_by_hint(workspace: Workspace, record: Record) -> Record:
    """The render, submitted if a webhook brought the request id that it lacks, and the provider confirms it.

    Asked about a render that nobody moves on: one in `OPEN_ENDED`, or an intent whose holder is gone. Never sends a paid request. What cannot be proved now leaves the record as it is, and the hint stays.

    Raises:
        StoreUnavailable: the store failed.
        ProviderUnavailable: a person declared the render not charged, and whether that was wrong cannot be asked now.
    """
    named = [hint for hint in await hints_for(workspace, record) if hint.request_id]
    checked = [(hint, await _confirmed(workspace, record, hint)) for hint in named]
    proved = [(hint, submission) for hint, submission in checked if submission is not None]
    if len(proved) > 1:
        log.error(
            "Webhooks name several requests for render %s: %s. A person must choose (`avatar resolve`).",
            record.entry.render_id, ", ".join(submission.request_id for _, submission in proved),
        )  # fmt: skip
    if len(proved) != 1:
        return record
    return await _attach(workspace, record, *proved[0])


async def hints_for(workspace: Workspace, record: Record) -> list[Hint]:
    """The hints about the newest paid request of a render."""
    stats = await workspace.store.list(f"{hint_prefix(record.entry.render_id)}{record.entry.attempt}.")
    read = [await _read(workspace, stat.key) for stat in stats]
    return [hint for hint in read if hint is not None and _is_about(hint, record)]


def _is_about(hint: Hint, record: Record) -> bool:
    entry = record.entry
    return (hint.render_id, hint.attempt, hint.provider) == (entry.render_id, entry.attempt, entry.provider)


async def _read(workspace: Workspace, key: str) -> Hint | None:
    try:
        return Hint.model_validate_json((await workspace.store.get(key)).data)
    except ObjectNotFound:  # another run has used it up
        return None
    except (ValidationError, InvalidInput):
        log.warning("%s is no hint: it is left alone.", key)
        return None


async def _confirmed(workspace: Workspace, record: Record, hint: Hint) -> Submission | None:
    """The receipt for the hint's request, if the provider knows it under our key and no other render holds it.

    Neither provider's API tells a request's inputs or tags by its id: that it is this render's is proved by the
    address it came to, and for fal by the signature over the body that names it.
    """
    try:
        submission = await confirm_request(workspace, record, str(hint.request_id))
    except AvatarError as error:
        # Before a person's word lets it be paid for anew, the provider must have answered.
        freed = record.state is RenderState.RESOLVED and isinstance(error, Transient)
        if freed or isinstance(error, StoreUnavailable):
            raise
        log.warning("A webhook named request %s for render %s. %s", hint.request_id, hint.render_id, error)
        return None
    holder = await find_holder(workspace, hint)
    if holder is None:
        return submission
    log.error(
        "A webhook for render %s named request %s, which render %s holds: it is dropped.",
        hint.render_id, hint.request_id, holder,
    )  # fmt: skip
    await workspace.store.remove(hint.key)
    return None


async def _attach(workspace: Workspace, record: Record, hint: Hint, submission: Submission) -> Record:
    await workspace.journal.keep_open(hint.render_id)
    settled_by = f"{hint.provider} webhook received {hint.received_at:%Y-%m-%d %H:%M:%S} UTC"
    written = await workspace.journal.append(
        record, RenderState.SUBMITTED, submission=submission, settled_by=settled_by
    )
    if written is not None:
        log.warning("Render %s is request %s, as a webhook told.", hint.render_id, hint.request_id)
    return written or await workspace.journal.head(hint.render_id) or record


async def find_holder(workspace: Workspace, hint: Hint) -> str | None:
    """The render that holds the hint's request id already: another one, or this one in an earlier attempt.

    Reads the newest entry of every render, which is why it is asked only about a render whose answer was lost.
    """
    if hint.request_id in await _request_ids(workspace, hint.render_id):
        return hint.render_id
    stats = await workspace.store.list("journal/")
    others = sorted({stat.key.split("/")[1] for stat in stats} - {hint.render_id})
    for start in range(0, len(others), ABREAST):
        heads = await asyncio.gather(
            *(workspace.journal.head(render_id) for render_id in others[start : start + ABREAST])
        )
        for head in heads:
            held = head.entry.submission if head else None
            if held and (held.provider, held.request_id) == (hint.provider, hint.request_id):
                return held.render_id
    return None


async def _request_ids(workspace: Workspace, render_id: str) -> set[str]:
    history = await workspace.journal.history(render_id)
    return {record.entry.submission.request_id for record in history if record.entry.submission}


async def hinted_renders(workspace: Workspace) -> set[str]:
    """Ids of the renders that webhooks have come in for."""
    return {render_of(stat.key) for stat in await workspace.store.list(PREFIX)}


async def drop_hints(workspace: Workspace, render_id: str) -> None:
    """Remove the hints of a render that nobody waits for any more. One that stays is removed by `reconcile`."""
    try:
        for stat in await workspace.store.list(hint_prefix(render_id)):
            await workspace.store.remove(stat.key)
    except StoreUnavailable as error:
        log.info("The hints of render %s stay for now: %s", render_id, error)

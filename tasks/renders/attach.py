"""Settling a render by what webhooks brought: a request id that its lost answer did not.

Confirmed by the provider's API and held by no other render, the id is attached as a person would do it with
`avatar resolve`.
"""

import asyncio
import logging

from tasks.errors import AvatarError, StoreUnavailable, Transient
from tasks.models import Submission
from tasks.renders.confirm import confirm_request
from tasks.renders.hints import Hint, hints_for, request_ids
from tasks.storage.journal import Record, RenderState
from tasks.workspace import Workspace

log = logging.getLogger("avatar.webhooks")

#: Heads of the journal read together when a request id is looked for.
ABREAST = 64


async def settle_by_hint(workspace: Workspace, record: Record) -> Record:
    """The render, submitted if a webhook brought the request id that it lacks, and the provider confirms it.

    Asked about a render that nobody moves on: one in `OPEN_ENDED`, or an intent whose holder is gone. Never sends a
    paid request. What cannot be proved now leaves the record as it is, and the hint stays.

    Raises:
        StoreUnavailable: the store failed.
        ProviderUnavailable: a person declared the render not charged, and whether that was wrong cannot be asked now.
    """
    named = [hint for hint in await hints_for(workspace.store, record) if hint.request_id]
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
    if hint.request_id in await request_ids(workspace.journal, hint.render_id):
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

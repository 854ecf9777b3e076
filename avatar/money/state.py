"""Where a render stands, after what can be told without sending anything that is paid for."""

import asyncio
import logging

from avatar.errors import AvatarError, InvalidInput, StoreUnavailable, Transient
from avatar.events import about_unknown
from avatar.models import RemoteState, Submission
from avatar.money import receipts
from avatar.money.journal import Failure, Record, RenderState
from avatar.money.webhooks import OPEN_ENDED, Hint, hints_for, request_ids
from avatar.providers.watching import NOT_FOUND
from avatar.workspace import Workspace


# A request id that did not come as an answer to the paid request: the provider is asked whether it knows it.
async def confirm_request(workspace: Workspace, record: Record, request_id: str) -> Submission:
    """The receipt that a lost answer would have been, once the provider says that it knows the request.

    Raises:
        InvalidInput: the provider does not know it.
        ProviderUnavailable: the provider could not be asked; try again.
    """
    submission = Submission(
        render_id=record.entry.render_id,
        provider=record.entry.provider,
        request_id=request_id,
        submitted_at=record.entry.at,
    )
    snapshot = await workspace.provider(submission.provider).poll(submission)
    # Soon after a submit, "not found" is read as "not there yet": here it confirms nothing.
    if snapshot.state is RemoteState.LOST or snapshot.word == NOT_FOUND:
        raise InvalidInput(
            f"{submission.provider} does not know a request {request_id!r}. Nothing was changed.",
            render_id=submission.render_id,
            hint="Copy the request id from the provider's dashboard; check the key and the base URL.",
        )
    return submission


# Settling a render by what webhooks brought: a request id that its lost answer did not.
#
# Confirmed by the provider's API and held by no other render, the id is attached as a person would do it with
# `avatar resolve`.
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


async def current(workspace: Workspace, render_id: str) -> Record | None:
    """Where a render stands, after what can be told without sending anything that is paid for.

    A receipt on this machine, or a webhook that the provider confirms, settles an unknown render; an intent whose
    holder is gone and that neither settles becomes unknown.

    Raises:
        StoreUnavailable: the store failed.
        ProviderUnavailable: a person declared the render not charged, a webhook says otherwise, and the provider
            cannot be asked now.
    """
    record = await workspace.journal.head(render_id)
    if record is None or record.state not in OPEN_ENDED | {RenderState.INTENT}:
        return record
    if record.state is RenderState.INTENT and not record.lease_expired:
        return record
    receipt = await receipts.find_new(workspace.settings.state_dir, workspace.journal, render_id)
    if receipt is not None:
        written = await workspace.journal.append(record, RenderState.SUBMITTED, submission=receipt)
        if written is None:  # somebody wrote at the same moment; the receipt still holds
            return await current(workspace, render_id)
        receipts.drop(workspace.settings.state_dir, render_id)
    elif (settled := await settle_by_hint(workspace, record)) is not record:
        return settled
    elif record.state is RenderState.INTENT:
        written = await workspace.journal.append(record, RenderState.UNKNOWN, failure=_silent_holder(record))
        if written is not None:
            workspace.post(about_unknown(written))
    else:
        return record
    return written or await workspace.journal.head(render_id)


def _silent_holder(record: Record) -> Failure:
    return Failure(
        kind="holder_gone",
        message=f"{record.entry.holder} wrote its intent and gave no sign of life for {record.age or 0:.0f} s.",
    )

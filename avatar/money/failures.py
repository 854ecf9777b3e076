"""How a render ends without a video: confirmed by a second witness, written down, and told with the next step."""

import logging
from datetime import timedelta
from typing import NoReturn

from avatar import waiting
from avatar.errors import (
    OutcomeUnknown,
    ProviderFailure,
    RenderFailed,
    StillRendering,
    Transient,
)
from avatar.events import about_stalled
from avatar.models import RemoteState, Snapshot, Submission
from avatar.money.entries import TRANSITIONS, Entry, Failure, Record, RenderState
from avatar.option_names import named
from avatar.providers.outcome import remedy
from avatar.workspace import Workspace

log = logging.getLogger("avatar.money")

#: Seconds between looks at a failure that no status word names: it may be the gateway's, about the question.
WORDLESS = (2.0, 5.0, 10.0)
#: Seconds before a result that tells of a failure, beside a status that names none, is asked for again.
SECOND_LOOK = 2.0


async def result_has_video(workspace: Workspace, record: Record, look: Snapshot) -> bool:
    """Whether a render whose status names a failure has a video all the same.

    Raises:
        RenderFailed: its result, or a second look, says that it failed too; recorded.
        StillRendering: neither does; look again later.
    """
    submission = submission_of(record)
    provider = workspace.provider(submission.provider, submission.model)
    failure = Failure(kind=look.kind or "failed", message=look.message, billed=look.billed)
    for pause in () if look.word else WORDLESS:
        await waiting.rest(pause)
        if (await provider.poll(submission)).state is not RemoteState.FAILED:
            raise _not_done(record)
    try:
        await provider.collect(submission)
    except RenderFailed as error:
        await record_failure(workspace, record, failure_of(error, failure))
    except (Transient, ProviderFailure) as error:
        log.info("The result of render %s says nothing: %s", record.entry.render_id, error)
    else:
        return True
    if (await provider.poll(submission)).state is RemoteState.FAILED:
        await record_failure(workspace, record, failure)
    raise _not_done(record)


def _not_done(record: Record) -> StillRendering:
    render_id = record.entry.render_id
    return StillRendering(f"Render {render_id} is not done yet.", render_id=render_id)


async def confirm_failure(workspace: Workspace, record: Record, error: RenderFailed) -> None:
    """Record a failure that the result told of, if the status says that the render has ended.

    Where the status names no failure, the result must tell of it twice.

    Raises:
        RenderFailed: it does; recorded.
        StillRendering: it does not; look again later.
        ProviderUnavailable: it could not be asked.
    """
    submission = submission_of(record)
    provider = workspace.provider(submission.provider, submission.model)
    look = await provider.poll(submission)
    if look.state is RemoteState.DONE and not look.kind:
        await waiting.rest(SECOND_LOOK)
        try:
            await provider.collect(submission)
        except RenderFailed as again:
            await record_failure(workspace, record, failure_of(again))
        raise _not_done(record)
    if look.state in {RemoteState.DONE, RemoteState.FAILED}:
        await record_failure(workspace, record, failure_of(error))
    raise StillRendering(
        f"The result of render {record.entry.render_id} tells of a failure, and its status does not: {error}",
        render_id=record.entry.render_id,
    )


def failure_of(error: RenderFailed, also: Failure | None = None) -> Failure:
    billed = error.billed if error.billed is not None or also is None else also.billed
    kind = error.kind if error.kind != RenderFailed.kind or also is None else also.kind
    return Failure(kind=kind, message=str(error), billed=billed)


async def record_failure(workspace: Workspace, record: Record, failure: Failure) -> NoReturn:
    """Record that the provider failed the render for certain, and raise it."""
    entry = record.entry
    failed: Record | None = record
    if RenderState.FAILED in TRANSITIONS[record.state]:
        failed = await workspace.journal.append(record, RenderState.FAILED, failure=failure)
    failed = failed or await workspace.journal.head(entry.render_id) or record
    if failed.state is not RenderState.FAILED:
        raise StillRendering(f"Render {entry.render_id} is {failed.state} by now.", render_id=entry.render_id)
    if failed.entry.failure is not None and failed.entry.failure.billed is False:
        await release_claim(workspace, failed.entry)
    await workspace.journal.close(entry.render_id)
    raise_failed(failed)


async def release_claim(workspace: Workspace, entry: Entry) -> None:
    """Give back what was set aside for a render that is not charged."""
    if entry.claim is not None:
        await workspace.budget.release(entry.claim)
    else:
        await workspace.budget.release_old(entry.claimed_on, entry.render_id)


async def give_up(
    workspace: Workspace, record: Record, kind: str, message: str, *, answer: str | None = None
) -> Record:
    """Record that an accepted render is not to be had by itself, and tell. Its request id stays, and is looked at now and then."""
    before = (
        record.entry.failure.kind if record.state is RenderState.STALLED and record.entry.failure else None
    )
    if before == kind or RenderState.STALLED not in TRANSITIONS[record.state]:
        return record
    failure = Failure(kind=kind, message=message, answer=answer)
    written = await workspace.journal.append(record, RenderState.STALLED, failure=failure)
    if written is None:
        return await workspace.journal.head(record.entry.render_id) or record
    await workspace.journal.keep_open(record.entry.render_id)
    workspace.notify(about_stalled(written))
    return written


def raise_unknown(record: Record) -> NoReturn:
    """Tell a person what may have been charged, and how to find out."""
    entry = record.entry
    why = entry.failure.message if entry.failure else "the answer was lost."
    seen = entry.failure.request_id if entry.failure else None
    raise OutcomeUnknown(
        f"Whether {entry.provider} accepted render {entry.render_id} is not known: {why} Up to ${entry.quoted:.2f} may "
        f"have been charged. It is not sent again by itself. {where_to_look(entry)}",
        provider=entry.provider,
        render_id=entry.render_id,
        cost_at_risk=entry.quoted,
        request_id=seen,
        hint=f"avatar resolve {entry.render_id} --request-id {seen or 'ID'}; --not-charged only if the provider shows no "
        "such request.",
    )


def where_to_look(entry: Entry) -> str:
    """What the provider's own pages show of a request: endpoint, time, prompt and the names of its files."""
    sent = entry.sent
    if sent is None:  # written by format 1
        return f"Look on the provider's dashboard for a request made around {entry.at:%Y-%m-%d %H:%M:%S} UTC."
    until = sent.at + timedelta(seconds=entry.lease_seconds)
    prompt = sent.prompt if len(sent.prompt) <= 80 else f"{sent.prompt[:79]}…"  # noqa: PLR2004 - a line's worth
    return (
        f"Look on the provider's dashboard for a request to {sent.endpoint or entry.provider} made between "
        f"{sent.at:%Y-%m-%d %H:%M:%S} and {until:%H:%M:%S} UTC with the prompt {prompt!r} and the files {sent.portrait} and "
        f"{sent.voice}."
    )


def raise_failed(record: Record) -> NoReturn:
    entry, failure = record.entry, record.entry.failure
    kind, message = (failure.kind, failure.message) if failure else ("failed", "no reason given")
    billed = failure.billed if failure else None
    raise RenderFailed(
        f"{entry.provider} failed render {entry.render_id} ({kind}): {message.rstrip('.')}. "
        + ("It was not charged." if billed is False else f"Up to ${entry.quoted:.2f} may have been charged.")
        + " It is not sent again by itself.",
        provider=entry.provider,
        render_id=entry.render_id,
        request_id=entry.submission.request_id if entry.submission else None,
        cost_at_risk=None if billed is False else entry.quoted,
        hint=remedy(kind, entry.provider)
        + ("" if billed is False else f" Or ask for another take: {named('take')}."),
        kind=kind,
        billed=billed,
    )


def submission_of(record: Record) -> Submission:
    if record.entry.submission is None:  # narrowed by the caller; a defect otherwise
        raise StillRendering(
            f"Render {record.entry.render_id} has no submission.", render_id=record.entry.render_id
        )
    return record.entry.submission

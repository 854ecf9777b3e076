"""What a person can do about one render: settle it where its outcome is unknown, or have it stopped at the provider."""

import contextlib
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from avatar.errors import InvalidInput, RenderFailed
from avatar.models import CancelOutcome, RemoteVideo
from avatar.money.entries import Failure, Record, RenderState
from avatar.money.failures import record_failure, release_claim, where_to_look
from avatar.money.state import attach, confirm_request, look_in_history, read_current
from avatar.workspace import Workspace

# Settle a render whose outcome is unknown: a person, or a webhook, brings what the machine cannot know.
#: States that a person can move on.
_OPEN = {RenderState.UNKNOWN, RenderState.STALLED, RenderState.FAILED}


async def attach_request(workspace: Workspace, render_id: str, request_id: str, *, by: str) -> Record:
    """Attach the provider's request id, after the provider confirmed that it knows it. Spends nothing.

    Raises:
        InvalidInput: there is nothing to settle, or the provider does not know the request id.
        ProviderUnavailable: the provider could not be asked; try again.
    """
    record = await _unsettled(workspace, render_id)
    if record.state is RenderState.FAILED:
        raise InvalidInput(
            f"{record.entry.provider} itself said that render {render_id} failed; a request id cannot change that.",
            hint="--not-charged lets it be asked for again; --video-url brings its video, if there is one after all.",
        )
    submission = await confirm_request(workspace, record, request_id)
    followed = await attach(workspace, record, submission, by)
    return _written(record, followed, followed is not None and followed.entry.submission == submission)


async def attach_video(
    workspace: Workspace, render_id: str, url: str, *, by: str, request_id: str | None = None
) -> Record:
    """Take a person's word for where the video of a render is; `collect` fetches and inspects it. Spends nothing.

    Args:
        workspace: settings, store and journal.
        render_id: a render that is unknown, has stalled, or failed by the provider's word.
        url: the video, as the provider's own pages have it.
        by: who says so.
        request_id: the request that it is the result of, if the journal does not know it.

    Raises:
        InvalidInput: there is nothing to settle, or no request is known.
    """
    record = await _unsettled(workspace, render_id)
    submission = record.entry.submission
    if submission is None:
        if request_id is None:
            raise InvalidInput(
                f"The journal knows no request of render {render_id}.",
                hint=f"avatar resolve {render_id} --video-url URL --request-id ID",
            )
        record = await attach_request(workspace, render_id, request_id, by=by)
        submission = record.entry.submission
    await workspace.journal.keep_open(render_id)
    await workspace.budget.restore(record.entry.claim)
    remote = RemoteVideo(url=url)
    facts = {"remote": remote, "failure": None, "tries": 0, "settled_by": by}
    written = await workspace.journal.append(record, RenderState.RENDERED, **facts)
    return _written(record, written, written is not None)


async def declare_not_charged(
    workspace: Workspace, render_id: str, *, by: str, request_id: str | None = None
) -> Record:
    """Record a person's word that a render was not charged, so that it may be asked for again.

    Args:
        workspace: settings, store and journal.
        render_id: a render that is unknown, has stalled, or failed; or one with a stray request.
        by: who says so.
        request_id: a stray that was refunded; the render itself stays as it is.

    Raises:
        InvalidInput: there is nothing to settle, or the provider's list of requests shows it.
    """
    if request_id is not None:
        return await _settle_stray(workspace, render_id, request_id, by)
    record = await _unsettled(workspace, render_id)
    await _check_history(workspace, record)
    # Its bill goes before the word is written: after it, another run may book its own.
    day = record.entry.claimed_on
    struck = await workspace.budget.strike(day, render_id) if day else []
    written = await workspace.journal.append(record, RenderState.RESOLVED, settled_by=by)
    if written is None:
        for key in struck:
            await workspace.budget.restore(key)
    record = _written(record, written, written is not None)
    await release_claim(workspace, record.entry)
    if not record.strays:
        await workspace.journal.close(render_id)
    return record


async def _settle_stray(workspace: Workspace, render_id: str, request_id: str, by: str) -> Record:
    record = await workspace.journal.head(render_id)
    for stray in await workspace.journal.strays(render_id):
        if record is not None and stray.submission.request_id == request_id:
            await workspace.journal.settle_stray(stray, by)
            return record
    raise InvalidInput(f"Render {render_id} has no stray request {request_id!r}.", render_id=render_id)


async def _check_history(workspace: Workspace, record: Record) -> None:
    """Refuse a word that the provider's own list of requests contradicts."""
    if record.state is not RenderState.UNKNOWN or not (found := await look_in_history(workspace, record)):
        return
    raise InvalidInput(
        f"{record.entry.provider}'s list of requests shows {', '.join(found)} for render {record.entry.render_id}. "
        "Nothing was changed.",
        render_id=record.entry.render_id,
        hint=f"avatar resolve {record.entry.render_id} --request-id {found[0]}",
    )


async def describe_history(workspace: Workspace, render_id: str) -> str:
    """What the provider's list of requests says of a render, for a person who is about to declare it not charged."""
    record = await workspace.journal.head(render_id)
    found = await look_in_history(workspace, record) if record is not None else None
    if record is None or found is None:
        return (
            "The provider's list of requests cannot be read: your word stands alone. If the request was accepted after all, "
            "running its job again pays a second time."
        )
    if found:
        return f"{record.entry.provider}'s list of requests shows {', '.join(found)}."
    return (
        f"{record.entry.provider}'s list of requests does not show it, which proves nothing: it may be incomplete. If the "
        "request was accepted after all, running its job again pays a second time."
    )


async def what_to_look_for(workspace: Workspace, render_id: str) -> str:
    """What a person who is to settle a render can find on the provider's own pages; nothing if it needs no settling."""
    record = await read_current(workspace, render_id)
    if record is None or record.state not in _OPEN:
        return ""
    held = record.entry.submission
    named = f" It is request {held.request_id}." if held else ""
    return f" Render {render_id} is {record.state}.{named} {where_to_look(record.entry)}"


async def _unsettled(workspace: Workspace, render_id: str) -> Record:
    record = await read_current(workspace, render_id)
    if record is None:
        raise InvalidInput(
            f"The journal knows no render {render_id!r}.", hint="`avatar status` lists open renders."
        )
    if record.state in _OPEN:
        return record
    if record.state is RenderState.INTENT:
        age = f"{record.age:.0f} s ago" if record.age is not None else "at a time the store does not tell"
        raise InvalidInput(
            f"Render {render_id} is being submitted by {record.entry.holder} (last sign of life {age}). "
            f"It becomes unknown when {record.entry.lease_seconds:.0f} s pass without one.",
            render_id=render_id,
        )
    raise InvalidInput(
        f"Render {render_id} is {record.state}: there is nothing to settle.", render_id=render_id
    )


def _written(before: Record, after: Record | None, ours: bool) -> Record:
    if after is None or not ours:
        raise InvalidInput(
            f"Render {before.entry.render_id} was settled by somebody else just now.",
            hint="See `avatar status`.",
        )
    return replace(after, strays=before.strays)


def signed_by(person: str) -> str:
    """Who settled it and when, for the journal."""
    return f"{person} at {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"


_WORDS = {
    CancelOutcome.REMOVED: "was taken out of the queue before it started: it is not rendered and not charged",
    CancelOutcome.REQUESTED: "was told to stop, but may finish all the same and then be charged; "
    "if it finishes, its video is fetched",
    CancelOutcome.TOO_LATE: "had already ended: it is charged, and its video is fetched by the next run",
    CancelOutcome.UNSUPPORTED: "goes on, because the provider offers no way to cancel: it will be charged, and its "
    "video is fetched by the next run",
}


@dataclass(frozen=True)
class Cancellation:
    """What came of asking the provider to stop."""

    render_id: str
    request_id: str
    outcome: CancelOutcome
    text: str


async def cancel_render(workspace: Workspace, render_id: str) -> Cancellation:
    """Ask the provider to stop a render. Nothing that was paid for is given up: what finishes is collected.

    Raises:
        InvalidInput: nothing is running for this render.
        ProviderUnavailable: the provider could not be asked.
    """
    record = await workspace.journal.head(render_id)
    if record is None or record.entry.submission is None or record.state is not RenderState.SUBMITTED:
        state = record.state if record else "not known"
        raise InvalidInput(f"Render {render_id} is {state}: there is nothing to cancel.", render_id=render_id)
    submission = record.entry.submission
    outcome = await workspace.provider(submission.provider, submission.model).cancel(submission)
    text = f"Render {render_id} ({submission.provider} request {submission.request_id}) {_WORDS[outcome]}."
    if outcome is CancelOutcome.REMOVED:
        with contextlib.suppress(
            RenderFailed
        ):  # recording a failure raises it; here it is what was asked for
            await record_failure(
                workspace, record, Failure(kind="cancelled", message="cancelled", billed=False)
            )
    return Cancellation(render_id, submission.request_id, outcome, text)

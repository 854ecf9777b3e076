"""Stop a render at the provider, and say honestly whether that saves money."""

import contextlib
from dataclasses import dataclass
from datetime import UTC, datetime

from avatar.errors import InvalidInput, RenderFailed
from avatar.models import CancelOutcome
from avatar.money.follow import record_failure
from avatar.money.journal import Failure, Record, RenderState
from avatar.money.state import confirm_request, current
from avatar.workspace import Workspace


# Settle a render whose outcome is unknown: a person, or a webhook, brings what the machine cannot know.
async def attach_request(workspace: Workspace, render_id: str, request_id: str, *, by: str) -> Record:
    """Attach the provider's request id, after the provider confirmed that it knows it. Spends nothing.

    Raises:
        InvalidInput: there is nothing to settle, or the provider does not know the request id.
        ProviderUnavailable: the provider could not be asked; try again.
    """
    record = await _unsettled(workspace, render_id)
    if record.entry.submission is not None and record.entry.submission.request_id == request_id:
        return record
    submission = await confirm_request(workspace, record, request_id)
    return await _write(workspace, record, RenderState.SUBMITTED, submission=submission, settled_by=by)


async def declare_not_charged(workspace: Workspace, render_id: str, *, by: str) -> Record:
    """Record a person's word that the provider has no such request, so that it may be asked for again.

    Raises:
        InvalidInput: there is nothing to settle.
    """
    record = await _unsettled(workspace, render_id)
    written = await _write(workspace, record, RenderState.RESOLVED, settled_by=by)
    if record.entry.claimed_on is not None:
        await workspace.budget.release(record.entry.claimed_on, render_id)
    await workspace.journal.close(render_id)
    return written


async def _unsettled(workspace: Workspace, render_id: str) -> Record:
    record = await current(workspace, render_id)
    if record is None:
        raise InvalidInput(
            f"The journal knows no render {render_id!r}.", hint="`avatar status` lists open renders."
        )
    failed = record.state is RenderState.FAILED
    if record.state is RenderState.UNKNOWN or failed:
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


async def _write(workspace: Workspace, record: Record, state: RenderState, **facts: object) -> Record:
    if record.state is RenderState.FAILED and state is RenderState.SUBMITTED:
        raise InvalidInput(
            f"{record.entry.provider} itself said that render {record.entry.render_id} failed; a request id cannot "
            "change that.",
            hint="--not-charged lets it be asked for again.",
        )
    written = await workspace.journal.append(record, state, **facts)
    if written is None:
        raise InvalidInput(
            f"Render {record.entry.render_id} was settled by somebody else just now.",
            hint="See `avatar status`.",
        )
    return written


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
    outcome = await workspace.provider(submission.provider).cancel(submission)
    text = f"Render {render_id} ({submission.provider} request {submission.request_id}) {_WORDS[outcome]}."
    if outcome is CancelOutcome.REMOVED:
        with contextlib.suppress(
            RenderFailed
        ):  # recording a failure raises it; here it is what was asked for
            await record_failure(
                workspace, record, Failure(kind="cancelled", message="cancelled", billed=False)
            )
    return Cancellation(render_id, submission.request_id, outcome, text)

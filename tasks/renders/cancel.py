"""Stop a render at the provider, and say honestly whether that saves money."""

import contextlib
from dataclasses import dataclass

from tasks.errors import InvalidInput, RenderFailed
from tasks.models import CancelOutcome
from tasks.renders.follow import record_failure
from tasks.storage.journal import Failure, RenderState
from tasks.workspace import Workspace

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

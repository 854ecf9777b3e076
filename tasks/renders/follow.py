"""Wait for a render at the provider, in windows, without ever losing its request id."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from datetime import UTC, datetime

from tasks.errors import ProviderFailure, RenderLost, StillRendering
from tasks.models import RemoteState, Snapshot, Submission
from tasks.renders.verdicts import raise_failed
from tasks.renders.waking import watch_woken
from tasks.storage.journal import Failure, Record, RenderState
from tasks.workspace import Workspace

OnSnapshot = Callable[[Snapshot, float], Awaitable[None]]


async def follow_render(workspace: Workspace, render_id: str, on_snapshot: OnSnapshot) -> Snapshot:
    """Watch one window long (`AVATAR_POLLING__WINDOW_SECONDS`).

    Args:
        workspace: settings, journal and provider.
        render_id: the render; the journal knows its request.
        on_snapshot: called with each look and the render's age in seconds.

    Raises:
        StillRendering: the window closed first; call again.
        RenderFailed: the provider says that it failed; recorded.
        RenderLost: the provider does not know the request; nothing is recorded, since a wrong address or
            account looks the same.
        ProviderFailure: the deadline passed; the request id is kept and another run continues.
    """
    record = await workspace.journal.head(render_id)
    if record is None or record.entry.submission is None:
        raise RenderLost(f"The journal holds no submission for render {render_id}.", render_id=render_id)
    if record.state in {RenderState.RENDERED, RenderState.COLLECTED}:
        return Snapshot(state=RemoteState.DONE, progress=1.0)
    if record.state is RenderState.FAILED:
        raise_failed(record)
    await workspace.journal.keep_open(render_id)
    snapshot = await _watch(workspace, record, on_snapshot)
    if snapshot is not None and snapshot.state is RemoteState.DONE:
        return snapshot
    await _raise_ended(workspace, record, snapshot)
    raise StillRendering(f"Render {render_id} is not done yet.", render_id=render_id)


async def _watch(workspace: Workspace, record: Record, on_snapshot: OnSnapshot) -> Snapshot | None:
    submission = _submission(record)
    last: Snapshot | None = None
    async with aclosing(_looks(workspace, submission)) as looks:
        async for snapshot in looks:
            last = snapshot
            await on_snapshot(snapshot, age_of(submission))
    return last


async def _looks(workspace: Workspace, submission: Submission) -> AsyncGenerator[Snapshot, None]:
    """The provider's looks for one window; sooner ones when a webhook comes in, if webhooks are asked for."""
    provider, window = workspace.provider(submission.provider), workspace.settings.polling.window_seconds
    if workspace.settings.bridge.public_url is None or not provider.capabilities.webhook:
        async with aclosing(provider.watch(submission, window)) as looks:
            async for snapshot in looks:
                yield snapshot
        return
    with workspace.doorbell.listening(submission.render_id) as rings:
        async with aclosing(watch_woken(provider, submission, window, rings)) as looks:
            async for snapshot in looks:
                yield snapshot


async def _raise_ended(workspace: Workspace, record: Record, snapshot: Snapshot | None) -> None:
    submission = _submission(record)
    if snapshot is not None and snapshot.state is RemoteState.FAILED:
        failure = Failure(kind=snapshot.kind or "failed", message=snapshot.message, billed=snapshot.billed)
        await record_failure(workspace, record, failure)
    if snapshot is not None and snapshot.state is RemoteState.LOST:
        raise RenderLost(
            f"{submission.provider} does not know request {submission.request_id} (any more), although it accepted "
            f"it at {submission.submitted_at:%Y-%m-%d %H:%M} UTC. ${record.entry.quoted:.2f} may have been charged.",
            provider=submission.provider,
            render_id=record.entry.render_id,
            request_id=submission.request_id,
            cost_at_risk=record.entry.quoted,
            hint="Check that the key and the base URL are those it was submitted with, then run again.",
        )
    age = age_of(submission)
    if age > workspace.settings.polling.deadline_seconds:
        raise ProviderFailure(
            f"Render {record.entry.render_id} is not done {age / 60:.0f} minutes after it was submitted. It goes on at "
            f"{submission.provider} as request {submission.request_id}, and is not lost: run the job again to "
            "continue waiting. It is not paid for twice.",
            provider=submission.provider,
            render_id=record.entry.render_id,
            request_id=submission.request_id,
            hint="AVATAR_POLLING__DEADLINE_SECONDS sets how long to wait.",
        )


async def record_failure(workspace: Workspace, record: Record, failure: Failure) -> None:
    """Record that the provider failed the render for certain, and raise it."""
    failed = await workspace.journal.append(record, RenderState.FAILED, failure=failure)
    if failed is None:
        failed = await workspace.journal.head(record.entry.render_id)
    if failure.billed is False and record.entry.claimed_on is not None:
        await workspace.budget.release(record.entry.claimed_on, record.entry.render_id)
    await workspace.journal.close(record.entry.render_id)
    raise_failed(failed or record)


def age_of(submission: Submission) -> float:
    """Seconds since the submit, by this machine's clock (for display and the deadline, not for leases)."""
    return max(0.0, (datetime.now(UTC) - submission.submitted_at).total_seconds())


def _submission(record: Record) -> Submission:
    if record.entry.submission is None:  # narrowed by the caller; a defect otherwise
        raise RenderLost(
            f"Render {record.entry.render_id} has no submission.", render_id=record.entry.render_id
        )
    return record.entry.submission

"""Wait for a render at the provider, in windows, without ever losing its request id."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any

from avatar.errors import (
    ProviderFailure,
    RenderLost,
    StillRendering,
    Transient,
)
from avatar.events import next_step
from avatar.models import RemoteState, Snapshot, Submission
from avatar.money.entries import Record, RenderState
from avatar.money.failures import give_up, raise_failed, result_has_video, submission_of
from avatar.money.journal import SIGN_SECONDS
from avatar.providers.base import Provider
from avatar.providers.polling import ENDED
from avatar.providers.wire import about_render
from avatar.workspace import Workspace


# A look at a render, in one line for people.
def describe_snapshot(snapshot: Snapshot, age: float) -> str:
    """State, place in the queue, per cent, age in seconds, time left: as far as the provider tells."""
    parts = [str(snapshot.state), f"{age:.0f} s since submit"]
    if snapshot.position is not None:
        parts.insert(1, f"position {snapshot.position} in the queue")
    if snapshot.progress is not None:
        parts.insert(1, f"{snapshot.progress:.0%}")
    if snapshot.eta_seconds is not None:
        parts.append(f"about {snapshot.eta_seconds:.0f} s to go")
    return ", ".join(parts)


# Looks at a render, also when a webhook has come in for it.
log = logging.getLogger("avatar.webhooks")

#: Seconds after a note at which the provider is looked at. Its status may lag behind its webhook.
LOOKS = (0.0, 1.0, 3.0)


async def watch_woken(
    provider: Provider, submission: Submission, window: float, called: asyncio.Event
) -> AsyncGenerator[Snapshot]:
    """What `provider.watch` sees, and a few looks of its own whenever `called` is set. Close it to stop early."""
    looks = provider.watch(submission, window)
    pending: asyncio.Future[Any] = asyncio.ensure_future(_next(looks))
    woken: asyncio.Future[Any] = asyncio.ensure_future(called.wait())
    try:
        while True:
            await asyncio.wait({pending, woken}, return_when=asyncio.FIRST_COMPLETED)
            if pending.done():
                if (look := pending.result()) is None:
                    return
                yield look
                pending = asyncio.ensure_future(_next(looks))
                continue
            called.clear()
            woken = asyncio.ensure_future(called.wait())
            async with aclosing(_look_now(provider, submission)) as seen:
                async for snapshot in seen:
                    yield snapshot
                    if snapshot.state in ENDED:
                        return
    finally:
        for waiting in (pending, woken):
            waiting.cancel()
        await asyncio.gather(pending, woken, return_exceptions=True)
        await looks.aclose()


async def _look_now(provider: Provider, submission: Submission) -> AsyncGenerator[Snapshot]:
    for pause in LOOKS:
        await asyncio.sleep(pause)
        try:
            yield await provider.poll(submission)
        except Transient as error:
            log.info("%s Looking again later.", error)


async def _next(looks: AsyncGenerator[Snapshot, None]) -> Snapshot | None:
    return await anext(looks, None)


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
        RenderLost: the provider does not know the request; recorded as stalled once the deadline has passed, since
            a wrong address or account looks the same.
        ProviderFailure: the deadline passed; recorded as stalled. The request id is kept and another run continues.
    """
    record = await workspace.journal.last_seen(render_id, within=SIGN_SECONDS)
    if record is None or record.entry.submission is None:
        raise RenderLost(f"The journal holds no submission for render {render_id}.", render_id=render_id)
    if record.state is RenderState.COLLECTED or record.entry.remote is not None:
        return Snapshot(state=RemoteState.DONE, progress=1.0)
    if record.state is RenderState.FAILED:
        raise_failed(record)
    await workspace.journal.give_sign(render_id)
    return await read_snapshot(workspace, record, await _watch(workspace, record, on_snapshot))


async def _watch(workspace: Workspace, record: Record, on_snapshot: OnSnapshot) -> Snapshot | None:
    submission = submission_of(record)
    last: Snapshot | None = None
    async with aclosing(_looks(workspace, submission)) as looks:
        async for snapshot in looks:
            last = snapshot
            await on_snapshot(snapshot, age_of(submission))
    return last


async def _looks(workspace: Workspace, submission: Submission) -> AsyncGenerator[Snapshot, None]:
    """The provider's looks for one window; sooner ones when a webhook comes in, if webhooks are asked for."""
    provider, window = (
        workspace.provider(submission.provider, submission.model),
        workspace.settings.polling.window_seconds,
    )
    if workspace.settings.bridge.public_url is None or not provider.capabilities.webhook:
        async with aclosing(provider.watch(submission, window)) as looks:
            async for snapshot in looks:
                yield snapshot
        return
    with workspace.webhook_listener.listening(submission.render_id) as called:
        async with aclosing(watch_woken(provider, submission, window, called)) as looks:
            async for snapshot in looks:
                yield snapshot


async def read_snapshot(workspace: Workspace, record: Record, look: Snapshot | None) -> Snapshot:
    """The last look at a render, if it is done. Raises as `follow_render`, and `StillRendering` if it goes on."""
    submission = submission_of(record)
    if look is not None and look.state is RemoteState.DONE:
        return look
    if (
        look is not None
        and look.state is RemoteState.FAILED
        and await result_has_video(workspace, record, look)
    ):
        return Snapshot(state=RemoteState.DONE, progress=1.0)
    overdue = is_overdue(workspace, submission)
    if look is not None and look.state is RemoteState.LOST:
        raise await _lost(workspace, record, overdue=overdue)
    if overdue:
        raise await _overdue(workspace, record, look)
    raise StillRendering(f"Render {submission.render_id} is not done yet.", render_id=submission.render_id)


async def _lost(workspace: Workspace, record: Record, *, overdue: bool) -> RenderLost:
    submission = submission_of(record)
    text = (
        f"{submission.provider} does not know request {submission.request_id} (any more), although it accepted "
        f"it at {submission.submitted_at:%Y-%m-%d %H:%M} UTC. ${record.entry.quoted:.2f} may have been charged."
    )
    if overdue:
        await give_up(workspace, record, "lost", text)
    return about_render(
        submission,
        RenderLost,
        text,
        cost_at_risk=record.entry.quoted,
        hint="Check that the key and the base URL are those it was submitted with, then run again. "
        f"{next_step(submission.render_id)}",
    )


async def _overdue(workspace: Workspace, record: Record, look: Snapshot | None) -> ProviderFailure:
    submission = submission_of(record)
    word = f" Its last status was {look.word!r}." if look and look.word else ""
    text = (
        f"Render {submission.render_id} is not done {age_of(submission) / 60:.0f} minutes after it was submitted. It goes "
        f"on at {submission.provider} as request {submission.request_id}, and is not lost: run the job again to "
        f"continue waiting. It is not paid for twice.{word}"
    )
    await give_up(workspace, record, "overdue", text)
    return about_render(
        submission, ProviderFailure, text, hint="AVATAR_POLLING__DEADLINE_SECONDS sets how long to wait."
    )


def is_overdue(workspace: Workspace, submission: Submission) -> bool:
    """Whether a render should have been done by now (`AVATAR_POLLING__DEADLINE_SECONDS`)."""
    return age_of(submission) > workspace.settings.polling.deadline_seconds


def age_of(submission: Submission) -> float:
    """Seconds since the submit, by this machine's clock (for display and the deadline, not for leases)."""
    return max(0.0, (datetime.now(UTC) - submission.submitted_at).total_seconds())

"""Put straight whatever runs left behind. Polls, collects and classifies; never sends a paid request."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from avatar.errors import AvatarError, ObjectNotFound, RenderFailed
from avatar.events import about_error
from avatar.job.publish import find_video, publish_video
from avatar.models import Plan, RemoteState, Render, Submission
from avatar.money.budget import Claim
from avatar.money.collect import collect_render
from avatar.money.commit import load_plan, unpaid
from avatar.money.journal import Record, RenderState
from avatar.money.quote import order_for
from avatar.money.state import current
from avatar.money.webhooks import WANTED, drop_hints, hinted_renders
from avatar.workspace import Workspace

log = logging.getLogger("avatar.reconcile")

#: Renders looked at together.
ABREAST = 8
#: A claim whose render was never sent is taken for leaked after this long by the store's clock, in seconds: longer
#: than a job waits for its turn.
LEAKED_AFTER = 6 * 3600.0
#: Days back in which leaked claims are looked for.
DAYS_BACK = 7

_AT_REST = {RenderState.NOT_SENT, RenderState.REFUSED, RenderState.RESOLVED, RenderState.FAILED}


@dataclass
class Reconciled:
    """What was found and done, by render or job id."""

    collected: list[str] = field(default_factory=list)
    published: list[str] = field(default_factory=list)
    running: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    settled: list[str] = field(default_factory=list)
    attached: list[str] = field(default_factory=list)
    released: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


def default_idle_seconds(workspace: Workspace) -> float:
    """A run that follows a render gives a sign of life once a polling window."""
    return 2 * workspace.settings.polling.window_seconds + 60


async def reconcile_renders(workspace: Workspace, *, idle_seconds: float | None = None) -> Reconciled:
    """Finish or settle every open render, publish the jobs that became whole, return leaked claims.

    Args:
        workspace: settings, store and journal.
        idle_seconds: renders whose run gave a sign of life within this time, by the store's clock, are left to it.
    """
    found = Reconciled()
    idle = default_idle_seconds(workspace) if idle_seconds is None else idle_seconds
    turn = asyncio.Semaphore(ABREAST)
    hinted = await hinted_renders(workspace.store)

    async def one(render_id: str) -> None:
        async with turn:
            try:
                news = render_id in hinted and await _use_hint(workspace, render_id, found)
                if news or await workspace.journal.idle_for(render_id) >= idle:
                    await _reconcile_render(workspace, render_id, found)
            except AvatarError as error:
                log.warning("Render %s is left as it is: %s", render_id, error)
                found.failed[render_id] = str(error)

    renders = set(await workspace.journal.open_renders()) | hinted
    await asyncio.gather(*(one(render_id) for render_id in sorted(renders)))
    await _return_claims(workspace, found)
    return found


async def _reconcile_render(workspace: Workspace, render_id: str, found: Reconciled) -> None:
    record = await current(workspace, render_id)
    if record is None:
        return  # announced, not begun: its run is about to write the intent, or never will
    if record.state in {RenderState.SUBMITTED, RenderState.RENDERED, RenderState.COLLECTED}:
        await _bring_home(workspace, record, found)
    elif record.state is RenderState.UNKNOWN:
        found.unknown.append(render_id)
    elif record.state in _AT_REST and (record.age is None or record.age > record.entry.lease_seconds):
        await workspace.journal.close(render_id)
        found.settled.append(render_id)


async def _use_hint(workspace: Workspace, render_id: str, found: Reconciled) -> bool:
    """Have a webhook settle a render. True if one did, just now: nobody follows such a render."""
    before = await workspace.journal.head(render_id)
    if before is None or before.state not in WANTED:
        await drop_hints(workspace.store, render_id)
        return False
    record = await current(workspace, render_id)
    submitted = record is not None and record.state is RenderState.SUBMITTED
    if not submitted or before.state is RenderState.SUBMITTED:
        return False
    found.attached.append(render_id)
    return True


async def _bring_home(workspace: Workspace, record: Record, found: Reconciled) -> None:
    render_id = record.entry.render_id
    if record.state is RenderState.SUBMITTED and not await _is_done(workspace, record):
        found.running.append(render_id)
        return
    plan = await _plan_of(workspace, record)
    # The index entry goes when the render is collected, so the job is published first if this was its last one.
    try:
        render = await collect_render(workspace, render_id)
    except RenderFailed as error:  # written down just now, with no run of its job to tell of it
        if notice := about_error(
            error, run=f"{render_id}:{record.entry.attempt}", job_id=record.entry.job_id
        ):
            workspace.post(notice)
        raise
    found.collected.append(render_id)
    if plan is not None and await _publish_if_whole(workspace, plan, render):
        found.published.append(plan.job_id)


async def _is_done(workspace: Workspace, record: Record) -> bool:
    submission: Submission | None = record.entry.submission
    if submission is None:
        return False
    snapshot = await workspace.provider(submission.provider).poll(submission)
    return snapshot.state in {RemoteState.DONE, RemoteState.FAILED}


async def _plan_of(workspace: Workspace, record: Record) -> Plan | None:
    try:
        return await load_plan(workspace, record.entry.job_id)
    except ObjectNotFound:
        return None


async def _publish_if_whole(workspace: Workspace, plan: Plan, last: Render) -> bool:
    """Publish the job if all its renders are in the store. False: some are missing, or it is published."""
    renders = [last] if len(plan.segments) == 1 else await _collected(workspace, plan)
    if len(renders) < len(plan.segments) or await find_video(workspace, plan.job_id):
        return False
    await publish_video(workspace, plan, renders)
    return True


async def _collected(workspace: Workspace, plan: Plan) -> Sequence[Render]:
    heads = [
        await workspace.journal.head(order_for(workspace, plan, segment).render_id)
        for segment in plan.segments
    ]
    return [head.entry.render for head in heads if head is not None and head.entry.render is not None]


async def _return_claims(workspace: Workspace, found: Reconciled) -> None:
    """Give back money that was set aside for renders that were never sent."""
    today = datetime.now(UTC).date()
    for back in range(DAYS_BACK):
        day = f"{today - timedelta(days=back):%Y-%m-%d}"
        claims = await workspace.budget.claims(day)
        for claim in claims:
            if claim.state == "open" and await _is_leaked(workspace, claim):
                await workspace.budget.release(day, claim.render_id)
                found.released.append(claim.render_id)


async def _is_leaked(workspace: Workspace, claim: Claim) -> bool:
    head = await workspace.journal.head(claim.render_id)
    if head is None:
        stat = await workspace.store.exists(claim.key)
        return stat is not None and stat.age is not None and stat.age > LEAKED_AFTER
    if head.state is RenderState.COLLECTED:
        return head.entry.claimed_on != claim.day  # bought under another day's claim, for another job
    return unpaid(head) and head.age is not None and head.age > LEAKED_AFTER


async def finish_render(workspace: Workspace, render_id: str) -> dict[str, str]:
    """Bring one settled render as far as it will go now, and say how far that is."""
    found = Reconciled()
    await _reconcile_render(workspace, render_id, found)
    if found.published:
        return {
            "state": "published",
            "text": f"Render {render_id} is collected; job {found.published[0]} is published.",
        }
    if found.collected:
        return {
            "state": "collected",
            "text": f"Render {render_id} is collected. Run its job again to publish it.",
        }
    return {
        "state": "submitted",
        "text": f"Render {render_id} is still being made. Run its job again, or leave it to `reconcile`.",
    }

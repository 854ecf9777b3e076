"""Put straight whatever runs left behind. Polls, collects, publishes and books; never sends a paid request.

Whatever is wrong with one render, one job or one day is told, and stops none of the others.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from avatar.errors import (
    DownloadFailed,
    ProviderFailure,
    RenderFailed,
    RenderLost,
    StillRendering,
    StoreUnavailable,
    Transient,
)
from avatar.events import about_error
from avatar.job.finish_open_job import finish_job, is_unbought, tell_unfinished
from avatar.job.publish import find_video
from avatar.money import local_receipts
from avatar.money.budget import BILLED, DIFFERS, LEAKED_SECONDS, Claim
from avatar.money.collect import FETCH_AGAIN, book_invoice, collect_render
from avatar.money.commit import (
    close_job,
    find_open,
    is_unpaid,
    open_job,
    open_jobs,
)
from avatar.money.entries import Record, RenderState
from avatar.money.failures import give_up, submission_of
from avatar.money.follow import age_of, read_snapshot
from avatar.money.state import read_current
from avatar.money.webhooks import WANTED, drop_notes, renders_with_notes
from avatar.stored_models import ProviderName
from avatar.waiting import Moment
from avatar.workspace import Workspace

log = logging.getLogger("avatar.reconcile")

#: Renders or jobs looked at together.
ABREAST = 8
#: Days back in which leaked claims and bills are looked for.
DAYS_BACK = 7
#: Seconds between two looks at a render that has stalled, or stays unknown: half its age, within these bounds.
STALLED_LOOKS = (600.0, 21_600.0)
#: Tries after which an open job that cannot be brought to its end is left to people. The pauses between them double.
MOST_TRIES = 10
#: The try at which a job that nobody goes on with is told of: some two hours after its last sign of life.
TOLD_AFTER = 5
#: Seconds without a sign of life after which a job of which nothing was bought is no longer open: no run waits so long.
FORGOTTEN_SECONDS = 2 * 86_400.0
#: No claim is given back longer than this after the look that found it leaked, in seconds.
SOON = 60.0
#: Requests whose bills are asked for together.
BILLS = 50
#: Seconds between two looks at the provider's books, and what notes the last one.
BILLS_EVERY, BILLS_ASKED = 3600.0, "open/bills/asked.json"

_AT_REST = {RenderState.NOT_SENT, RenderState.REFUSED, RenderState.RESOLVED, RenderState.FAILED}
_ACCEPTED = {RenderState.SUBMITTED, RenderState.RENDERED, RenderState.STALLED, RenderState.COLLECTED}


@dataclass
class Reconciled:
    """What was found and done, by render or job id."""

    collected: list[str] = field(default_factory=list)
    published: list[str] = field(default_factory=list)
    running: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    stalled: list[str] = field(default_factory=list)
    unfinished: list[str] = field(default_factory=list)
    settled: list[str] = field(default_factory=list)
    attached: list[str] = field(default_factory=list)
    released: list[str] = field(default_factory=list)
    invoiced: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    jobs: set[str] = field(default_factory=set)  #: of what was collected


def default_idle_seconds(workspace: Workspace) -> float:
    """A run that follows a render gives a sign of life once a polling window."""
    return 2 * workspace.settings.polling.window_seconds + 60


async def reconcile_renders(workspace: Workspace, *, idle_seconds: float | None = None) -> Reconciled:
    """Finish or settle every open render, publish the open jobs that are whole, return leaked claims, book bills.

    Args:
        workspace: settings, store and journal.
        idle_seconds: renders and jobs whose run gave a sign of life within this time, by the store's clock, are left
            to it.

    Raises:
        StoreUnavailable: what is open cannot be listed.
    """
    found = Reconciled()
    idle = default_idle_seconds(workspace) if idle_seconds is None else idle_seconds
    hinted = await renders_with_notes(workspace.store)
    kept = set(local_receipts.renders_with_receipt(workspace.settings.state_dir))

    async def render(render_id: str) -> None:
        if render_id in kept:
            await read_current(workspace, render_id)
        news = render_id in hinted and await _use_hint(workspace, render_id, found)
        if news or await workspace.journal.idle_for(render_id) >= idle:
            await _reconcile_render(workspace, render_id, found)

    async def job(job_id: str) -> None:
        await _reconcile_job(workspace, job_id, found, 0.0 if job_id in found.jobs else idle)

    renders = set(await workspace.journal.open_renders()) | hinted | kept
    await _each(sorted(renders), "Render", render, found)
    await _each(await open_jobs(workspace), "Job", job, found)
    days = await _last_days(workspace, found)
    await _each(days, "The claims of", lambda day: _return_claims(workspace, day, found), found)
    if await _asks_for_bills(workspace):
        await _each(days, "The bills of", lambda day: _book_invoices(workspace, day, found), found)
    return found


async def _last_days(workspace: Workspace, found: Reconciled) -> list[str]:
    """Days on which anything was claimed, of the last `DAYS_BACK`. None if they cannot be listed, which is noted."""
    oldest = f"{datetime.now(UTC).date() - timedelta(days=DAYS_BACK):%Y-%m-%d}"
    try:
        return [day for day in await workspace.budget.days() if day > oldest]
    except StoreUnavailable as error:
        found.failed["budget"] = str(error)
        return []


async def _each(
    names: Iterable[str], what: str, step: Callable[[str], Awaitable[None]], found: Reconciled
) -> None:
    """Do it for all, some at a time. Trouble with one is noted, whatever it is."""
    turn = asyncio.Semaphore(ABREAST)

    async def one(name: str) -> None:
        async with turn:
            try:
                await step(name)
            except Exception as error:  # noqa: BLE001 - a full disk, a stray object, a defect: the others go on
                log.warning("%s %s is left as it is: %s", what, name, error)
                found.failed[name] = str(error) or type(error).__name__

    await asyncio.gather(*(one(name) for name in names))


async def _reconcile_render(workspace: Workspace, render_id: str, found: Reconciled) -> None:
    head = await workspace.journal.head(render_id)
    if head is not None and head.state is RenderState.UNKNOWN and not await _is_due(workspace, head):
        found.unknown.append(render_id)
        return
    record = await read_current(workspace, render_id)
    if record is None:
        return  # announced, not begun: its run is about to write the intent, or never will
    if record.strays:
        found.stalled.append(render_id)
    if record.state in _ACCEPTED:
        await _bring_home(workspace, record, found)
    elif record.state is RenderState.UNKNOWN:
        found.unknown.append(render_id)
    elif record.state in _AT_REST and (record.age is None or record.age > record.entry.lease_seconds):
        if not record.strays:
            await workspace.journal.close(render_id)
        found.settled.append(render_id)


async def _use_hint(workspace: Workspace, render_id: str, found: Reconciled) -> bool:
    """Have a webhook settle a render. True if one did, just now: nobody follows such a render."""
    before = await workspace.journal.head(render_id)
    if before is None or before.state not in WANTED:
        await drop_notes(workspace.store, render_id)
        return False
    record = await read_current(workspace, render_id)
    submitted = record is not None and record.state is RenderState.SUBMITTED
    if not submitted or before.state is RenderState.SUBMITTED:
        return False
    found.attached.append(render_id)
    return True


async def _bring_home(workspace: Workspace, record: Record, found: Reconciled) -> None:
    """Collect a render that is done; what cannot be had for too long ends in front of a person."""
    render_id = record.entry.render_id
    if not await _is_due(workspace, record):
        (found.stalled if record.state is RenderState.STALLED else found.running).append(render_id)
        return
    try:
        if record.entry.remote is None:
            submission = submission_of(record)
            look = await workspace.provider(submission.provider, submission.model).poll(submission)
            await read_snapshot(workspace, record, look)
        await collect_render(workspace, render_id)
    except StillRendering:
        found.running.append(render_id)
    except RenderFailed as error:  # written down just now, with no run of its job to tell of it
        run = f"{render_id}:{record.entry.attempt}"
        if notice := about_error(error, run=run, job_id=record.entry.job_id):
            workspace.notify(notice)
        raise
    except (Transient, DownloadFailed, RenderLost) as error:
        await _trouble(workspace, record, error)
        raise
    except ProviderFailure:
        found.stalled.append(render_id)
        raise
    else:
        found.collected.append(render_id)
        await _note_job(workspace, record)
        found.jobs.add(record.entry.job_id)


async def _is_due(workspace: Workspace, record: Record) -> bool:
    """Whether it is time for another look: what waits for a person is looked at ever less often."""
    entry, age = record.entry, record.age or 0.0
    shortest, longest = STALLED_LOOKS
    if record.state is RenderState.RENDERED and entry.tries:
        return age >= FETCH_AGAIN[min(entry.tries, len(FETCH_AGAIN)) - 1]
    lasting = record.state is RenderState.UNKNOWN and age > 2 * shortest
    stray = record.state is RenderState.COLLECTED and record.strays
    if not (record.state is RenderState.STALLED or lasting or stray):
        return True
    if entry.failure is not None and entry.failure.kind == "unplayable":
        return False
    due = await workspace.journal.idle_for(entry.render_id) >= min(longest, max(shortest, age / 2))
    if due:
        await workspace.journal.keep_open(entry.render_id)
    return due


async def _trouble(workspace: Workspace, record: Record, error: Exception) -> None:
    """A render that is done and cannot be fetched: given up on after the deadline, at the second look at the earliest."""
    entry, submission = record.entry, submission_of(record)
    if age_of(submission) <= workspace.settings.polling.deadline_seconds:
        return
    looked_before = (
        await workspace.journal.idle_for(entry.render_id) < workspace.settings.polling.deadline_seconds
    )
    await workspace.journal.keep_open(entry.render_id)
    if looked_before:
        newest = await workspace.journal.head(entry.render_id)
        if newest is not None and newest.state in _ACCEPTED - {RenderState.COLLECTED}:
            await give_up(
                workspace, newest, "lost" if isinstance(error, RenderLost) else "overdue", str(error)
            )


async def _note_job(workspace: Workspace, record: Record) -> None:
    """A render that a version before open jobs were noted left behind: its job is to be published."""
    job_id = record.entry.job_id
    if await find_open(workspace, job_id) is None and await find_video(workspace, job_id) is None:
        await open_job(workspace, job_id)


async def _reconcile_job(workspace: Workspace, job_id: str, found: Reconciled, idle: float) -> None:
    """Bring an open job to its end. One that cannot be now is looked at ever less often."""
    opened = await find_open(workspace, job_id)
    if (
        opened is None
        or (idle and opened.job.tries >= MOST_TRIES)
        or opened.idle < idle * 2**opened.job.tries
    ):
        return
    trouble: Exception | None = None
    try:
        if await finish_job(workspace, job_id):
            found.published.append(job_id)
    except Exception as error:  # noqa: BLE001 - told below, and raised
        trouble = error
    if await find_open(workspace, job_id) is None:
        return
    if opened.job.tries == TOLD_AFTER and await tell_unfinished(workspace, job_id, trouble):
        found.unfinished.append(job_id)
    if opened.idle > FORGOTTEN_SECONDS and not trouble and await is_unbought(workspace, job_id):
        await close_job(workspace, job_id)
    else:
        await open_job(workspace, job_id, since=opened.job.since, tries=opened.job.tries + 1)
    if trouble:
        raise trouble


async def _return_claims(workspace: Workspace, day: str, found: Reconciled) -> None:
    """Give back money that was set aside and, by the claim's own last sign of life, left behind unpaid."""
    claims = await workspace.budget.objects(day)
    for claim in claims:
        if claim.state != "open":
            continue
        looked = Moment.now()
        if await is_leaked(workspace, claim, claims) and looked.passed < SOON:
            await workspace.budget.release(claim.key)
            found.released.append(claim.render_id)


async def is_leaked(workspace: Workspace, claim: Claim, claims: Sequence[Claim]) -> bool:
    """Whether an open claim, one of all `claims` and bills of its day, was left behind."""
    stat = await workspace.store.exists(claim.key)
    if stat is None or stat.age is None or stat.age <= LEAKED_SECONDS:
        return False
    head = await workspace.journal.head(claim.render_id)
    if head is None or is_unpaid(head):
        return True
    billed = any(each.state == "settled" and each.render_id == claim.render_id for each in claims)
    if head.state is RenderState.COLLECTED and billed:
        return True  # set aside once more by another who found its request at the same moment
    if head.entry.claim is not None:
        return head.entry.claim != claim.key  # bought on another claim
    return head.state is RenderState.COLLECTED and head.entry.claimed_on != claim.day


async def _book_invoices(workspace: Workspace, day: str, found: Reconciled) -> None:
    """Book what the providers' own books say, in place of what their answers said.

    A failure that may have been charged has no bill but these: what was set aside for it stays so until then.
    """
    claims = [claim for claim in await workspace.budget.claims(day) if _wants_invoice(claim)]
    found_heads = [(claim, await workspace.journal.head(claim.render_id)) for claim in claims]
    heads = [head for claim, head in found_heads if claim.state == "settled" or _is_failure_on(head, claim)]
    for name in telling_bills(workspace):
        entries = {
            head.entry.submission.request_id: head.entry
            for head in heads
            if head is not None and head.entry.submission is not None and head.entry.provider is name
        }
        for asked in jobs_in_batches(sorted(entries), BILLS):
            for request_id, amount in (await workspace.provider(name).bills(asked)).items():
                if request_id in entries:
                    await book_invoice(workspace, entries[request_id], amount)
                    found.invoiced.append(entries[request_id].render_id)


def _wants_invoice(claim: Claim) -> bool:
    return claim.state == "open" or claim.token in {BILLED, DIFFERS}


def _is_failure_on(head: Record | None, claim: Claim) -> bool:
    return head is not None and head.state is RenderState.FAILED and head.entry.claim == claim.key


def jobs_in_batches(names: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    return (names[start : start + size] for start in range(0, len(names), size))


def telling_bills(workspace: Workspace) -> list[ProviderName]:
    return [name for name in ProviderName if workspace.provider(name).capabilities.bills]


async def _asks_for_bills(workspace: Workspace) -> bool:
    """Whether a provider tells bills, and was not asked within the hour, by whomever."""
    if not telling_bills(workspace):
        return False
    stat = await workspace.store.exists(BILLS_ASKED)
    if stat is not None and (stat.age is None or stat.age < BILLS_EVERY):
        return False
    await workspace.store.put(BILLS_ASKED, b"{}", content_type="application/json")
    return True


async def finish_render(workspace: Workspace, render_id: str) -> dict[str, str]:
    """Bring one settled render as far as it will go now, and say how far that is."""
    found = Reconciled()
    await _reconcile_render(workspace, render_id, found)
    head = await workspace.journal.head(render_id)
    if head is not None and render_id in found.collected and await finish_job(workspace, head.entry.job_id):
        return {
            "state": "published",
            "text": f"Render {render_id} is collected; job {head.entry.job_id} is published.",
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

"""The jobs of a batch, a bounded number at a time. Whatever happens to one is told in its outcome, not raised."""

import asyncio
import contextlib
import logging
import os
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from decimal import Decimal

from avatar.batch.check import video_facts
from avatar.batch.chunks import CHUNK_ROWS, read_rows, write_outcomes
from avatar.batch.models import SERVED, Outcome, Row, RowState
from avatar.errors import (
    AvatarError,
    BudgetRefused,
    DownloadFailed,
    InvalidInput,
    OutcomeUnknown,
    ProviderFailure,
    Refused,
    RenderFailed,
    StoreUnavailable,
    SubmitRefused,
    Transient,
    VideoRejected,
)
from avatar.events import about_error
from avatar.job.produce import find_made, render_all, wait_until_done
from avatar.job.publish import publish_video, require_published
from avatar.models import Plan, Video
from avatar.money.collect import collect_render
from avatar.money.commit import Claim, release_unspent
from avatar.money.submit import hold_turn, submit_render
from avatar.providers.outcome import UNREACHABLE_INPUT, remedy
from avatar.stored_models import ProviderName, Render, Segment
from avatar.waiting import finish_all, patiently
from avatar.workspace import Workspace

# The day's money for the rows of a chunk, set aside a group at a time.
#
# Counting a day lists every claim of it. Done for each row of a large batch that would grow with the square of its rows.
#: Rows claimed for together.
GROUP = 50


class GroupClaims:
    """Claims for a row and for those that come next. Where a group does not fit, each row claims for itself."""

    def __init__(self, workspace: Workspace, rows: Sequence[Row]) -> None:
        self._workspace = workspace
        self._ahead = deque(row for row in rows if row.plan is not None and row.owed)
        self._unused: dict[str, str] = {}  # keys of claims, by render
        self._lock = asyncio.Lock()

    async def claim(self, amounts: Mapping[str, Decimal]) -> dict[str, str]:
        """As `Budget.claim`. What was claimed ahead so long ago that it may be given back is claimed anew."""
        async with self._lock:
            usable = self._workspace.budget.is_usable
            if not all(usable(self._unused.get(name)) for name in amounts):
                await self._claim_group(amounts)
            return {name: self._unused.pop(name) for name in amounts}

    async def _claim_group(self, amounts: Mapping[str, Decimal]) -> None:
        budget = self._workspace.budget
        stale = {name: key for name in amounts if (key := self._unused.pop(name, None))}
        group = self._next_rows() if budget.per_day is not None else []
        together = {name: sum_ for row in group for name, sum_ in row.owed.items()} | dict(amounts)
        try:
            self._unused |= await budget.claim(together)
        except BudgetRefused:
            if not group:
                raise
            self._unused |= await budget.claim(amounts)
        finally:
            for key in stale.values():
                await budget.release(key)

    def _next_rows(self) -> list[Row]:
        return [self._ahead.popleft() for _ in range(min(GROUP, len(self._ahead)))]

    async def give_back(self) -> None:
        """Release what was set aside for rows that did not get so far as to need it."""
        with contextlib.suppress(StoreUnavailable):  # `reconcile` gives it back then
            await release_unspent(self._workspace, self._unused)
        self._unused.clear()


log = logging.getLogger("avatar.batch")

#: How a row is carried out: as it is, or as a Prefect task around it.
RunRow = Callable[["RowRunner", Row, Claim], Awaitable[Outcome]]
#: Seconds before a row is begun anew whose trouble may pass by itself: beyond the minutes that each step waits.
AGAIN = (60.0, 300.0)
#: Videos fetched and inspected at a time, for each processor: decoding is work, fetching is waiting.
INSPECTED_AT_A_TIME = 2


class BatchStopped(Refused):
    """No more is sent in this run, because of what happened to the jobs before."""


class RowCounts:
    """How far a batch is, for whoever shows it."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.states: Counter[RowState] = Counter()
        self.rendering = 0
        self.billed = Decimal(0)

    def add(self, outcome: Outcome) -> None:
        self.states[outcome.state] += 1
        if outcome.state is RowState.PUBLISHED:
            self.billed += outcome.billed or Decimal(0)

    @property
    def done(self) -> int:
        return self.states.total()

    def __str__(self) -> str:
        served = sum(self.states[state] for state in SERVED)
        parts = [f"{served} published"]
        parts += [
            f"{self.states[state]} {state}"
            for state in RowState
            if state not in SERVED and self.states[state]
        ]
        return f"{self.done} of {self.rows} rows: {', '.join(parts)}; {self.rendering} rendering, ${self.billed:.2f}"


class RowRunner:
    """Where the jobs of one batch run in this process.

    A render holds a turn only while the provider has it, so that the next one is sent the moment it ends. A job holds
    a place from its first step to its last, which bounds what is in memory and on disk.

    Args:
        workspace: settings, store and journal.
        batch_id: the batch.
        run: the flow run that checked it.
        at_once: turns of this process.
        rows: how many rows it is given.
    """

    def __init__(
        self,
        workspace: Workspace,
        *,
        batch_id: str,
        run: str,
        at_once: int,
        rows: int,
    ) -> None:
        self.workspace, self.batch_id, self.run, self.at_once = workspace, batch_id, run, at_once
        self.counts = RowCounts(rows)
        self.places = asyncio.Semaphore(2 * at_once)
        self._turns = asyncio.Semaphore(at_once)
        self._inspecting = asyncio.Semaphore(INSPECTED_AT_A_TIME * (os.cpu_count() or 1))
        #: Requests in a row whose answer was lost, or whose inputs the provider could not fetch.
        self._unknown = self._unreachable = 0

    async def produce(self, row: Row, plan: Plan, claim: Claim) -> tuple[Video, bool]:
        """The row's published video, and whether it was there before. Raises what stands against it."""
        job, workspace = row.job, self.workspace
        if job is None:
            raise InvalidInput(f"Line {row.line} has no job.")
        video = await patiently(lambda: find_made(workspace, job, plan.job_id))
        if video is not None:
            return video, True
        renders = await render_all(workspace, job, plan, self._render, claim=claim)
        return await patiently(lambda: self._publish(plan, renders, accept=job.accept)), False

    async def _render(self, plan: Plan, segment: Segment, claim: str | None) -> Render:
        try:
            render = await self._send_and_collect(plan, segment, claim)
        except RenderFailed as error:
            self._unreachable = self._unreachable + 1 if error.kind == UNREACHABLE_INPUT else 0
            raise
        self._unreachable = 0
        return render

    async def _send_and_collect(self, plan: Plan, segment: Segment, claim: str | None) -> Render:
        account = hold_turn(self.workspace, plan, segment)
        async with self._turns, account:
            self.counts.rendering += 1
            try:
                render_id = await self._submit(plan, segment, claim)
                await wait_until_done(self.workspace, render_id)
            finally:
                self.counts.rendering -= 1
        return await patiently(lambda: self._collect(render_id))

    async def _submit(self, plan: Plan, segment: Segment, claim: str | None) -> str:
        """Sent once at most. A provider that answers nothing, or fetches nothing, is not sent the rest of the batch."""
        self._check_trouble(plan.provider)
        try:
            record = await submit_render(self.workspace, plan, segment, claim=claim)
        except OutcomeUnknown:
            self._unknown += 1
            raise
        except (SubmitRefused, RenderFailed):
            self._unknown = 0
            raise
        self._unknown = 0
        return record.entry.render_id

    def _check_trouble(self, provider: ProviderName) -> None:
        most = self.workspace.settings.batch.stop_after_unknown
        if self._unknown >= most:
            raise BatchStopped(
                f"The outcome of {self._unknown} requests in a row is unknown, so no more were sent. Nothing was spent "
                "for this row.",
                hint="Settle those (`avatar resolve`), then run the batch again.",
            )
        if self._unreachable >= most:
            raise BatchStopped(
                f"The provider could not fetch the inputs of {self._unreachable} renders in a row, so no more were sent. "
                "Nothing was spent for this row.",
                hint=remedy(UNREACHABLE_INPUT, provider),
            )

    async def _collect(self, render_id: str) -> Render:
        async with self._inspecting:
            return await collect_render(self.workspace, render_id)

    async def _publish(self, plan: Plan, renders: Sequence[Render], *, accept: bool) -> Video:
        async with self._inspecting:
            return require_published(await publish_video(self.workspace, plan, renders, accept=accept))


async def run_row(runner: RowRunner, row: Row, claim: Claim) -> Outcome:
    """Carry out one row as far as it goes; whatever stops it is its outcome."""
    plan = row.plan
    if plan is None:
        return row.outcome
    try:
        video, before = await patiently(lambda: runner.produce(row, plan, claim), AGAIN)
    except AvatarError as error:
        _post(runner, row, error)
        return _stopped(row, error)
    except Exception as error:  # a defect, or a disk that is full: the other rows go on
        log.exception("Line %d stopped unexpectedly.", row.line)
        _post(runner, row, error)
        reason = f"{type(error).__name__}: {error}. What was paid for is in the journal; the next run goes on from there."
        return row.outcome.model_copy(update={"state": RowState.FAILED, "reason": reason, "passes": True})
    state = RowState.ALREADY if before else RowState.PUBLISHED
    return row.outcome.model_copy(update={"state": state, **video_facts(video)})


def _post(runner: RowRunner, row: Row, error: Exception) -> None:
    facts = row.outcome
    notice = about_error(
        error,
        run=runner.run,
        job_id=facts.job_id or None,
        batch_id=runner.batch_id,
        portrait=facts.portrait,
        voice=facts.voice,
    )
    if notice is not None and not isinstance(error, BatchStopped):
        runner.workspace.notify(notice)


#: The first that fits names the state.
_STATES: tuple[tuple[type[AvatarError], RowState], ...] = (
    (BatchStopped, RowState.WAITING),
    (Refused, RowState.REFUSED),
    (OutcomeUnknown, RowState.UNKNOWN),
    (VideoRejected, RowState.REJECTED),
    (AvatarError, RowState.FAILED),
)


#: What another run may find gone.
PASSING = (Transient, Refused, DownloadFailed)


def _may_pass(error: AvatarError) -> bool:
    """A bare `ProviderFailure` is a render that takes too long; inputs that could not be fetched were not rendered."""
    unreachable = isinstance(error, RenderFailed) and error.kind == UNREACHABLE_INPUT
    return isinstance(error, PASSING) or type(error) is ProviderFailure or unreachable


def _stopped(row: Row, error: AvatarError) -> Outcome:
    state = next(state for kind, state in _STATES if isinstance(error, kind))
    facts = {
        "state": state,
        "reason": str(error),
        "hint": error.hint or "",
        "renders": (error.render_id,) if error.render_id else (),
        "requests": (error.request_id,) if error.request_id else (),
        "at_risk": error.cost_at_risk,
        "passes": _may_pass(error),
    }
    return row.outcome.model_copy(update=facts)


async def run_chunk(runner: RowRunner, chunk: int, run_one: RunRow = run_row) -> None:
    """Carry out the rows of one chunk, and keep how they ended."""
    workspace, batch_id = runner.workspace, runner.batch_id
    rows = await patiently(lambda: read_rows(workspace, batch_id, chunk))
    ahead = GroupClaims(workspace, rows)
    try:
        outcomes = await finish_all(_admit(runner, row, ahead, run_one) for row in rows)
    finally:
        await ahead.give_back()
    await patiently(lambda: write_outcomes(workspace, batch_id, chunk, runner.run, outcomes))


async def _admit(runner: RowRunner, row: Row, ahead: GroupClaims, run_one: RunRow) -> Outcome:
    if row.plan is None:
        outcome = row.outcome
    else:
        async with runner.places:
            outcome = await run_one(runner, row, ahead.claim)
    runner.counts.add(outcome)
    return outcome


async def run_chunks(
    runner: RowRunner, chunks: Sequence[int], run_one: Callable[[RowRunner, int], Awaitable[None]] = run_chunk
) -> None:
    """Carry out chunks in their order, so many at a time that there is always a job ready when a turn is free.

    What stands against one of them is raised when all have ended: the others have requests under way.
    """
    gate = asyncio.Semaphore(2 * runner.at_once // CHUNK_ROWS + 2)

    async def one(chunk: int) -> None:
        async with gate:
            await run_one(runner, chunk)

    await finish_all(one(chunk) for chunk in chunks)

"""Batches as Prefect sees them: a task to check, a task for each row or each hundred rows, a task to report."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

from prefect import get_run_logger, task
from prefect.artifacts import acreate_markdown_artifact, acreate_progress_artifact, aupdate_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.runtime import task_run
from prefect.states import Completed, Failed

from avatar.batch.check import check_rows
from avatar.batch.chunks import CHUNK_ROWS
from avatar.batch.manifest import open_manifest
from avatar.batch.models import SERVED, Batch, Checked, Outcome, Row, RowState, Summary
from avatar.batch.report import as_markdown, write_report
from avatar.batch.run import RowRunner, run_chunk, run_chunks, run_row
from avatar.events import batch_url
from avatar.money.commit import Claim
from avatar.waiting import LONG
from avatar.workspace import Step, Workspace
from tasks.artifacts import ARTIFACT_SECONDS, KEY_DIGITS, UPDATE_SECONDS, write_artifact
from tasks.results import passes_by_itself

#: Up to so many rows each is a task run of its own; beyond, a hundred share one. Prefect's server records some 40
#: task runs a second, and loses those it cannot keep up with.
ROW_TASKS_UP_TO = 300


@task(
    task_run_name="check every row",
    retries=len(LONG),
    retry_delay_seconds=list(LONG),
    retry_condition_fn=passes_by_itself,
    cache_policy=NO_CACHE,
    persist_result=False,
)
async def check_batch(workspace: Workspace, batch: Batch) -> Checked:
    """Read, decode, plan and price every row. Spends nothing."""

    def told(rows: int) -> None:
        workspace.announce(Step("batch", f"{rows} rows checked"))

    async with open_manifest(workspace, batch) as manifest:
        return await check_rows(workspace, batch, manifest, told)


class RowWork:
    """A row on its way through a task. No model: Prefect would look through all of it for results of other tasks."""

    def __init__(self, runner: RowRunner, row: Row, claim: Claim) -> None:
        self.runner, self.row, self.claim, self.line = runner, row, claim, row.line
        self.outcome = row.outcome


@task(task_run_name="line {work.line}", retries=0, cache_policy=NO_CACHE, persist_result=False)
async def render_row(work: RowWork) -> Any:
    """Carry out one row. What stands against it is the state of this run, and stops no other."""
    work.outcome = await run_row(work.runner, work.row, work.claim)
    if work.outcome.state in SERVED:
        return Completed(name=work.outcome.state.capitalize(), message=work.outcome.video)
    return Failed(name=work.outcome.state.capitalize(), message=work.outcome.reason)


def _chunk_name() -> str:
    first: int = task_run.parameters["chunk"] * CHUNK_ROWS
    return f"rows {first + 1} to {first + CHUNK_ROWS}"


@task(task_run_name=_chunk_name, retries=0, cache_policy=NO_CACHE, persist_result=False)
async def render_chunk(runner: RowRunner, chunk: int) -> None:
    """Carry out a hundred rows."""
    await run_chunk(runner, chunk)


async def _as_task(runner: RowRunner, row: Row, claim: Claim) -> Outcome:
    work = RowWork(runner, row, claim)
    ended: Any = render_row(work, return_state=True)
    try:
        await ended
    except Exception as error:  # noqa: BLE001 - Prefect could not keep the task run, which the row does not need
        get_run_logger().warning("Line %d goes on without a task run: %s", row.line, error)
        return await run_row(runner, row, claim) if work.outcome is row.outcome else work.outcome
    return work.outcome


async def _row_by_row(runner: RowRunner, chunk: int) -> None:
    await run_chunk(runner, chunk, _as_task)


async def render_chunks(runner: RowRunner, chunks: range, *, part: str = "") -> None:
    """Carry out chunks, and show how far they are: `part` of the batch, or all of it."""
    async with shown_progress(runner, part):
        many = runner.counts.rows > ROW_TASKS_UP_TO
        await run_chunks(runner, chunks, render_chunk if many else _row_by_row)


@task(
    task_run_name="report",
    retries=len(LONG),
    retry_delay_seconds=list(LONG),
    retry_condition_fn=passes_by_itself,
    cache_policy=NO_CACHE,
    persist_result=False,
)
async def report_batch(workspace: Workspace, checked: Checked, run: str, name: str) -> Summary:
    """Write the report of a batch, and show its summary; not before it began, unless there is something to tell."""
    summary = await write_report(workspace, checked, run, name=name)
    if summary.count(RowState.WAITING) == checked.ready > 0 and not summary.troubles:
        return summary
    page = batch_url(workspace.settings, checked.batch_id)
    markdown = as_markdown(summary, f"s3://{workspace.store.bucket}/{summary.report_key}", page)
    artifact = acreate_markdown_artifact(
        key=f"batch-{checked.batch_id[:KEY_DIGITS]}",
        markdown=markdown,
        description=f"{summary.count(*SERVED)} of {summary.rows} rows have a video",
    )
    await write_artifact(artifact, get_run_logger())
    return summary


@asynccontextmanager
async def shown_progress(runner: RowRunner, part: str) -> AsyncIterator[None]:
    """A progress artifact and a line in the log, kept up to date while the block runs."""
    progress = _Progress(runner, part)
    keeping = asyncio.create_task(progress.keep())
    try:
        yield
    finally:
        keeping.cancel()
        await asyncio.wait({keeping}, timeout=ARTIFACT_SECONDS)
    await progress.update()


class _Progress:
    def __init__(self, runner: RowRunner, part: str) -> None:
        self._workspace, self._counts, self._part = runner.workspace, runner.counts, part
        name = f"batch-progress-{runner.batch_id[:KEY_DIGITS]} {part}".strip()
        self._key = name.replace(" ", "-")
        self._artifact: UUID | None = None
        self._last = ""

    async def keep(self) -> None:
        while True:
            began = time.monotonic()
            await self.update()
            # A server that answers slowly is asked less often.
            await asyncio.sleep(UPDATE_SECONDS + time.monotonic() - began)

    async def update(self) -> None:
        text = f"{self._part}: {self._counts}".removeprefix(": ")
        if text == self._last:
            return
        self._last = text
        self._workspace.announce(Step("batch", text))
        get_run_logger().info(text)
        await write_artifact(self._write(text), get_run_logger())

    async def _write(self, text: str) -> None:
        facts: dict[str, Any] = {
            "progress": round(100 * self._counts.done / max(1, self._counts.rows), 1),
            "description": text,
        }
        if self._artifact is None:
            self._artifact = await acreate_progress_artifact(key=self._key, **facts)
        else:
            await aupdate_progress_artifact(artifact_id=self._artifact, **facts)

"""Many jobs: every row of a manifest is checked and priced, then all of them are rendered, and each is accounted for."""

from typing import Any

from prefect import flow
from prefect.runtime import flow_run

from flows.approval import ask, needs_approval
from flows.equipment import equipment
from flows.shards import render_shards
from tasks.announcing import announcing
from tasks.batches.models import Batch, Checked, OnBadRows, Summary
from tasks.batches.money import check_budget
from tasks.batches.verdict import refuse_bad_rows, require_videos
from tasks.batching import check_batch, report_batch
from tasks.jobs.fetching import shown
from tasks.settings import BudgetSettings
from tasks.workspace import workspace


def _run_name() -> str:
    """What people call the batch, else its manifest."""
    given: Any = flow_run.parameters.get("batch")
    batch = given if isinstance(given, Batch) else Batch.model_validate(given)
    source = batch.manifest or f"{batch.portrait} in {len(batch.voices)} voices"
    return f"batch {batch.name or shown(source).rsplit('/', 1)[-1]}"


@flow(name="generate-batch", flow_run_name=_run_name, retries=0, persist_result=False)
async def generate_batch(batch: Batch) -> Summary:
    """Render every row of a manifest that has no video yet. One bad row or failed job never stops the others.

    Every row is checked and priced before anything is spent. Run again, it does only what is missing.

    Args:
        batch: where the rows are, and how to carry them out.
    """
    async with announcing() as subject, equipment():
        batch = batch.of(flow_run.scheduled_start_time.date())
        checked = await check_batch(batch)
        subject.batch_id = checked.batch_id
        run = str(flow_run.id)
        summary = await report_batch(checked, run, batch.name)
        if batch.on_bad_rows is OnBadRows.STOP:
            refuse_bad_rows(summary)
        await check_budget(workspace(), batch, checked)
        await approve_batch(checked, workspace().settings.budget)
        if checked.ready:
            await render_shards(batch, checked, run)
            summary = await report_batch(checked, run, batch.name)
        return require_videos(summary)


async def approve_batch(checked: Checked, budget: BudgetSettings) -> None:
    """Return if the batch may be paid for. Raises `ApprovalDenied` as `approve` does."""
    if needs_approval(checked.owed, budget):
        question = (
            f"## Pay up to ${checked.owed:.2f} for {checked.ready} of {checked.rows} rows?\n\n"
            f"The quote of every row is in `batches/{checked.batch_id}/report.csv`. Nothing has been sent yet."
        )
        await ask(checked.batch_id, "batch", checked.owed, question, budget)

"""A large batch spread over the work pool: child runs take shards of it, and this run takes what nobody has begun."""

import asyncio
import math
from collections.abc import Sequence
from contextlib import suppress
from typing import Any
from uuid import UUID

from prefect import flow, get_run_logger
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.objects import StateType
from prefect.deployments.flow_runs import arun_deployment
from prefect.exceptions import ObjectNotFound as NoSuchDeployment
from prefect.runtime import flow_run
from prefect.states import Cancelled
from pydantic import Field

from avatar.batch.check import check_budget
from avatar.batch.chunks import CHUNK_ROWS, read_outcomes, split_rows
from avatar.batch.manifest import batch_prefix
from avatar.batch.models import Batch, Checked, OnBadRows, Summary
from avatar.batch.report import refuse_bad_rows, require_videos
from avatar.batch.run import RowRunner
from avatar.events import batch_url
from avatar.models import shown
from avatar.settings_sections import BatchSettings
from avatar.stored_models import Model
from avatar.workspace import Workspace
from flows.approval import ask, needs_approval
from tasks.batch import check_batch, render_chunks, report_batch
from tasks.context import typed_name, with_workspace
from tasks.flow_runs import leave_to_idle_worker


# Many jobs: every row of a manifest is checked and priced, then all of them are rendered, and each is accounted for.
def _batch_run_name() -> str:
    """What a person called the run, or the batch; else its manifest."""
    given: Any = flow_run.parameters.get("batch")
    batch = given if isinstance(given, Batch) else Batch.model_validate(given)
    source = batch.manifest or f"{batch.portrait} in {len(batch.voices)} voices"
    return typed_name() or f"batch {batch.name or shown(source).rsplit('/', 1)[-1]}"


@flow(name="generate-batch", flow_run_name=_batch_run_name, retries=0, persist_result=False)
@with_workspace
async def generate_batch(workspace: Workspace, batch: Batch) -> Summary:
    """Render every row of a manifest that has no video yet. One bad row or failed job never stops the others.

    Every row is checked and priced before anything is spent. Run again, it does only what is missing.

    Args:
        batch: where the rows are, and how to carry them out.
    """
    batch = batch.of(flow_run.scheduled_start_time.date())
    checked = await check_batch(workspace, batch)
    workspace.subject.batch_id = checked.batch_id
    run = str(flow_run.id)
    summary = await report_batch(workspace, checked, run, batch.name)
    if batch.on_bad_rows is OnBadRows.STOP:
        refuse_bad_rows(summary)
    await check_budget(workspace, batch, checked)
    await approve_batch(workspace, checked)
    if checked.ready:
        await render_shards(workspace, batch, checked, run)
        summary = await report_batch(workspace, checked, run, batch.name)
    return require_videos(summary)


async def approve_batch(workspace: Workspace, checked: Checked) -> None:
    """Return if the batch may be paid for. Raises `ApprovalDenied` as `approve` does."""
    if needs_approval(checked.owed, workspace.settings.budget):
        page = batch_url(workspace.settings, checked.batch_id)
        report = f"`s3://{workspace.store.bucket}/{batch_prefix(checked.batch_id)}report.csv`"
        rows = f"[Every row with its quote]({page})." if page else f"The quote of every row is in {report}."
        question = (
            f"## Pay up to ${checked.owed:.2f} for {checked.ready} of {checked.rows} rows?\n\n"
            f"{rows} Nothing has been sent yet."
        )
        await ask(workspace, checked.batch_id, "batch", checked.owed, question)


DEPLOYMENT = "render-shard/render-shard"
#: More than the largest manifest has.
MOST_CHUNKS = 20_000
#: Seconds between looks at the child runs.
LOOK_SECONDS = 5.0


class Shard(Model):
    """Some chunks of a batch that was checked."""

    batch_id: str = Field(
        title="Batch", pattern=r"^[0-9a-f]{32}$", description="The batch's id.", examples=["0" * 32]
    )
    run: str = Field(
        title="Run",
        max_length=100,
        description="The flow run that checked the batch and waits for this shard.",
        examples=["8c0bd5a2-3c0f-4c3a-9d7f-0a6f3a3f5f0e"],
    )
    first: int = Field(
        title="First chunk", ge=0, le=MOST_CHUNKS, description="A chunk is a hundred rows.", examples=[0]
    )
    last: int = Field(
        title="Last chunk", ge=0, le=MOST_CHUNKS, description="This one included.", examples=[9]
    )
    rows: int = Field(
        title="Rows",
        ge=1,
        le=MOST_CHUNKS * CHUNK_ROWS,
        description="How many rows those chunks have.",
        examples=[1000],
    )
    at_once: int = Field(
        title="At once", ge=1, le=1000, description="This shard's part of the batch's turns.", examples=[10]
    )

    @property
    def chunks(self) -> range:
        return range(self.first, self.last + 1)

    @property
    def name(self) -> str:
        """Its rows, counted from 1."""
        start = self.first * CHUNK_ROWS
        return f"rows {start + 1} to {start + self.rows}"

    @property
    def key(self) -> str:
        """The same for the same part of the same run, so that a run that is resumed finds its child runs."""
        return f"{self.batch_id}-{self.first}-{self.last}-{self.run}"


def _run_name() -> str:
    given: Any = flow_run.parameters["shard"]
    shard = given if isinstance(given, Shard) else Shard.model_validate(given)
    return shard.name


@flow(name="render-shard", flow_run_name=_run_name, retries=0, persist_result=False)
@with_workspace
async def render_shard(workspace: Workspace, shard: Shard) -> None:
    """Render a part of a batch. Started by generate-batch.

    Args:
        shard: which part.
    """
    await leave_to_idle_worker(shard.run)
    await render_here(workspace, shard)


async def render_here(workspace: Workspace, shard: Shard, *, whole: bool = False) -> None:
    """Render the rows of a shard, or of a batch that is the `whole` of one, in this process."""
    runner = RowRunner(
        workspace, batch_id=shard.batch_id, run=shard.run, at_once=shard.at_once, rows=shard.rows
    )
    await render_chunks(runner, shard.chunks, part="" if whole else shard.name)


def count_parts(checked: Checked, at_once: int, settings: BatchSettings) -> int:
    """How many flow runs a batch is spread over: each has a turn and a chunk at least."""
    wanted = math.ceil(checked.rows / settings.shard_rows)
    return min(wanted, settings.shards, at_once, checked.chunks)


async def render_shards(workspace: Workspace, batch: Batch, checked: Checked, run: str) -> None:
    """Render every row that waits, in this process, or in child runs too if the batch is large."""
    settings = workspace.settings.batch
    at_once = batch.at_once or settings.at_once
    parts = count_parts(checked, at_once, settings)
    if parts > 1 and not await _is_deployed():
        parts = 1
    first, *others = (
        Shard(batch_id=checked.batch_id, run=run, **vars(part))
        for part in split_rows(checked, at_once, parts=parts)
    )
    children = [(await _start(shard), shard) for shard in others]
    if children:
        get_run_logger().info("%d child runs share this batch with this one.", len(children))
    await render_here(workspace, first, whole=not children)
    await _finish_left_over(workspace, await _see_through(workspace, children, at_once))


async def _is_deployed() -> bool:
    async with get_client() as client:
        try:
            await client.read_deployment_by_name(DEPLOYMENT)
        except NoSuchDeployment:
            return False
    return True


async def _start(shard: Shard) -> UUID:
    run = await arun_deployment(
        DEPLOYMENT,
        parameters={"shard": shard.model_dump(mode="json")},
        timeout=0,
        idempotency_key=shard.key,
    )
    return run.id


async def _see_through(
    workspace: Workspace, children: Sequence[tuple[UUID, Shard]], at_once: int
) -> list[Shard]:
    """Wait for the child runs, and carry out here what no worker has begun: there may be none, or only ours.

    One part at a time, with the turns of all that have ended: another worker may still come for the next.

    Returns:
        The shards whose run ended, but not those of runs that a person cancelled.
    """
    ended: list[Shard] = []
    open_runs = dict(children)
    if not open_runs:
        return ended
    async with get_client() as client:
        while open_runs:
            states = {run_id: await _state(client, run_id) for run_id in open_runs}
            for run_id in [each for each, state in states.items() if state in _ENDED]:
                shard = open_runs.pop(run_id)
                ended += [shard] if states[run_id] is not StateType.CANCELLED else []
            waiting = [run_id for run_id in open_runs if states[run_id] is StateType.SCHEDULED]
            if waiting:
                await client.set_flow_run_state(
                    waiting[-1], Cancelled(message="The batch's own run does it.")
                )
                shard = open_runs.pop(waiting[-1])
                free = at_once - sum(other.at_once for other in open_runs.values())
                await render_here(workspace, shard.model_copy(update={"at_once": free}))
            elif open_runs:
                await asyncio.sleep(LOOK_SECONDS)
    return ended


#: A crashed one may be started again by `reconcile`; what it leaves meanwhile is done here, and paid once.
_ENDED = {None, StateType.COMPLETED, StateType.FAILED, StateType.CANCELLED, StateType.CRASHED}


async def _state(client: PrefectClient, run_id: UUID) -> StateType | None:
    with suppress(NoSuchDeployment):  # raised for whatever the server does not have
        return (await client.read_flow_run(run_id)).state_type
    return None


async def _finish_left_over(workspace: Workspace, shards: Sequence[Shard]) -> None:
    """Carry out the chunks that a child run left when it died.

    In a run that was started again also those of which rows may go on: their child run has ended, and does not.
    """
    again = (flow_run.run_count or 0) > 1
    for shard in shards:
        for chunk in shard.chunks:
            outcomes = await read_outcomes(workspace, shard.batch_id, chunk, shard.run)
            if outcomes is None or (again and any(each.may_go_on for each in outcomes)):
                rows = min(CHUNK_ROWS, shard.rows - (chunk - shard.first) * CHUNK_ROWS)
                part = shard.model_copy(update={"first": chunk, "last": chunk, "rows": rows})
                await render_here(workspace, part)

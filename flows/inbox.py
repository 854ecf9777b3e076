"""The inbox: files dropped into the bucket by any S3 client become videos, without a command."""

from collections.abc import Sequence
from functools import partial

from prefect import flow
from prefect.runtime import deployment, flow_run
from pydantic import Field

from avatar.errors import ApprovalDenied, AvatarError
from avatar.inbox.finish import (
    Outcomes,
    discard_manifest,
    keep_to_limit,
    read_outcomes,
    refuse_rows,
    require_done,
    write_manifest,
)
from avatar.inbox.sweep import Sweep
from avatar.inbox.upload_owner import Filed, Taken
from avatar.inbox.uploads import Inbox
from avatar.stored_models import Model
from avatar.workspace import Workspace
from flows.batch import approve_batch, render_shards
from tasks.batch import check_batch, report_batch
from tasks.context import with_workspace
from tasks.flow_runs import is_under_way
from tasks.inbox import file_uploads, show_uploads


class InboxOptions(Model):
    """How to look through the inbox."""

    wait_seconds: float = Field(
        0,
        title="Wait for",
        ge=0,
        le=300,
        description="Seconds to wait for uploads that are still changing. The next sweep takes what comes later.",
        examples=[30],
    )


@flow(name="take-uploads", flow_run_name="take uploads", retries=0, persist_result=False)
@with_workspace
async def take_uploads(workspace: Workspace, look: InboxOptions = InboxOptions()) -> None:  # noqa: B008 - frozen, and the form needs the default
    """Render every complete upload of the inbox that no other run has taken, and file it away.

    Args:
        look: how to look through the inbox.
    """
    inbox, run = Inbox(workspace), str(flow_run.id)
    swept = await Sweep(inbox, run, partial(is_under_way, workspace.settings.recovery)).run(look.wait_seconds)
    filed = [*swept.filed, *(await render_and_file(inbox, swept.taken, run) if swept.taken else ())]
    await show_uploads(inbox, filed, swept.waiting)
    require_done(filed)


async def render_and_file(inbox: Inbox, taken: Sequence[Taken], run: str) -> list[Filed]:
    """Render what was taken, and file it away, whatever became of it."""
    outcomes: Outcomes = {}
    stopped: AvatarError | None = None
    try:
        outcomes = await render_uploads(inbox, taken, run)
    except AvatarError as error:
        stopped = error
    filed = await file_uploads(inbox.workspace, taken, outcomes, stopped)
    await discard_manifest(inbox, taken, run)
    if stopped is not None:
        await show_uploads(inbox, filed, ())
        raise stopped
    return filed


async def render_uploads(inbox: Inbox, taken: Sequence[Taken], run: str) -> Outcomes:
    """How every row of the uploads ended. They are one batch: checked, priced and approved together."""
    if not any(each.rows for each in taken):
        return {}
    batch = await write_manifest(inbox, taken, run)
    workspace = inbox.workspace
    checked = await keep_to_limit(workspace, await check_batch(workspace, batch), taken)
    await report_batch(workspace, checked, run, batch.name)
    try:
        await approve_batch(workspace, checked)
    except ApprovalDenied as error:
        outcomes = await read_outcomes(workspace, checked, run, taken)
        return refuse_rows(outcomes, error, passes=deployment.id is None)
    if checked.ready:
        await render_shards(workspace, batch, checked, run)
        await report_batch(workspace, checked, run, batch.name)
    return await read_outcomes(workspace, checked, run, taken)

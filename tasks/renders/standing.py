"""Where a render stands, after what can be told without sending anything that is paid for."""

from tasks.jobs.notices import about_unknown, post
from tasks.renders import receipts
from tasks.renders.attach import settle_by_hint
from tasks.renders.hints import OPEN_ENDED
from tasks.storage.journal import Failure, Record, RenderState
from tasks.workspace import Workspace


async def current(workspace: Workspace, render_id: str) -> Record | None:
    """Where a render stands, after what can be told without sending anything that is paid for.

    A receipt on this machine, or a webhook that the provider confirms, settles an unknown render; an intent whose
    holder is gone and that neither settles becomes unknown.

    Raises:
        StoreUnavailable: the store failed.
        ProviderUnavailable: a person declared the render not charged, a webhook says otherwise, and the provider
            cannot be asked now.
    """
    record = await workspace.journal.head(render_id)
    if record is None or record.state not in OPEN_ENDED | {RenderState.INTENT}:
        return record
    if record.state is RenderState.INTENT and not record.lease_expired:
        return record
    receipt = await receipts.find_new(workspace.settings.state_dir, workspace.journal, render_id)
    if receipt is not None:
        written = await workspace.journal.append(record, RenderState.SUBMITTED, submission=receipt)
        if written is None:  # somebody wrote at the same moment; the receipt still holds
            return await current(workspace, render_id)
        receipts.drop(workspace.settings.state_dir, render_id)
    elif (settled := await settle_by_hint(workspace, record)) is not record:
        return settled
    elif record.state is RenderState.INTENT:
        written = await workspace.journal.append(record, RenderState.UNKNOWN, failure=_silent_holder(record))
        if written is not None:
            post(about_unknown(written))
    else:
        return record
    return written or await workspace.journal.head(render_id)


def _silent_holder(record: Record) -> Failure:
    return Failure(
        kind="holder_gone",
        message=f"{record.entry.holder} wrote its intent and gave no sign of life for {record.age or 0:.0f} s.",
    )

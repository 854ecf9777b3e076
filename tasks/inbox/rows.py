"""The jobs of the uploads that a run has taken, as one batch."""

import json
from collections.abc import Mapping, Sequence
from decimal import Decimal
from itertools import accumulate

from tasks.batches.models import Batch, Checked, OnBadRows, Outcome, RowState
from tasks.batches.report import each_outcome
from tasks.batches.sheets import JSON_LINES, read_rows, write_rows
from tasks.errors import AvatarError
from tasks.inbox.looking import ROWS
from tasks.inbox.models import Inbox, Taken
from tasks.jobs.notices import BudgetRefusal, post
from tasks.workspace import Workspace

Outcomes = Mapping[str, Sequence[Outcome]]


async def write_manifest(inbox: Inbox, taken: Sequence[Taken], owner: str) -> Batch:
    """Keep the rows of all uploads as a manifest in the store, in an order that is the same for the same uploads."""
    lines = [json.dumps(row, sort_keys=True) + "\n" for each in taken for row in each.rows]
    key = manifest_key(inbox, owner)
    await inbox.store.put(key, "".join(lines).encode(), content_type=JSON_LINES)
    names = [each.name for each in taken if each.rows]
    name = names[0] if len(names) == 1 else f"{len(names)} uploads"
    return Batch(manifest=inbox.address(key), on_bad_rows=OnBadRows.SKIP, name=f"inbox: {name}"[:100])


async def discard_manifest(inbox: Inbox, taken: Sequence[Taken], owner: str) -> None:
    """Remove the manifest, once all is filed; the batch has a copy of its own."""
    if any(each.rows for each in taken):
        await inbox.store.remove(manifest_key(inbox, owner))


def manifest_key(inbox: Inbox, owner: str) -> str:
    return f"{inbox.prefix}{ROWS}{owner}.jsonl"


def lines_of(taken: Sequence[Taken]) -> dict[str, range]:
    """The lines of the manifest, from 1, that belong to each upload, by signature."""
    ends = list(accumulate(len(each.rows) for each in taken))
    return {
        each.signature: range(end - len(each.rows) + 1, end + 1)
        for each, end in zip(taken, ends, strict=True)
    }


async def keep_to_limit(workspace: Workspace, checked: Checked, taken: Sequence[Taken]) -> Checked:
    """Take out the rows of uploads that would cost more than AVATAR_BUDGET__PER_BATCH: each is a batch of its own."""
    limit = workspace.settings.budget.per_batch
    if limit is None:
        return checked
    owed = await _owed(workspace, checked)
    for lines in lines_of(taken).values():
        amount = sum((owed.get(line, Decimal(0)) for line in lines), Decimal(0))
        if amount > limit:
            reason = (
                f"What is still to be bought of this upload is quoted at ${amount:.2f}, above the limit of ${limit:.2f} "
                "set by AVATAR_BUDGET__PER_BATCH. Nothing was sent or spent."
            )
            checked = await _take_out(workspace, checked, lines, reason)
            key = f"{checked.batch_id}:{lines.start}"
            post(BudgetRefusal(key=key, batch_id=checked.batch_id, reason=reason))
    return checked


async def _owed(workspace: Workspace, checked: Checked) -> dict[int, Decimal]:
    return {
        row.line: sum(row.owed.values(), Decimal(0))
        for sheet in range(checked.sheets)
        for row in await read_rows(workspace, checked.batch_id, sheet)
    }


async def _take_out(workspace: Workspace, checked: Checked, lines: range, reason: str) -> Checked:
    facts = {"state": RowState.BAD, "reason": reason, "hint": "Raise it, or upload fewer voices at once."}
    ready, owed = checked.ready, checked.owed
    for sheet in range(checked.sheets):
        rows = await read_rows(workspace, checked.batch_id, sheet)
        out = [row for row in rows if row.line in lines and row.plan is not None]
        ready, owed = ready - len(out), owed - sum((sum(row.owed.values()) for row in out), Decimal(0))
        refused = {
            row.line: row.model_copy(
                update={"plan": None, "owed": {}, "outcome": row.outcome.model_copy(update=facts)}
            )
            for row in out
        }
        await write_rows(workspace, checked.batch_id, sheet, [refused.get(row.line, row) for row in rows])
    return checked.model_copy(update={"ready": ready, "owed": owed, "bad": checked.rows - ready})


async def read_outcomes(workspace: Workspace, checked: Checked, run: str, taken: Sequence[Taken]) -> Outcomes:
    """How the rows of each upload ended, by signature. A row that is done by another's stands as that one does."""
    ended = {outcome.line: outcome async for outcome in each_outcome(workspace, checked, run)}
    firsts = {each.job_id: each for each in ended.values() if each.state is not RowState.DUPLICATE}
    return {
        signature: [_own(ended[line], firsts) for line in lines if line in ended]
        for signature, lines in lines_of(taken).items()
    }


def _own(outcome: Outcome, firsts: Mapping[str, Outcome]) -> Outcome:
    first = firsts.get(outcome.job_id) if outcome.state is RowState.DUPLICATE else None
    return first.model_copy(update={"line": outcome.line, "voice": outcome.voice}) if first else outcome


def refused(outcomes: Outcomes, error: AvatarError, *, passes: bool) -> Outcomes:
    """The outcomes after what was still to be done was refused as a whole."""
    facts = {
        "state": RowState.REFUSED, "reason": str(error), "hint": error.hint or "", "passes": passes,
    }  # fmt: skip
    return {
        signature: [
            each.model_copy(update=facts) if each.state is RowState.WAITING else each for each in rows
        ]
        for signature, rows in outcomes.items()
    }

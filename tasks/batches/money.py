"""The price of a whole batch against every limit, before anything is sent."""

from datetime import UTC, datetime
from decimal import Decimal

from tasks.batches.models import Batch, Checked
from tasks.batches.sheets import read_rows
from tasks.errors import BudgetRefused
from tasks.storage.budget import total
from tasks.workspace import Workspace


async def check_budget(workspace: Workspace, batch: Batch, checked: Checked) -> None:
    """Raise `BudgetRefused` if what is still to be bought is above what one batch, or the day, may cost.

    The day's money is claimed job by job as they are sent, so another batch may take it in between; then the jobs
    that no longer fit are refused one by one, and reported.
    """
    budget = workspace.settings.budget
    limits = {"max_cost (--max-cost)": batch.max_cost, "AVATAR_BUDGET__PER_BATCH": budget.per_batch}
    for name, limit in limits.items():
        if limit is not None and checked.owed > limit:
            raise BudgetRefused(
                f"This batch is quoted at ${checked.owed:.2f} for what is still to be bought of its {checked.rows} rows, "
                f"above the limit of ${limit:.2f} set by {name}. Nothing was sent or spent.",
                hint=f"Raise {name}, take rows out, or use the free preview provider.",
            )
    if budget.per_day is not None and checked.owed:
        await _check_day(workspace, checked, budget.per_day)


async def _check_day(workspace: Workspace, checked: Checked, limit: Decimal) -> None:
    day = f"{datetime.now(UTC).date():%Y-%m-%d}"
    claims = await workspace.budget.claims(day)
    taken, counted = total(claims), {claim.render_id for claim in claims}
    asked = Decimal(0)
    for sheet in range(checked.sheets):
        for row in await read_rows(workspace, checked.batch_id, sheet):
            # A run that was killed may have left claims for these very renders.
            asked += sum((sum_ for name, sum_ in row.owed.items() if name not in counted), Decimal(0))
    if taken + asked > limit:
        raise BudgetRefused(
            f"This batch asks for ${asked:.2f}; ${taken:.2f} of the ${limit:.2f} for {day} (UTC) set by "
            "AVATAR_BUDGET__PER_DAY are spent or set aside. Nothing was sent or spent.",
            hint="Raise AVATAR_BUDGET__PER_DAY, split the manifest, or run it again tomorrow.",
        )

"""The day's money for the rows of a sheet, set aside a group at a time.

Counting a day lists every claim of it. Done for each row of a large batch that would grow with the square of its rows.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Mapping, Sequence
from decimal import Decimal

from tasks.batches.models import Row
from tasks.errors import BudgetRefused, StoreUnavailable
from tasks.jobs.commit import release_unspent
from tasks.models import Plan
from tasks.workspace import Workspace

#: Rows claimed for together.
GROUP = 50


class Purse:
    """Claims for a row and for those that come next. Where a group does not fit, each row claims for itself."""

    def __init__(self, workspace: Workspace, rows: Sequence[Row]) -> None:
        self._workspace = workspace
        self._ahead = deque(row for row in rows if row.plan is not None and row.owed)
        self._claimed: dict[str, str] = {}  # the day, by render
        self._unused: dict[str, Plan] = {}  # by the first render they are claimed under
        self._lock = asyncio.Lock()

    async def claim(self, amounts: Mapping[str, Decimal]) -> str:
        """As `Budget.claim`: the day the claims stand on."""
        async with self._lock:
            if not all(name in self._claimed for name in amounts):
                await self._claim_group(amounts)
            for name in amounts:
                self._unused.pop(name, None)
            return self._claimed[next(iter(amounts))]

    async def _claim_group(self, amounts: Mapping[str, Decimal]) -> None:
        budget = self._workspace.budget
        group = self._next_rows() if budget.per_day is not None else []
        together = {name: sum_ for row in group for name, sum_ in row.owed.items()} | dict(amounts)
        try:
            day = await budget.claim(together)
            self._unused |= {next(iter(row.owed)): row.plan for row in group if row.plan}
        except BudgetRefused:
            if not group:
                raise
            together = dict(amounts)
            day = await budget.claim(together)
        self._claimed |= dict.fromkeys(together, day)

    def _next_rows(self) -> list[Row]:
        return [self._ahead.popleft() for _ in range(min(GROUP, len(self._ahead)))]

    async def give_back(self) -> None:
        """Release what was set aside for rows that did not get so far as to need it."""
        for name, plan in self._unused.items():
            with contextlib.suppress(StoreUnavailable):  # `reconcile` gives it back then
                await release_unspent(self._workspace, plan, self._claimed[name])
        self._unused.clear()

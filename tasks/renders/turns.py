"""A turn at a provider's account: held for as long as it has a render, so that all runs together keep to its limit."""

import contextlib
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol

from tasks.jobs.commit import unpaid
from tasks.models import Plan, ProviderName, Segment
from tasks.renders.order import Order, order_for
from tasks.storage.journal import RenderState
from tasks.workspace import Workspace

#: A job that waited longer than this for a turn, in seconds, sets its money aside anew: what is set aside and never
#: sent is given back after some hours, and the day may have ended.
CLAIM_ANEW_AFTER = 3600.0

_UNDER_WAY = {RenderState.INTENT, RenderState.SUBMITTED}


class Turns(Protocol):
    """Counts the renders that the accounts have."""

    def hold(self, provider: ProviderName, *, under_way: bool) -> AbstractAsyncContextManager[None]:
        """Hold a turn while the block runs. A render that is `under_way` counts, and does not wait for its turn."""


class NoTurns:
    """Where nobody else counts: each render may go at once."""

    def hold(self, provider: ProviderName, *, under_way: bool) -> AbstractAsyncContextManager[None]:  # noqa: ARG002
        return contextlib.nullcontext()


@asynccontextmanager
async def its_turn(
    workspace: Workspace, plan: Plan, segment: Segment, claimed_on: str | None, turns: Turns
) -> AsyncIterator[str | None]:
    """Wait for a turn before the intent is written, and hold it while the provider has the render.

    What is free, at rest or in the store already takes none. Yields the day on which the render's price is claimed.

    Raises:
        BudgetRefused: it waited so long that its money was to be set aside anew, and the day has none left.
        StoreUnavailable: the store failed. Nothing was sent.
    """
    order = order_for(workspace, plan, segment)
    head = await workspace.journal.head(order.render_id) if order.provider.capabilities.paid else None
    under_way = head is not None and head.state in _UNDER_WAY
    if not order.provider.capabilities.paid or not (under_way or unpaid(head)):
        yield claimed_on
        return
    began = time.monotonic()
    async with turns.hold(plan.provider, under_way=under_way):
        if claimed_on is not None and time.monotonic() - began > CLAIM_ANEW_AFTER:
            claimed_on = await _claim_anew(workspace, order)
        yield claimed_on


async def _claim_anew(workspace: Workspace, order: Order) -> str:
    await workspace.budget.withdraw(order.render_id)
    return await workspace.budget.claim({order.render_id: order.quoted})

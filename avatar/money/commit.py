"""Commit to a job's price before its first paid request, and put the books straight afterwards."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from decimal import Decimal

from pydantic import ValidationError

from avatar.errors import StoreUnavailable
from avatar.models import Plan
from avatar.money.journal import Record, RenderState
from avatar.money.quote import Order, order_for
from avatar.workspace import Workspace

#: Sets money aside, in US dollars by render id; the day it stands on.
Claim = Callable[[Mapping[str, Decimal]], Awaitable[str]]

_NOT_CHARGED = {RenderState.NOT_SENT, RenderState.REFUSED, RenderState.RESOLVED}


def plan_key(job_id: str) -> str:
    return f"jobs/{job_id}.json"


async def load_plan(workspace: Workspace, job_id: str) -> Plan:
    """The plan a job was committed with, so that anybody can finish it. Raises `ObjectNotFound`."""
    blob = await workspace.store.get(plan_key(job_id))
    try:
        return Plan.model_validate_json(blob.data)
    except ValidationError as error:
        raise StoreUnavailable(
            f"The plan of job {job_id} cannot be read: run the job again to plan it anew."
        ) from error


async def commit_job(workspace: Workspace, plan: Plan, *, claim: Claim | None = None) -> str | None:
    """Write the plan down, and claim the day's budget for every render that is not bought yet.

    Args:
        workspace: settings, store and journal.
        plan: the job's plan.
        claim: claims in place of `Budget.claim`, perhaps for other jobs too.

    Returns:
        The UTC day the claims stand on; None when there is nothing to claim.

    Raises:
        BudgetRefused: the day's limit would be passed. Nothing was sent.
        StoreUnavailable: it cannot be counted. Nothing was sent.
    """
    await workspace.store.put(
        plan_key(plan.job_id), plan.model_dump_json().encode(), content_type="application/json"
    )
    amounts = await still_to_buy(workspace, plan)
    return await (claim or workspace.budget.claim)(amounts) if amounts else None


async def still_to_buy(workspace: Workspace, plan: Plan) -> dict[str, Decimal]:
    """US dollars by render id for what the job has yet to pay; empty for a free provider."""
    if not workspace.provider(plan.provider).capabilities.paid:
        return {}
    heads = await _heads(workspace, plan)
    return {order.render_id: order.quoted for order, head in heads if unpaid(head)}


async def release_unspent(workspace: Workspace, plan: Plan, day: str | None) -> None:
    """Give back what was claimed for renders that were not charged after all."""
    if day is None:
        return
    for order, head in await _heads(workspace, plan):
        if unpaid(head):
            await workspace.budget.withdraw(order.render_id)


async def _heads(workspace: Workspace, plan: Plan) -> Sequence[tuple[Order, Record | None]]:
    orders = [order_for(workspace, plan, segment) for segment in plan.segments]
    return [(order, await workspace.journal.head(order.render_id)) for order in orders]


def unpaid(head: Record | None) -> bool:
    """Whether no money was, or may have been, spent for it so far."""
    if head is None or head.state in _NOT_CHARGED:
        return True
    failure = head.entry.failure
    return head.state is RenderState.FAILED and failure is not None and failure.billed is False

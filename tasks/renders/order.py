"""One render to be bought: what, by whom, at what price, under which name."""

from dataclasses import dataclass
from decimal import Decimal

from tasks.jobs.identity import render_id as identify
from tasks.jobs.quote import price_segment
from tasks.models import Plan, Segment
from tasks.providers.base import Provider
from tasks.workspace import Workspace


@dataclass(frozen=True)
class Order:
    """One render to be bought: what, by whom, at what price."""

    render_id: str
    plan: Plan
    segment: Segment
    provider: Provider
    quoted: Decimal


def order_for(workspace: Workspace, plan: Plan, segment: Segment) -> Order:
    provider = workspace.provider(plan.provider)
    return Order(
        render_id=identify(
            portrait=plan.portrait, segment=segment, prompt=plan.prompt, model=plan.model, take=plan.take
        ),
        plan=plan,
        segment=segment,
        provider=provider,
        quoted=price_segment(segment, provider.price_per_second),
    )

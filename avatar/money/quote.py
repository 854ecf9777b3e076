"""One render to be bought: what, by whom, at what price, under which name."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from avatar.errors import BudgetRefused
from avatar.models import AvatarJob, Plan
from avatar.models import render_id as identify
from avatar.option_names import named
from avatar.providers.base import Provider
from avatar.settings_sections import BudgetSettings
from avatar.stored_models import ProviderName, Quote, Segment
from avatar.workspace import Workspace

# What a job costs before it runs.
CENT_FRACTION = Decimal("0.0001")


def price_segment(segment: Segment, price_per_second: Decimal) -> Decimal:
    """US dollars for one segment, its length rounded up to whole seconds.

    Providers bill the video's length, which is a little above the voice's (3.008 s for 3 s was seen on fal).
    """
    return (math.ceil(round(segment.seconds, 3)) * price_per_second).quantize(CENT_FRACTION)


def quote_segments(
    segments: Sequence[Segment], *, provider: ProviderName, price_per_second: Decimal
) -> Quote:
    return Quote(
        provider=provider,
        seconds=sum(math.ceil(round(segment.seconds, 3)) for segment in segments),
        price_per_second=price_per_second,
        amount=sum((price_segment(segment, price_per_second) for segment in segments), Decimal(0)),
    )


def bill_differs(quoted: Decimal, billed: Decimal, price_per_second: Decimal) -> bool:
    """Whether a bill is further from its quote than the rounding of a length explains: a second, and 5 per cent."""
    return abs(billed - quoted) > price_per_second + quoted / 20


def check_price(quote: Quote, job: AvatarJob, budget: BudgetSettings) -> None:
    """Raise `BudgetRefused` if one job alone is above what the user allows for one job."""
    limits = {named("max_cost"): job.max_cost, "AVATAR_BUDGET__PER_JOB": budget.per_job}
    for name, limit in limits.items():
        if limit is not None and quote.amount > limit:
            raise BudgetRefused(
                f"This job is quoted at ${quote.amount:.2f} ({quote.seconds:g} s at ${quote.price_per_second}/s on "
                f"{quote.provider}), above the limit of ${limit:.2f} set by {name}. Nothing was sent or spent.",
                provider=quote.provider,
                hint=f"Raise {name}, shorten the voice, or render the free preview ({named('provider')} preview).",
            )


def describe_plan(plan: Plan) -> str:
    """The plan and its price in one line, for a log."""
    pieces = f"{len(plan.segments)} segments" if len(plan.segments) > 1 else "one segment"
    return (
        f"{plan.voice.seconds:.2f} s of voice in {pieces}, quoted at ${plan.quote.amount:.2f} "
        f"({plan.quote.seconds:g} s at ${plan.quote.price_per_second}/s on {plan.provider})."
    )


@dataclass(frozen=True)
class QuotedRender:
    """One render to be bought: what, by whom, at what price."""

    render_id: str
    plan: Plan
    segment: Segment
    provider: Provider
    quoted: Decimal


def quote_render(workspace: Workspace, plan: Plan, segment: Segment) -> QuotedRender:
    provider = workspace.provider(plan.provider, plan.model)
    return QuotedRender(
        render_id=identify(
            portrait=plan.portrait, segment=segment, prompt=plan.prompt, model=plan.model, take=plan.take
        ),
        plan=plan,
        segment=segment,
        provider=provider,
        quoted=price_segment(segment, provider.price_per_second),
    )

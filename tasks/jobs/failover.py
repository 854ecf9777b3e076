"""Ask another provider, and only after the first one surely neither made nor charged the render."""

from tasks.errors import AvatarError, RenderFailed, SubmitRefused
from tasks.jobs.quote import check_price, quote_segments
from tasks.models import AvatarJob, Plan, Segment
from tasks.providers.base import Limits
from tasks.renders.order import order_for
from tasks.workspace import Workspace


def surely_unbilled(error: BaseException) -> bool:
    """Whether nothing was charged, for certain. An unknown outcome is not: it may be rendering right now."""
    return isinstance(error, SubmitRefused) or (isinstance(error, RenderFailed) and error.billed is False)


def fits(segment: Segment, limits: Limits) -> bool:
    """Whether a segment as it was made for one provider is also within another's limits."""
    return (
        limits.min_seconds <= segment.seconds <= limits.max_seconds
        and segment.asset.size <= limits.max_audio_bytes
        and segment.asset.key.rsplit(".", 1)[-1] in limits.audio_containers
    )


async def stand_in(
    workspace: Workspace, job: AvatarJob, plan: Plan, segment: Segment, error: BaseException
) -> tuple[Plan, str | None] | None:
    """The plan by which AVATAR_FAILOVER renders `segment`, and the day its price is claimed on.

    Returns:
        None if there is no other provider, it would not take the segment, or the failure is not surely unbilled.

    Raises:
        BudgetRefused: the other's price passes a limit.
        NotConfigured: the other has no key.
    """
    name = workspace.settings.failover
    if name is None or name == plan.provider or not surely_unbilled(error):
        return None
    provider = workspace.provider(name)
    if provider.model != plan.model or not fits(segment, provider.limits):
        return None
    provider.check_configured()
    quote = quote_segments(plan.segments, provider=name, price_per_second=provider.price_per_second)
    check_price(quote, job, workspace.settings.budget)
    other = plan.model_copy(update={"provider": name, "quote": quote})
    order = order_for(workspace, other, segment)
    return other, await workspace.budget.claim({order.render_id: order.quoted})


def explain(error: AvatarError, name: str) -> str:
    return f"{error} Asking {name} instead (AVATAR_FAILOVER): nothing was charged for the first attempt."

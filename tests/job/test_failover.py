"""Another provider is asked only after the first one surely neither made nor charged the render."""

from decimal import Decimal

import pytest

from avatar.errors import BudgetRefused, OutcomeUnknown, RenderFailed, SubmitRefused, Throttled
from avatar.job.produce import plan_failover
from avatar.models import AvatarJob, Limits
from avatar.money.quote import quote_render
from avatar.money.submit import submit_render
from avatar.stored_models import ProviderName
from tests.money.conftest import inputs, make_workspace, plan  # noqa: F401 - fixtures
from tests.money.scripted import Scripted

JOB = AvatarJob(portrait="p", voice="v")


class Other(Scripted):
    name = ProviderName.PIXAZO


def with_other(make_workspace, first: Scripted, other: Other, **overrides):  # noqa: F811
    workspace = make_workspace(first, failover="pixazo", **overrides)
    workspace._providers[other.name, other.model] = other
    return workspace


async def test_a_refused_render_is_bought_next_door_under_the_same_journal(make_workspace, plan):  # noqa: F811
    """One render id, two intents, one acceptance, by the other provider."""
    workspace = with_other(make_workspace, Scripted(SubmitRefused("no balance")), other := Other("req-px"))
    with pytest.raises(SubmitRefused) as caught:
        await submit_render(workspace, plan, plan.segments[0])
    replanned, claim = await plan_failover(workspace, JOB, plan, plan.segments[0], caught.value)
    record = await submit_render(workspace, replanned, plan.segments[0], claim=claim)
    assert record.entry.submission.provider is ProviderName.PIXAZO
    assert len(other.seen) == 1
    history = await workspace.journal.history(quote_render(workspace, plan, plan.segments[0]).render_id)
    assert [record.state.value for record in history] == ["intent", "refused", "intent", "submitted"]


@pytest.mark.parametrize(
    "error",
    [
        OutcomeUnknown("cut"),
        RenderFailed("maybe charged", billed=None),
        RenderFailed("charged", billed=True),
        Throttled("busy"),
        TimeoutError("slow"),
    ],
)
async def test_what_may_have_been_charged_is_never_asked_for_next_door(make_workspace, plan, error):  # noqa: F811
    """Unknown is not failed: it may be rendering right now."""
    workspace = with_other(make_workspace, Scripted(), Other("req-px"))
    assert await plan_failover(workspace, JOB, plan, plan.segments[0], error) is None


async def test_it_is_off_unless_set(make_workspace, plan):  # noqa: F811
    """Without AVATAR_FAILOVER a refusal stays a refusal."""
    workspace = make_workspace(Scripted())
    assert await plan_failover(workspace, JOB, plan, plan.segments[0], SubmitRefused("no")) is None


async def test_the_other_has_its_own_limits_and_price(make_workspace, plan):  # noqa: F811
    """Too long for the other: no failover. Too dear: refused by the budget, before anything is sent."""
    strict, dear = Other(), Other()
    strict.limits = Limits(max_seconds=5)
    dear.price_per_second = Decimal(100)
    segment, refusal = plan.segments[0], SubmitRefused("no")
    assert (
        await plan_failover(with_other(make_workspace, Scripted(), strict), JOB, plan, segment, refusal)
        is None
    )
    limited = with_other(make_workspace, Scripted(), dear, budget={"per_job": Decimal(2)})
    with pytest.raises(BudgetRefused):
        await plan_failover(limited, JOB, plan, segment, refusal)

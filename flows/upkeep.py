"""Flows that look after the others: `reconcile` finishes what was left behind, `resolve` settles the unknown."""

from enum import StrEnum

from prefect import flow, get_run_logger
from pydantic import Field

from flows.equipment import equipment
from flows.recovery import resume_dead_runs
from tasks.announcing import announcing
from tasks.artifacts import show_reconciled
from tasks.models import Model
from tasks.renders.reconcile import finish_render, reconcile_renders
from tasks.renders.resolve import attach_request, declare_not_charged, signed_by
from tasks.workspace import workspace


class Upkeep(Model):
    """How far `reconcile` may go."""

    idle_seconds: float | None = Field(
        None,
        title="Idle for",
        ge=0,
        le=86_400,
        description="Seconds without a sign of life after which a render is taken over. Empty: twice the polling window.",
        examples=[240],
    )
    resume_runs: bool = Field(
        True,
        title="Resume runs",
        description="Start crashed and stale flow runs again, a bounded number of times.",
    )


class Verdict(StrEnum):
    CHARGED = "request found"
    NOT_CHARGED = "not charged"


class Settlement(Model):
    """What a person found out about a render whose outcome is unknown."""

    render_id: str = Field(
        title="Render",
        pattern=r"^[0-9a-f]{32}$",
        description="The render id that the error named.",
        examples=["0" * 32],
    )
    verdict: Verdict = Field(
        title="Verdict",
        description="Whether the provider's dashboard shows the request. `not charged` lets it be sent again.",
    )
    request_id: str | None = Field(
        None,
        title="Request id",
        max_length=512,
        description="The provider's id of the request, if it was found.",
    )
    who: str = Field(
        "somebody in the Prefect UI", title="Who", max_length=100, description="Noted in the journal."
    )


@flow(name="reconcile", flow_run_name="put things straight")
async def reconcile(upkeep: Upkeep = Upkeep()) -> None:  # noqa: B008 - frozen, and the form needs the default
    """Finish, settle or report whatever earlier runs left behind. Never sends a paid request.

    Args:
        upkeep: how far to go.
    """
    async with announcing(), equipment():
        found = await reconcile_renders(workspace(), idle_seconds=upkeep.idle_seconds)
        resumed = await resume_dead_runs(workspace().settings.recovery) if upkeep.resume_runs else []
        get_run_logger().info(
            "Collected %d, published %d, still rendering %d, unknown %d; %d runs started again.",
            len(found.collected), len(found.published), len(found.running), len(found.unknown), len(resumed),
        )  # fmt: skip
        await show_reconciled(found, resumed)


@flow(name="resolve", flow_run_name="settle {settlement.render_id}")
async def resolve(settlement: Settlement) -> str:
    """Settle a render whose outcome is unknown, as `avatar resolve` does. Spends nothing.

    Args:
        settlement: what was found out.
    """
    async with announcing(), equipment():
        by = signed_by(settlement.who)
        if settlement.verdict is Verdict.NOT_CHARGED:
            await declare_not_charged(workspace(), settlement.render_id, by=by)
            return "settled as not charged"
        await attach_request(workspace(), settlement.render_id, settlement.request_id or "", by=by)
        found = await finish_render(workspace(), settlement.render_id)
        get_run_logger().info(found["text"])
        return found["state"]

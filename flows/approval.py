"""A person's word before a dear job is paid: the run suspends, shows its quote, and resumes from the Prefect UI."""

from typing import Any

from prefect.flow_runs import suspend_flow_run
from prefect.input import RunInput
from prefect.runtime import deployment
from pydantic import Field

from tasks.errors import ApprovalDenied
from tasks.models import Plan
from tasks.settings import BudgetSettings

#: Segments listed in the question; a voice of hours has hundreds.
SHOWN = 20


class Approval(RunInput):
    """Approve the price, or deny it. Nothing has been sent to the provider yet."""

    approved: bool = Field(
        False, title="Approved", description="Tick to pay the quoted price; leave to refuse it."
    )
    who: str = Field("", title="Who", max_length=100, description="Your name, for the run's log.")


async def approve(plan: Plan, budget: BudgetSettings) -> None:
    """Return if the job may be paid for: it is below AVATAR_BUDGET__APPROVE_ABOVE, or a person approved it.

    The first call suspends the run, which ends its process; resumed, the flow begins again from the top, finds its
    plan in the cache, and this call returns the person's answer.

    Raises:
        ApprovalDenied: a person said no, or there is nobody to ask: only runs of a deployment can be suspended.
    """
    limit = budget.approve_above
    if limit is None or plan.quote.amount <= limit:
        return
    if deployment.id is None:
        raise ApprovalDenied(
            f"This job is quoted at ${plan.quote.amount:.2f}, above the ${limit:.2f} of AVATAR_BUDGET__APPROVE_ABOVE, "
            "and only a run of a deployment can wait for approval. Nothing was sent or spent.",
            hint="Start it from the Prefect UI as generate-avatar, or raise AVATAR_BUDGET__APPROVE_ABOVE.",
        )
    question: Any = Approval.with_initial_data(description=_ask(plan))
    answer: Approval = await suspend_flow_run(
        wait_for_input=question, key=f"approve-{plan.job_id}-{plan.take}", timeout=budget.approval_seconds
    )
    if not answer.approved:
        raise ApprovalDenied(
            f"{answer.who or 'Somebody'} denied the ${plan.quote.amount:.2f} of this job. Nothing was sent or spent."
        )


def _ask(plan: Plan) -> str:
    """The quote as Markdown, above the form."""
    rows = "\n".join(
        f"| {segment.index + 1} | {segment.start:.1f} s | {segment.seconds:.1f} s |"
        for segment in plan.segments[:SHOWN]
    )
    more = f"\n\n… and {len(plan.segments) - SHOWN} more." if len(plan.segments) > SHOWN else ""
    return (
        f"## Pay ${plan.quote.amount:.2f} to {plan.provider}?\n\n"
        f"{plan.voice.seconds:.1f} s of voice, {plan.quote.seconds:g} s billed at ${plan.quote.price_per_second}/s, "
        f"in {len(plan.segments)} segment(s).\n\n"
        f"| segment | from | length |\n| --- | --- | --- |\n{rows}{more}\n\n"
        f"Portrait `{plan.portrait.source.key}`, voice `{plan.voice.source.key}`. Nothing has been sent yet."
    )

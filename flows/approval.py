"""A person's word before a dear job is paid: the run suspends, shows its quote, and resumes from the Prefect UI."""

from collections.abc import Awaitable, Callable
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from prefect import get_run_logger
from prefect.flow_runs import suspend_flow_run
from prefect.input import RunInput
from prefect.runtime import deployment
from pydantic import Field

from avatar.errors import ApprovalDenied, AvatarError
from avatar.events import player_url
from avatar.models import AvatarJob, Plan, Video
from avatar.settings import AvatarSettings, BudgetSettings

#: Segments listed in the question; a voice of hours has hundreds.
SHOWN = 20


class Approval(RunInput):
    """Approve the price, or deny it. Nothing has been sent to the provider yet."""

    approved: bool = Field(
        False, title="Approved", description="Tick to pay the quoted price; leave to refuse it."
    )
    who: str = Field("", title="Who", max_length=100, description="Your name, for the run's log.")


def needs_approval(amount: Decimal, budget: BudgetSettings) -> bool:
    """Whether a price, in US dollars, is above AVATAR_BUDGET__APPROVE_ABOVE."""
    return budget.approve_above is not None and amount > budget.approve_above


async def approve(
    job: AvatarJob,
    plan: Plan,
    owed: Decimal,
    settings: AvatarSettings,
    preview: Callable[[], Awaitable[Video]],
) -> None:
    """Return if the job may be paid for: it is cheap enough, or a person approved it.

    Args:
        job: what was asked for.
        plan: what would be paid for.
        owed: US dollars still to be paid of its quote; the rest was paid by an earlier run.
        settings: the limit, whether `preview` is rendered first, and where the gallery is.
        preview: renders the same job for nothing, so that people approve something they saw.

    Raises:
        ApprovalDenied: a person said no, or there is nobody to ask.
    """
    if not needs_approval(owed, settings.budget):
        return
    seen = await _show(preview, settings) if settings.budget.preview_first and deployment.id else ""
    await ask(f"{plan.job_id}-{plan.take}", "job", owed, _price(job, plan, owed) + seen, settings.budget)


async def ask(name: str, what: str, amount: Decimal, question: str, budget: BudgetSettings) -> None:
    """Return once a person approves.

    The first call suspends the run, which ends its process; resumed, the flow begins again from the top, finds its
    work in the cache, and this call returns the person's answer.

    Args:
        name: tells this question from others of the run.
        what: `job` or `batch`.
        amount: the price, in US dollars.
        question: Markdown, shown above the form.
        budget: the limit, and how long to wait.

    Raises:
        ApprovalDenied: a person said no, or there is nobody to ask: only runs of a deployment can be suspended.
    """
    if deployment.id is None:
        raise ApprovalDenied(
            f"This {what} is quoted at ${amount:.2f}, above the ${budget.approve_above:.2f} of "
            "AVATAR_BUDGET__APPROVE_ABOVE, and only a run of a deployment can wait for approval. Nothing was sent or spent.",
            hint="Start it from the Prefect UI, or raise AVATAR_BUDGET__APPROVE_ABOVE.",
        )
    form: Any = Approval.with_initial_data(description=question)
    answer: Approval = await suspend_flow_run(
        wait_for_input=form, key=f"approve-{name}", timeout=budget.approval_seconds
    )
    if not answer.approved:
        raise ApprovalDenied(
            f"{answer.who or 'Somebody'} denied the ${amount:.2f} of this {what}. Nothing was sent or spent."
        )
    get_run_logger().info("%s approved the $%s of this %s.", answer.who or "Somebody", amount, what)


async def _show(preview: Callable[[], Awaitable[Video]], settings: AvatarSettings) -> str:
    """A line that leads to the preview. One that cannot be made is no reason not to ask."""
    try:
        video = await preview()
    except AvatarError as error:
        return f"\n\nThe free preview could not be rendered: {error}"
    link = player_url(settings, video.job_id)
    where = f"[Watch the free preview]({link})" if link else f"The free preview is `{video.uri}`"
    return f"\n\n{where}: the same voice and cuts, without the paid model."


def _price(job: AvatarJob, plan: Plan, owed: Decimal) -> str:
    """The quote as Markdown."""
    rows = "\n".join(
        f"| {segment.index + 1} | {segment.start:.1f} s | {segment.seconds:.1f} s |"
        for segment in plan.segments[:SHOWN]
    )
    paid = f" ${plan.quote.amount - owed:.2f} of it is paid already." if owed < plan.quote.amount else ""
    more = f"\n\n… and {len(plan.segments) - SHOWN} more." if len(plan.segments) > SHOWN else ""
    return (
        f"## Pay ${owed:.2f} to {plan.provider}?\n\n"
        f"{plan.voice.seconds:.1f} s of voice, {plan.quote.seconds:g} s billed at ${plan.quote.price_per_second}/s, "
        f"in {len(plan.segments)} segment(s).{paid}\n\n"
        f"| segment | from | length |\n| --- | --- | --- |\n{rows}{more}\n\n"
        f"{_warnings(plan)}"
        f"Portrait `{_name(job.portrait)}`, voice `{_name(job.voice)}`. Nothing has been sent yet."
    )


def _warnings(plan: Plan) -> str:
    return "".join(f"**{warning.text}** {warning.hint}\n\n" for warning in plan.warnings)


def _name(source: str) -> str:
    """The file's name. What follows it in an address may be a signature."""
    return PurePosixPath(urlsplit(source).path if "://" in source else source).name

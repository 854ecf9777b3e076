"""A person's answer before a dear job is paid: the run suspends, shows its quote, and resumes from the Prefect UI."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Any, Literal
from urllib.parse import urlsplit

from prefect import get_run_logger
from prefect.artifacts import acreate_markdown_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.exceptions import Pause
from prefect.input import RunInput
from prefect.input.run_input import keyset_from_paused_state
from prefect.runtime import deployment, flow_run
from prefect.states import Suspended
from prefect.utilities.engine import propose_state
from pydantic import Field, model_validator

from avatar.errors import ApprovalDenied, AvatarError
from avatar.events import ApprovalWanted, player_url
from avatar.models import AvatarJob, Plan, Video
from avatar.option_names import at_form
from avatar.settings import AvatarSettings
from avatar.settings_sections import BudgetSettings
from avatar.workspace import Workspace
from tasks.artifacts import write_artifact

#: Segments listed in the question; a voice of hours has hundreds.
SHOWN = 20
HOW_TO_ANSWER = "Resume the run in the Prefect UI, or use `avatar approve RUN` or `avatar refuse RUN`."


class Approval(RunInput):
    """Approve the price, or refuse it. Nothing has been sent to the provider yet."""

    answer: Literal["Approve", "Refuse"] = Field(
        title="Answer",
        description="Approve pays the quoted price; Refuse ends the run, and nothing is spent.",
    )
    who: str = Field("", title="Who", max_length=100, description="Your name, for the run's log.")

    @model_validator(mode="before")
    @classmethod
    def _as_answered_before(cls, given: Any) -> Any:
        """Runs that were answered before there were two choices hold a switch."""
        if isinstance(given, dict) and "approved" in given:
            said = given.pop("approved")
            given.setdefault("answer", "Approve" if said else "Refuse")
        return given


def needs_approval(amount: Decimal, budget: BudgetSettings) -> bool:
    """Whether a price, in US dollars, is above AVATAR_BUDGET__APPROVE_ABOVE."""
    return budget.approve_above is not None and amount > budget.approve_above


async def approve(
    workspace: Workspace, job: AvatarJob, plan: Plan, owed: Decimal, preview: Callable[[], Awaitable[Video]]
) -> None:
    """Return if the job may be paid for: it is cheap enough, or a person approved it.

    Args:
        workspace: has the limit, and says whether `preview` is rendered first.
        job: what was asked for.
        plan: what would be paid for.
        owed: US dollars still to be paid of its quote; the rest was paid by an earlier run.
        preview: renders the same job for nothing, so that people approve something they saw.

    Raises:
        ApprovalDenied: a person said no, or there is nobody to ask.
    """
    settings = workspace.settings
    if not needs_approval(owed, settings.budget):
        return
    seen = await _show(preview, settings) if settings.budget.preview_first and deployment.id else ""
    await ask(workspace, f"{plan.job_id}-{plan.take}", "job", owed, _price(job, plan, owed) + seen)


async def ask(workspace: Workspace, name: str, what: str, amount: Decimal, question: str) -> None:
    """Return once a person approves.

    The first call suspends the run, which ends its process; resumed, the flow begins again from the top, finds its
    work in the cache, and this call returns the person's answer.

    Args:
        workspace: has the limit, and how long to wait; the event that somebody is waited for goes out by it.
        name: tells this question from others of the run.
        what: `job` or `batch`.
        amount: the price, in US dollars.
        question: Markdown, shown above the form.

    Raises:
        ApprovalDenied: a person said no, or there is nobody to ask: only runs of a deployment can be suspended.
    """
    if deployment.id is None:
        raise ApprovalDenied(
            f"This {what} is quoted at ${amount:.2f}, above the ${workspace.settings.budget.approve_above:.2f} of "
            "AVATAR_BUDGET__APPROVE_ABOVE, and only a run of a deployment can wait for approval. Nothing was sent or spent.",
            hint="Start it from the Prefect UI, or raise AVATAR_BUDGET__APPROVE_ABOVE.",
        )
    answer = await _answer(workspace, name, what, amount, question)
    who = answer.who or "Somebody"
    if answer.answer == "Refuse":
        raise ApprovalDenied(f"{who} refused the ${amount:.2f} of this {what}. Nothing was sent or spent.")
    get_run_logger().info("%s approved the $%s of this %s.", who, amount, what)


async def _answer(workspace: Workspace, name: str, what: str, amount: Decimal, question: str) -> Approval:
    """What a person said; until then the run is suspended, and its state says for whom, how much, and how long.

    As `prefect.flow_runs.suspend_flow_run` does it, which gives the state no message.
    """
    until = datetime.now(UTC) + timedelta(seconds=workspace.settings.budget.approval_seconds)
    waiting = f"Waiting for you: ${amount:.2f} until {until:%Y-%m-%d %H:%M} UTC."
    state: State[Any] = Suspended(
        pause_expiration_time=until,
        pause_key=f"approve-{name}",
        message=f"{waiting} Next: Resume, then Approve or Refuse.",
    )
    keys = keyset_from_paused_state(state)
    state.state_details.run_input_keyset = {str(name): key for name, key in keys.items()}
    form: Any = Approval.with_initial_data(description=question)
    async with get_client() as client:
        state = await propose_state(client=client, state=state, flow_run_id=flow_run.id)
    if state.is_running():  # it was suspended before, and resumed
        answer: Approval = await form.aload(keys)
        return answer
    await form.asave(keys)
    page = acreate_markdown_artifact(key=f"approval-{name[:12]}", markdown=question, description=waiting)
    await write_artifact(page, get_run_logger())
    get_run_logger().warning("%s %s", waiting, HOW_TO_ANSWER)
    run = str(flow_run.id)
    facts = {"key": f"{run}:{name}", "run": run, "what": what, "amount": amount, "until": until}
    workspace.notify(ApprovalWanted(**facts, reason=waiting, hint=HOW_TO_ANSWER))
    raise Pause(state=state)


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
        f"in {'one segment' if len(plan.segments) == 1 else f'{len(plan.segments)} segments'}.{paid}\n\n"
        f"| segment | from | length |\n| --- | --- | --- |\n{rows}{more}\n\n"
        f"{_warnings(plan)}"
        f"Portrait `{_name(job.portrait)}`, voice `{_name(job.voice)}`. Nothing has been sent yet."
    )


def _warnings(plan: Plan) -> str:
    return at_form("".join(f"**{warning.text}** {warning.hint}\n\n" for warning in plan.warnings))


def _name(source: str) -> str:
    """The file's name. What follows it in an address may be a signature."""
    return PurePosixPath(urlsplit(source).path if "://" in source else source).name

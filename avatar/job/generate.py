"""One job from Python, without Prefect: the same steps and the same journal as the flow."""

from decimal import Decimal
from functools import partial

from avatar.errors import BudgetRefused
from avatar.job.captions import with_captions
from avatar.job.consent import with_consent
from avatar.job.inputs import ingest
from avatar.job.plan import plan_job
from avatar.job.produce import find_made, render_all, wait_until_done
from avatar.job.publish import publish_video, require_published
from avatar.models import AvatarJob, Plan, Video
from avatar.money.collect import collect_render
from avatar.money.commit import still_to_buy
from avatar.money.quote import check_price
from avatar.money.submit import submit_render
from avatar.settings import AvatarSettings
from avatar.settings_sections import BudgetSettings
from avatar.store.conditional_create import ensure_bucket
from avatar.stored_models import Render, Segment
from avatar.waiting import patiently
from avatar.workspace import Workspace


async def quote(job: AvatarJob, settings: AvatarSettings | None = None) -> Plan:
    """What the job would cost and where its voice would be cut. Stores both inputs; sends and spends nothing.

    Raises:
        InvalidInput: portrait or voice cannot be used; the text says why.
        ConsentMissing: AVATAR_CONSENT asks for one.
        StoreUnavailable, SourceUnavailable: try again.
    """
    workspace = Workspace(settings or AvatarSettings())
    try:
        return await with_consent(workspace, await _plan(workspace, job))
    finally:
        await workspace.aclose()


async def generate(job: AvatarJob, settings: AvatarSettings | None = None) -> Video:
    """The job's published video, found or made. What is bought is bought once, whoever else asks for it.

    Ended by an error or a kill, the same call goes on where it stopped; so does `reconcile`.

    Args:
        job: portrait, voice, and how to render them.
        settings: by default those of the environment and of `.env`. They must name a store.

    Raises:
        InvalidInput: bad input; nothing was sent.
        Refused: a budget, a price limit, a missing consent or key, or an unfit store; nothing was sent.
        ProviderFailure: the provider failed for certain.
        OutcomeUnknown: whether the paid request arrived is not known; it is not sent again.
        VideoRejected: the video did not pass its checks, and is kept.
    """
    workspace = Workspace(settings or AvatarSettings())
    try:
        plan = await _plan(workspace, job)
        if video := await find_made(workspace, job, plan.job_id):
            return video
        plan = await with_consent(workspace, plan)
        if owed := sum((await still_to_buy(workspace, plan)).values(), Decimal(0)):
            check_price(plan.quote, job, workspace.settings.budget)
            _refuse_unapproved(owed, job, workspace.settings.budget)
        renders = await render_all(workspace, job, plan, partial(_render, workspace))
        return require_published(await publish_video(workspace, plan, renders, accept=job.accept))
    finally:
        await workspace.aclose()


async def _plan(workspace: Workspace, job: AvatarJob) -> Plan:
    await patiently(lambda: ensure_bucket(workspace.store))
    portrait = await ingest(workspace, job.portrait, what="portrait")
    voice = await ingest(workspace, job.voice, what="voice")
    return await with_captions(workspace, job, await plan_job(workspace, job, portrait, voice))


def _refuse_unapproved(amount: Decimal, job: AvatarJob, budget: BudgetSettings) -> None:
    """A call has nobody to ask: whoever states the price they accept has approved it."""
    limit = budget.approve_above
    if limit is None or amount <= limit or job.max_cost is not None:
        return
    raise BudgetRefused(
        f"The job costs ${amount:.2f}; above ${limit:.2f} (AVATAR_BUDGET__APPROVE_ABOVE) a person must approve it. "
        "Nothing was sent or spent.",
        hint="State the price you accept as the job's max_cost, or run the deployment, which asks in the Prefect UI.",
    )


async def _render(workspace: Workspace, plan: Plan, segment: Segment, claim: str | None) -> Render:
    record = await submit_render(workspace, plan, segment, claim=claim)
    await wait_until_done(workspace, record.entry.render_id)
    return await patiently(lambda: collect_render(workspace, record.entry.render_id))

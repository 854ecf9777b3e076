"""One job: a portrait and a voice track become a published talking video."""

from decimal import Decimal
from functools import partial
from pathlib import PurePosixPath
from typing import Any

from prefect import flow, get_run_logger
from prefect.runtime import flow_run

from avatar.job.captions import with_captions
from avatar.job.consent import with_consent
from avatar.job.plan import identify
from avatar.job.produce import find_made, render_all
from avatar.models import AvatarJob, Plan, Video, shown
from avatar.money.commit import still_to_buy
from avatar.money.quote import check_price, describe_plan
from avatar.money.submit import hold_turn
from avatar.option_names import at_form
from avatar.stored_models import Asset, ProviderName, Render, Segment
from avatar.workspace import Workspace, ignore
from flows.approval import approve
from tasks.context import emit_again, typed_name, with_workspace
from tasks.job import (
    collect_render,
    poll_render,
    publish_video,
    submit_render,
    upload_assets,
    validate_inputs,
)
from tasks.results import cached_task


def _run_name() -> str:
    """What a person called it, else what is rendered, as people recognise it in a list of runs."""
    job: Any = flow_run.parameters.get("job")
    job = job if isinstance(job, AvatarJob) else AvatarJob.model_validate(job)
    said = f"{PurePosixPath(shown(job.portrait)).stem} says {PurePosixPath(shown(job.voice)).stem}"
    return typed_name() or job.title or said


@flow(name="generate-avatar", flow_run_name=_run_name, retries=0, persist_result=False)
@with_workspace
async def generate_avatar(workspace: Workspace, job: AvatarJob) -> Video:
    """Turn a portrait and a voice track into a checked, published talking video.

    A job that is already published returns at once and costs nothing.

    Args:
        job: the portrait, the voice, and how to render them.
    """
    portrait, voice = await upload_assets(workspace, job)
    job_id = workspace.subject.job_id = job_id_of(workspace, job, portrait, voice)
    if video := await find_made(workspace, job, job_id):
        emit_again(workspace, video)
        get_run_logger().info("Made already as %s; nothing to pay.", video.uri)
        return video
    plan = await (await cached_task(validate_inputs, workspace))(workspace, job, portrait, voice)
    plan = await with_consent(workspace, await with_captions(workspace, job, plan))
    get_run_logger().info(describe_plan(plan))
    for warning in plan.warnings:
        get_run_logger().warning("%s %s", warning.text, at_form(warning.hint))
    if owed := sum((await still_to_buy(workspace, plan)).values(), Decimal(0)):
        check_price(plan.quote, job, workspace.settings.budget)
        await approve(workspace, job, plan, owed, partial(preview, workspace, job, portrait, voice))
    renders = await render_all(workspace, job, plan, partial(render_segment, workspace))
    return await publish_video(workspace, plan, list(renders), accept=job.accept)


async def preview(workspace: Workspace, job: AvatarJob, portrait: Asset, voice: Asset) -> Video:
    """The same job as the free preview renders it, for whoever is to approve the price. The outside is not told."""
    workspace = workspace.with_changes(deliver=ignore)
    free = job.model_copy(update={"provider": ProviderName.PREVIEW, "max_cost": None})
    if video := await find_made(workspace, free, job_id_of(workspace, free, portrait, voice)):
        return video
    plan = await (await cached_task(validate_inputs, workspace))(workspace, free, portrait, voice)
    renders = await render_all(
        workspace, free, plan, partial(render_segment, workspace, shown_as="preview-render")
    )
    return await publish_video(workspace, plan, list(renders), as_preview=True)


def job_id_of(workspace: Workspace, job: AvatarJob, portrait: Asset, voice: Asset) -> str:
    return identify(job, portrait, voice, workspace.provider(job.provider, job.model))


async def render_segment(
    workspace: Workspace, plan: Plan, segment: Segment, claim: str | None, shown_as: str = "render"
) -> Render:
    async with hold_turn(workspace, plan, segment):
        submission = await submit_render(workspace, plan, segment, claim)
        await poll_render(workspace, submission, shown_as)
    return await collect_render(workspace, submission, shown_as)

"""One job: a portrait and a voice track become a published talking video."""

import asyncio
import contextlib
from pathlib import PurePosixPath
from typing import Any

from prefect import flow, get_run_logger
from prefect.runtime import flow_run

from flows.approval import approve
from flows.equipment import equipment
from tasks.assets import upload_assets
from tasks.collection import collect_render
from tasks.errors import AvatarError, RenderFailed, StoreUnavailable, SubmitRefused
from tasks.jobs.chain import continue_from, hand_on_claim
from tasks.jobs.commit import commit_job, release_unspent
from tasks.jobs.failover import explain, stand_in
from tasks.jobs.plan import identify
from tasks.jobs.publish import accept_video, find_video, require_published
from tasks.jobs.quote import check_price, describe_plan
from tasks.models import Asset, AvatarJob, Continuity, Plan, Render, Segment, Video, VideoState
from tasks.polling import poll_render
from tasks.publishing import publish_video
from tasks.results import cached
from tasks.submission import submit_render
from tasks.voice import validate_inputs
from tasks.workspace import workspace


def _run_name() -> str:
    """What is rendered, as people recognise it in a list of runs."""
    job: Any = flow_run.parameters.get("job")
    job = job if isinstance(job, AvatarJob) else AvatarJob.model_validate(job)
    return f"{PurePosixPath(job.portrait).stem} says {PurePosixPath(job.voice).stem}"


@flow(name="generate-avatar", flow_run_name=_run_name, retries=0, persist_result=False)
async def generate_avatar(job: AvatarJob) -> Video:
    """Turn a portrait and a voice track into a checked, published talking video.

    A job that is already published returns at once and costs nothing.

    Args:
        job: the portrait, the voice, and how to render them.
    """
    async with equipment():
        portrait, voice = await upload_assets(job)
        if video := await made_already(job, portrait, voice):
            return video
        plan = await cached(validate_inputs)(job, portrait, voice)
        get_run_logger().info(describe_plan(plan))
        check_price(plan.quote, job, workspace().settings.budget)
        await approve(plan, workspace().settings.budget)
        renders = await render_all(job, plan)
        return await publish_video(plan, renders, accept=job.accept)


async def made_already(job: AvatarJob, portrait: Asset, voice: Asset) -> Video | None:
    """The job's video if there is one; a rejected one is published on request, and never made anew by itself."""
    provider = workspace().provider(job.provider)
    video = await find_video(workspace(), identify(job, portrait, voice, provider))
    if video is None:
        return None
    if job.accept and video.state is VideoState.REJECTED:
        video = await accept_video(workspace(), video)
    get_run_logger().info("Made already as %s on %s; nothing to pay.", video.uri, f"{video.published_at:%F}")
    return require_published(video)


async def render_all(job: AvatarJob, plan: Plan) -> list[Render]:
    """Render every segment, at once or one after another. What is claimed and not spent is given back."""
    claimed_on = await commit_job(workspace(), plan)
    try:
        if plan.continuity is Continuity.CHAIN:
            return await render_chain(job, plan, claimed_on)
        return await render_abreast(job, plan, claimed_on)
    except AvatarError:
        with contextlib.suppress(StoreUnavailable):  # `reconcile` gives it back then
            await release_unspent(workspace(), plan, claimed_on)
        raise


async def render_abreast(job: AvatarJob, plan: Plan, claimed_on: str | None) -> list[Render]:
    """All are waited for, even when one fails: each is paid for by itself, and kept."""
    tasks = [render_or_fail_over(job, plan, segment, claimed_on) for segment in plan.segments]
    ended = await asyncio.gather(*tasks, return_exceptions=True)
    for failure in ended:
        if isinstance(failure, BaseException):
            raise failure
    return [each for each in ended if isinstance(each, Render)]


async def render_chain(job: AvatarJob, plan: Plan, claimed_on: str | None) -> list[Render]:
    renders: list[Render] = []
    for segment in plan.segments:
        following = await continue_from(workspace(), plan, renders[-1]) if renders else plan
        if renders:
            await hand_on_claim(workspace(), plan, following, segment, claimed_on)
        renders.append(await render_or_fail_over(job, following, segment, claimed_on))
    return renders


async def render_or_fail_over(job: AvatarJob, plan: Plan, segment: Segment, claimed_on: str | None) -> Render:
    try:
        return await render_segment(plan, segment, claimed_on)
    except (SubmitRefused, RenderFailed) as error:
        other = await stand_in(workspace(), job, plan, segment, error)
        if other is None:
            raise
        get_run_logger().warning(explain(error, other[0].provider))
        return await render_segment(other[0], segment, other[1])


async def render_segment(plan: Plan, segment: Segment, claimed_on: str | None) -> Render:
    submission = await submit_render(plan, segment, claimed_on)
    await cached(poll_render)(submission)
    return await collect_render(submission)

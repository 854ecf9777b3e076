"""One job: a portrait and a voice track become a published talking video."""

import asyncio
import contextlib
from pathlib import PurePosixPath
from typing import Any

from prefect import flow, get_run_logger
from prefect.runtime import flow_run

from flows.equipment import equipment
from tasks.assets import upload_assets
from tasks.collection import collect_render
from tasks.errors import RenderFailed, StoreUnavailable, SubmitRefused
from tasks.jobs.commit import commit_job, release_unspent
from tasks.jobs.failover import explain, stand_in
from tasks.jobs.plan import identify
from tasks.jobs.publish import find_published
from tasks.jobs.quote import check_price
from tasks.models import Asset, AvatarJob, Plan, Render, Segment, Video
from tasks.polling import poll_render
from tasks.publishing import publish_video
from tasks.submission import submit_render
from tasks.voice import validate_inputs
from tasks.workspace import workspace


def _run_name() -> str:
    """What is rendered, as people recognise it in a list of runs."""
    job: Any = flow_run.parameters.get("job")
    job = job if isinstance(job, AvatarJob) else AvatarJob.model_validate(job)
    return f"{PurePosixPath(job.portrait).stem} says {PurePosixPath(job.voice).stem}"


@flow(name="generate-avatar", flow_run_name=_run_name, retries=0)
async def generate_avatar(job: AvatarJob) -> Video:
    """Turn a portrait and a voice track into a checked, published talking video.

    A job that is already published returns at once and costs nothing.

    Args:
        job: the portrait, the voice, and how to render them.
    """
    async with equipment():
        portrait, voice = await upload_assets(job)
        if video := await published_already(job, portrait, voice):
            return video
        plan = await validate_inputs(job, portrait, voice)
        check_price(plan.quote, job, workspace().settings.budget)
        renders = await render_all(job, plan)
        return await publish_video(plan, renders)


async def published_already(job: AvatarJob, portrait: Asset, voice: Asset) -> Video | None:
    provider = workspace().provider(job.provider)
    video = await find_published(workspace(), identify(job, portrait, voice, provider))
    if video:
        get_run_logger().info(
            "Already published as %s on %s; nothing to pay.", video.uri, f"{video.published_at:%F}"
        )
    return video


async def render_all(job: AvatarJob, plan: Plan) -> list[Render]:
    """Render every segment. All are waited for, even when one fails: each is paid for by itself."""
    claimed_on = await commit_job(workspace(), plan)
    tasks = [render_or_fail_over(job, plan, segment, claimed_on) for segment in plan.segments]
    ended = await asyncio.gather(*tasks, return_exceptions=True)
    failures = [each for each in ended if isinstance(each, BaseException)]
    if failures:
        with contextlib.suppress(StoreUnavailable):  # `reconcile` gives it back then
            await release_unspent(workspace(), plan, claimed_on)
        raise failures[0]
    return [each for each in ended if isinstance(each, Render)]


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
    await poll_render(submission)
    return await collect_render(submission)

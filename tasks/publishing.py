"""Publishing: inspect the video, put it in place with poster and manifest, and show it in the Prefect UI."""

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run

from tasks.artifacts import show_video
from tasks.jobs.publish import publish_video as publish
from tasks.jobs.publish import require_published
from tasks.models import Plan, Render, Video
from tasks.progress import Step, announce
from tasks.results import passes_by_itself
from tasks.workspace import workspace


@task(
    task_run_name="publish the video",
    retries=5,
    retry_delay_seconds=[1, 3, 10, 30, 60],
    retry_condition_fn=passes_by_itself,
    cache_policy=NO_CACHE,
)
async def publish_video(plan: Plan, renders: list[Render], *, accept: bool = False) -> Video:
    """Assemble, inspect and publish; leave the artifacts that people look at; raise if it did not pass."""
    announce(Step("publish", "checking and publishing"))
    video = await publish(workspace(), plan, renders, accept=accept, flow_run_url=flow_run.ui_url)
    await show_video(workspace(), video)
    return require_published(video)

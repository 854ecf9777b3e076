"""Collection: the finished render, fetched from the provider and kept in the store."""

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.models import Render, Submission
from tasks.progress import Step, announce
from tasks.renders.collect import collect_render as collect
from tasks.results import passes_by_itself
from tasks.workspace import workspace


@task(
    task_run_name="collect from {submission.provider}",
    retries=10,
    retry_delay_seconds=[1, 2, 5, 10, 20, 30, 60],
    retry_condition_fn=passes_by_itself,
    cache_policy=NO_CACHE,
)
async def collect_render(submission: Submission) -> Render:
    """Journal the provider's result, download its video, check that it decodes, and keep it under `renders/`."""
    announce(Step("collect", "fetching the video", submission.render_id))
    return await collect(workspace(), submission.render_id)

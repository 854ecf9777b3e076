"""Assets: the inputs, stored by their content."""

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.jobs.ingest import ingest
from tasks.models import Asset, AvatarJob
from tasks.progress import Step, announce
from tasks.results import passes_by_itself
from tasks.workspace import workspace


@task(
    task_run_name="upload portrait and voice",
    retries=3,
    retry_delay_seconds=[1, 3, 10],
    retry_condition_fn=passes_by_itself,
    cache_policy=NO_CACHE,
)
async def upload_assets(job: AvatarJob) -> tuple[Asset, Asset]:
    """Store portrait and voice by content. The same bytes a second time move nothing."""
    announce(Step("upload", "storing portrait and voice"))
    portrait = await ingest(workspace(), job.portrait, what="portrait")
    voice = await ingest(workspace(), job.voice, what="voice")
    return portrait, voice

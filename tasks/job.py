"""The six steps of a job, in the order in which the flow takes them: upload, validate, submit, poll, collect, publish."""

from typing import Any

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE, CacheKeyFnPolicy
from prefect.runtime import flow_run

from avatar.errors import AvatarError, Transient
from avatar.job.inputs import ingest
from avatar.job.plan import plan_cache_key, plan_job
from avatar.job.produce import wait_until_done
from avatar.job.publish import publish_video as publish
from avatar.job.publish import require_published
from avatar.models import AvatarJob, Plan, Snapshot, Submission, Video
from avatar.money.collect import collect_render as collect
from avatar.money.submit import submit_render as submit_once
from avatar.providers.answers import clean_text
from avatar.stored_models import Asset, Render, Segment
from avatar.workspace import Step, Workspace
from tasks.artifacts import RenderProgress, show_preview, show_video
from tasks.results import passes_by_itself


# Assets: the inputs, stored by their content.
@task(
    task_run_name="upload portrait and voice",
    retries=3,
    retry_delay_seconds=[1, 3, 10],
    retry_condition_fn=passes_by_itself,
    cache_policy=NO_CACHE,
)
async def upload_assets(workspace: Workspace, job: AvatarJob) -> tuple[Asset, Asset]:
    """Store portrait and voice by content. The same bytes a second time move nothing."""
    workspace.announce(Step("upload", "storing portrait and voice"))
    portrait = await ingest(workspace, job.portrait, what="portrait")
    voice = await ingest(workspace, job.voice, what="voice")
    return portrait, voice


# The voice and its portrait: decoded fully, converted where needed, cut and priced before any money is spent.
def _plan_key(_: Any, parameters: dict[str, Any]) -> str:
    return plan_cache_key(*(parameters[name] for name in ("workspace", "job", "portrait", "voice")))


@task(
    task_run_name="validate voice and portrait",
    retries=3,
    retry_delay_seconds=[1, 3, 10],
    retry_condition_fn=passes_by_itself,
    cache_policy=CacheKeyFnPolicy(cache_key_fn=_plan_key),
    result_serializer="json",
)
async def validate_inputs(workspace: Workspace, job: AvatarJob, portrait: Asset, voice: Asset) -> Plan:
    """Decode both inputs to the end, ready them for the provider, and quote the job. Spends nothing."""
    workspace.announce(Step("validate", "decoding portrait and voice"))
    return await plan_job(workspace, job, portrait, voice)


# Submission: the one paid request of a render. No retries here; see `avatar.money.submit`.
@task(task_run_name="submit segment {segment.index} to {plan.provider}", retries=0, cache_policy=NO_CACHE)
async def submit_render(
    workspace: Workspace, plan: Plan, segment: Segment, claim: str | None = None
) -> Submission:
    """Have the provider accept this render exactly once, and return its receipt."""
    workspace.announce(Step("submit", f"asking {plan.provider} for {segment.seconds:.1f} s of video"))
    record = await submit_once(workspace, plan, segment, claim=claim)
    if record.entry.submission is None:
        raise RuntimeError(f"render {record.entry.render_id} is {record.state} without a submission")
    get_run_logger().info(
        "Render %s is request %s at %s, quoted at $%s.",
        record.entry.render_id,
        clean_text(record.entry.submission.request_id),
        record.entry.submission.provider,
        record.entry.quoted,
    )
    return record.entry.submission


# Polling: one task run for the whole wait, window by window; a provider that is away for longer is tried again.
@task(
    task_run_name="wait for {submission.provider} request",
    retries=10,
    retry_delay_seconds=[1, 2, 5, 10, 20, 30, 60],
    retry_condition_fn=passes_by_itself,
    cache_policy=NO_CACHE,
)
async def poll_render(workspace: Workspace, submission: Submission, shown_as: str = "render") -> None:
    """Wait until the provider is done with the render. `shown_as` begins the key of its progress artifact."""
    progress = RenderProgress(submission.render_id, get_run_logger(), shown_as)

    async def on_snapshot(snapshot: Snapshot, age: float) -> None:
        workspace.announce(Step("render", snapshot.state, submission.render_id, snapshot, age))
        await progress.show(snapshot, age)

    try:
        await wait_until_done(workspace, submission.render_id, on_snapshot)
    except AvatarError as error:
        await progress.end(error)
        raise


# Collection: the finished render, fetched from the provider and kept in the store.
@task(
    task_run_name="collect from {submission.provider}",
    retries=10,
    retry_delay_seconds=[1, 2, 5, 10, 20, 30, 60],
    retry_condition_fn=passes_by_itself,
    cache_policy=NO_CACHE,
)
async def collect_render(workspace: Workspace, submission: Submission, shown_as: str = "render") -> Render:
    """Journal the provider's result, download its video, check that it decodes, and keep it under `renders/`.

    Some providers say that a render is done, and only with its result that it failed: then its progress says so too.
    """
    workspace.announce(Step("collect", "fetching the video", submission.render_id))
    try:
        return await collect(workspace, submission.render_id)
    except AvatarError as error:
        if not isinstance(error, Transient):
            await RenderProgress(submission.render_id, get_run_logger(), shown_as).end(error)
        raise


# Publishing: inspect the video, put it in place with poster and manifest, and show it in the Prefect UI.
@task(
    task_run_name="publish the video",
    retries=5,
    retry_delay_seconds=[1, 3, 10, 30, 60],
    retry_condition_fn=passes_by_itself,
    cache_policy=NO_CACHE,
)
async def publish_video(
    workspace: Workspace, plan: Plan, renders: list[Render], *, accept: bool = False, as_preview: bool = False
) -> Video:
    """Assemble, inspect and publish; leave the artifacts that people look at; raise if it did not pass.

    `as_preview`: it is shown before a paid video, whose artifacts it is kept apart from.
    """
    workspace.announce(Step("publish", "checking and publishing"))
    video = await publish(workspace, plan, renders, accept=accept, flow_run_url=flow_run.ui_url)
    await (show_preview if as_preview else show_video)(workspace, video)
    return require_published(video)

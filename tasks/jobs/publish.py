"""Put a job's video in place: inspected, with poster, contact strip and manifest. The manifest is written last.

A video that does not pass is kept in the same place and marked `rejected`: shown with the reason, not bought again.
"""

import asyncio
import importlib.metadata
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tasks.errors import ObjectNotFound, StoreUnavailable, VideoRejected
from tasks.jobs.assemble import Assembled, assemble
from tasks.jobs.ingest import hash_file
from tasks.jobs.notices import about_video, post
from tasks.jobs.timing import time_stages
from tasks.models import Cost, Plan, Render, Video, VideoState
from tasks.workspace import Workspace


def video_prefix(job_id: str) -> str:
    return f"videos/{job_id}/"


async def find_video(workspace: Workspace, job_id: str) -> Video | None:
    """The job's video, published or rejected, or None. A manifest is believed only if its video is still there.

    Raises:
        StoreUnavailable: the store failed; never taken for "not there".
    """
    try:
        blob = await workspace.store.get(f"{video_prefix(job_id)}manifest.json")
    except ObjectNotFound:
        return None
    try:
        video = Video.model_validate_json(blob.data)
    except ValidationError as error:
        raise StoreUnavailable(
            f"The manifest of job {job_id} cannot be read ({error.error_count()} faults). Nothing was sent or spent."
        ) from error
    return video if await workspace.store.exists(video.key) else None


async def publish_video(
    workspace: Workspace,
    plan: Plan,
    renders: Sequence[Render],
    *,
    accept: bool = False,
    flow_run_url: str | None = None,
) -> Video:
    """Assemble, inspect and put in place. What fails a check is put in place too, as `rejected`.

    Args:
        workspace: settings, store and journal.
        plan: the job's plan.
        renders: its renders, in the order of the segments.
        accept: publish it whatever the checks say.
        flow_run_url: the Prefect run, for the manifest.
    """
    with tempfile.TemporaryDirectory(dir=workspace.scratch) as folder, _naming_what_is_kept(renders):
        made = await assemble(workspace, plan, renders, Path(folder))
        keys = await _put_in_place(workspace, video_prefix(plan.job_id), made)
        passed = accept or all(check.passed for check in made.checks)
        video = _describe(
            workspace,
            plan,
            renders,
            made,
            state=VideoState.PUBLISHED if passed else VideoState.REJECTED,
            timings=await time_stages(workspace, renders),
            flow_run_url=flow_run_url,
            **keys,
        )
    await _write_manifest(workspace, video)
    return video


@contextmanager
def _naming_what_is_kept(renders: Sequence[Render]) -> Iterator[None]:
    """A render that decoded when it was collected, and does not now."""
    try:
        yield
    except VideoRejected as error:
        kept = ", ".join(render.key for render in renders)
        raise VideoRejected(
            f"The video cannot be put together: {error} Nothing was published. What was paid for is kept as {kept}, "
            "and is not bought again by itself.",
            provider=renders[0].provider,
            render_id=renders[0].render_id,
            request_id=renders[0].request_id,
            cost_at_risk=sum((render.billed for render in renders), Decimal(0)),
            hint="Look at what is kept; run the job again to try once more, without paying again.",
        ) from error


async def accept_video(workspace: Workspace, video: Video) -> Video:
    """Publish a rejected video on a person's word. Buys nothing."""
    note = f"accepted by a person at {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC although checks failed"
    accepted = video.model_copy(update={"state": VideoState.PUBLISHED, "notes": (*video.notes, note)})
    await _write_manifest(workspace, accepted)
    return accepted


def require_published(video: Video) -> Video:
    """The video, or `VideoRejected` with what is wrong, what it cost and where it is kept."""
    if video.state is VideoState.PUBLISHED:
        return video
    failed = [check for check in video.checks if not check.passed]
    reasons = "; ".join(f"{check.name} is {check.value}, should be {check.bound}" for check in failed)
    raise VideoRejected(
        f"The video of job {video.job_id} did not pass its checks: {reasons}. It is kept as {video.uri}, is not "
        f"published, and is not bought again by itself. ${video.cost.billed:.2f} was charged for it.",
        provider=video.provider,
        render_id=video.renders[0].render_id,
        request_id=video.renders[0].request_id,
        cost_at_risk=video.cost.billed,
        in_place=True,
        hint="Look at it; --accept (or the job's `accept`) publishes it anyway, another take buys it anew.",
    )


async def _put_in_place(workspace: Workspace, prefix: str, made: Assembled) -> dict[str, Any]:
    sha256 = await asyncio.to_thread(hash_file, made.path)
    store = workspace.store
    await store.put_file(f"{prefix}video.mp4", made.path, content_type="video/mp4", sha256=sha256)
    for name, picture in (("poster.jpg", made.stills.poster), ("contact.jpg", made.stills.contact)):
        digest = await asyncio.to_thread(hash_file, picture)
        await store.put_file(
            f"{prefix}{name}", picture, content_type="image/jpeg", sha256=digest, overwrite=True
        )
    return {"sha256": sha256, "size": made.path.stat().st_size}


async def _write_manifest(workspace: Workspace, video: Video) -> None:
    manifest = video.model_dump_json(indent=2).encode()
    await workspace.store.put(video.manifest_key, manifest, content_type="application/json")
    post(about_video(workspace.settings, video))


def _describe(
    workspace: Workspace, plan: Plan, renders: Sequence[Render], made: Assembled, **more: Any
) -> Video:
    prefix = video_prefix(plan.job_id)
    return Video(
        job_id=plan.job_id,
        provider=renders[0].provider,
        model=plan.model,
        uri=f"s3://{workspace.store.bucket}/{prefix}video.mp4",
        key=f"{prefix}video.mp4",
        poster_key=f"{prefix}poster.jpg",
        contact_key=f"{prefix}contact.jpg",
        manifest_key=f"{prefix}manifest.json",
        seconds=made.facts.seconds,
        width=made.facts.width,
        height=made.facts.height,
        cost=Cost(quoted=plan.quote.amount, billed=sum((render.billed for render in renders), Decimal(0))),
        segments=plan.segments,
        renders=tuple(renders),
        checks=made.checks,
        notes=made.notes,
        portrait=plan.portrait,
        voice=plan.voice,
        prompt=plan.prompt,
        take=plan.take,
        continuity=plan.continuity,
        published_at=datetime.now(UTC),
        versions=_versions(),
        **more,
    )


@cache
def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in ("avatar-flows", "av", "prefect")}

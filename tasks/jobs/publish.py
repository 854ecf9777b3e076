"""Check a job's video and publish it: the manifest last, so that what has a manifest is whole."""

import asyncio
import importlib.metadata
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

from pydantic import ValidationError

from tasks.errors import ObjectNotFound, StoreUnavailable, VideoRejected
from tasks.jobs.ingest import hash_file
from tasks.media.inspect import inspect_video
from tasks.media.poster import make_poster
from tasks.media.probe import VideoFacts
from tasks.models import Check, Cost, Plan, Render, Video
from tasks.workspace import Workspace


def video_prefix(job_id: str) -> str:
    return f"videos/{job_id}/"


async def find_published(workspace: Workspace, job_id: str) -> Video | None:
    """The job's published video, or None. A manifest is believed only if its video is still there.

    Raises:
        StoreUnavailable: the store failed; never taken for "not published".
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


async def publish_video(workspace: Workspace, plan: Plan, renders: Sequence[Render]) -> Video:
    """Inspect the result and put video, poster and manifest in place.

    Raises:
        VideoRejected: a check failed. The render is kept; nothing is published.
    """
    (render,) = renders  # one segment for now; assembling several comes with the long voices
    with tempfile.TemporaryDirectory(dir=workspace.scratch) as folder:
        path, poster = Path(folder) / "video.mp4", Path(folder) / "poster.jpg"
        await workspace.store.download(render.key, path)
        facts, checks = await asyncio.to_thread(inspect_video, path, plan.voice.seconds)
        _require(checks, plan, render)
        await asyncio.to_thread(make_poster, path, poster)
        prefix = video_prefix(plan.job_id)
        sha256 = await _put(workspace, f"{prefix}video.mp4", path, "video/mp4")
        await _put(workspace, f"{prefix}poster.jpg", poster, "image/jpeg", overwrite=True)
        video = _describe(
            workspace, plan, tuple(renders), checks, facts, sha256=sha256, size=path.stat().st_size
        )
    manifest = video.model_dump_json(indent=2).encode()
    await workspace.store.put(video.manifest_key, manifest, content_type="application/json")
    return video


def _require(checks: Sequence[Check], plan: Plan, render: Render) -> None:
    failed = [check for check in checks if not check.passed]
    if not failed:
        return
    reasons = "; ".join(f"{check.name} is {check.value}, should be {check.bound}" for check in failed)
    raise VideoRejected(
        f"The video of job {plan.job_id} did not pass its checks: {reasons}. It is kept as {render.key}, was not "
        f"published, and is not bought again by itself. ${render.billed:.2f} was charged for it.",
        provider=render.provider,
        render_id=render.render_id,
        request_id=render.request_id,
        cost_at_risk=render.billed,
        hint="Look at the file; another take buys it anew.",
    )


async def _put(
    workspace: Workspace, key: str, path: Path, content_type: str, *, overwrite: bool = False
) -> str:
    sha256 = await asyncio.to_thread(hash_file, path)
    await workspace.store.put_file(key, path, content_type=content_type, sha256=sha256, overwrite=overwrite)
    return sha256


def _describe(
    workspace: Workspace,
    plan: Plan,
    renders: tuple[Render, ...],
    checks: tuple[Check, ...],
    facts: VideoFacts,
    *,
    sha256: str,
    size: int,
) -> Video:
    prefix = video_prefix(plan.job_id)
    return Video(
        job_id=plan.job_id,
        provider=renders[0].provider,
        model=plan.model,
        uri=f"s3://{workspace.store.bucket}/{prefix}video.mp4",
        key=f"{prefix}video.mp4",
        poster_key=f"{prefix}poster.jpg",
        manifest_key=f"{prefix}manifest.json",
        sha256=sha256,
        size=size,
        seconds=facts.seconds,
        width=facts.width,
        height=facts.height,
        cost=Cost(quoted=plan.quote.amount, billed=sum((render.billed for render in renders), Decimal(0))),
        renders=renders,
        checks=checks,
        portrait=plan.portrait,
        voice=plan.voice,
        prompt=plan.prompt,
        take=plan.take,
        published_at=datetime.now(UTC),
        versions={name: importlib.metadata.version(name) for name in ("avatar-flows", "av", "prefect")},
    )

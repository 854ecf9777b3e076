"""What people see of a job in the Prefect UI: progress while it renders, then the video's page and its figures."""

import asyncio
import base64
import logging
import time
from collections.abc import Awaitable
from datetime import timedelta
from logging import LoggerAdapter
from typing import Any
from uuid import UUID

from prefect import get_run_logger
from prefect.artifacts import (
    acreate_markdown_artifact,
    acreate_progress_artifact,
    acreate_table_artifact,
    aupdate_progress_artifact,
)
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    ArtifactFilterKey,
    ArtifactFilterType,
)
from prefect.client.schemas.objects import Artifact
from prefect.client.schemas.sorting import ArtifactSort
from prefect.runtime import flow_run

from avatar.errors import Transient
from avatar.events import player_url
from avatar.job.reconcile import Reconciled
from avatar.job.retention import Expired
from avatar.media.decoder_calls import thumbnail
from avatar.models import RemoteState, Snapshot, Video, VideoState
from avatar.money.follow import describe_snapshot
from avatar.workspace import Workspace

#: Shortest time between two updates of a progress artifact, in seconds: each is a request to the Prefect server.
UPDATE_SECONDS = 3.0
#: How long an artifact may take, in seconds; the Prefect client itself would try for a minute.
ARTIFACT_SECONDS = 10.0
#: How a progress artifact begins that stays as it is.
ENDED = "Ended without a video"
POSTER = "The video's poster"
LINK_LIFETIME = timedelta(days=7)
#: Digits of an id in an artifact's key: a whole one runs out of its card in the UI.
KEY_DIGITS = 12


async def write_artifact(artifact: Awaitable[Any], logger: "logging.Logger | LoggerAdapter[Any]") -> None:
    """Write an artifact if the Prefect server takes it soon. A server that is away must not fail a paid render."""
    try:
        async with asyncio.timeout(ARTIFACT_SECONDS):
            await artifact
    except Exception as error:  # noqa: BLE001 - whatever the server's failure, the work is more than its picture
        logger.warning("The Prefect server did not take an artifact (%s).", type(error).__name__)


class RenderProgress:
    """The one progress artifact of a render in a run, and its line in the log when something changes.

    An attempt that comes after another goes on with the artifact that is there. Another run has its own, which the
    Prefect UI shows beside its other artifacts; once the render is over, all of them say so.
    """

    def __init__(
        self, render_id: str, logger: "logging.Logger | LoggerAdapter[Any]", what: str = "render"
    ) -> None:
        self.render_id = render_id
        self.logger = logger
        self._key = _key(what, render_id)
        self._artifact: UUID | None = None
        self._percent = 0.0
        self._shown = 0.0
        self._told = ""

    async def show(self, snapshot: Snapshot, age: float) -> None:
        text = describe_snapshot(snapshot, age)
        if snapshot.word != self._told or snapshot.state is RemoteState.DONE:
            self.logger.info("Render %s: %s", self.render_id[:8], text)
            self._told = snapshot.word
        done = snapshot.state is RemoteState.DONE
        is_due = self._artifact is None if done else time.monotonic() - self._shown >= UPDATE_SECONDS
        if is_due:
            self._shown = time.monotonic()
            self._percent = round(_percent(snapshot), 1)
            await write_artifact(self._update(text), self.logger)
        if done:
            await write_artifact(_tell_all(self._key, text, 100.0), self.logger)

    async def end(self, error: Exception) -> None:
        """Say that the wait is over without a video: what was shown last is not true any more."""
        text = f"{ENDED}: {error}"
        await write_artifact(self._update(text), self.logger)
        if not isinstance(error, Transient):  # what passes is this run's trouble, and others may go on
            await write_artifact(_tell_all(self._key, text), self.logger)

    async def _update(self, text: str) -> None:
        facts: Any = {"progress": self._percent, "description": text}
        if self._artifact is None:
            self._artifact = next((each.id for each in await _progress_of(self._key, flow_run.id)), None)
        if self._artifact is None:
            self._artifact = await acreate_progress_artifact(key=self._key, **facts)
        else:
            await aupdate_progress_artifact(artifact_id=self._artifact, **facts)


async def _progress_of(key: str, run: str | None = None) -> list[Artifact]:
    """The progress artifacts of a key, of that flow run or of any, the newest first."""
    wanted = ArtifactFilter(key=ArtifactFilterKey(any_=[key]), type=ArtifactFilterType(any_=["progress"]))
    if run is not None:
        wanted.flow_run_id = ArtifactFilterFlowRunId(any_=[UUID(run)])
    async with get_client() as client:
        return await client.read_artifacts(artifact_filter=wanted, sort=ArtifactSort.CREATED_DESC)


async def _tell_all(key: str, text: str, percent: float | None = None) -> None:
    """Have what runs showed of a render say this, at that share of it; unless given, at their own.

    Runs before the last that said how they ended told of an attempt of their own, and are left alone.
    """
    for number, artifact in enumerate(await _progress_of(key)):
        if number == 0 or not (artifact.description or "").startswith(ENDED):
            facts: Any = {"progress": artifact.data if percent is None else percent, "description": text}
            await aupdate_progress_artifact(artifact_id=artifact.id, **facts)


async def end_progress(render_id: str, text: str) -> None:
    """A render that was fetched after its run had died: what runs showed of it last is not true any more."""
    await _tell_all(_key("render", render_id), text, 100.0)


def _percent(snapshot: Snapshot) -> float:
    if snapshot.state is RemoteState.DONE:
        return 100.0
    return 100 * (snapshot.progress or 0.0)


async def show_video(workspace: Workspace, video: Video) -> None:
    """Leave the video's page, its cost and its checks as artifacts, and the outcome in the run's log."""
    page = await _page(workspace, video)
    passed = sum(check.passed for check in video.checks)
    artifacts = asyncio.gather(
        acreate_markdown_artifact(
            key=_key("video", video.job_id),
            markdown=page,
            description=f"{video.seconds:.2f} s of video, {video.width}×{video.height}",
        ),
        acreate_table_artifact(
            key=_key("cost", video.job_id), table=_cost_table(video), description=f"Cost: {_price(video)}"
        ),
        acreate_table_artifact(
            key=_key("checks", video.job_id),
            table=_check_table(video),
            description=f"{passed} of {len(video.checks)} checks passed",
        ),
    )
    await write_artifact(artifacts, get_run_logger())
    done = "Published" if video.state is VideoState.PUBLISHED else "Kept as rejected"
    get_run_logger().info("%s %.2f s of video as %s. Cost: %s", done, video.seconds, video.uri, _price(video))


async def show_preview(workspace: Workspace, video: Video) -> None:
    """Leave the page of the free preview that is shown before a paid video, apart from what that one leaves."""
    artifact = acreate_markdown_artifact(
        key=_key("preview", video.job_id),
        markdown=f"**The free preview. Nothing of the paid video is in it but its voice and cuts.**\n\n{await _page(workspace, video)}",
        description=f"Free preview: {video.seconds:.2f} s",
    )
    await write_artifact(artifact, get_run_logger())


def _key(what: str, content_id: str) -> str:
    return f"{what}-{content_id[:KEY_DIGITS]}"


def _price(video: Video) -> str:
    return f"${video.cost.billed:.2f} (quoted ${video.cost.quoted:.2f})"


async def _page(workspace: Workspace, video: Video) -> str:
    """The video's page as Markdown. Pictures are data URIs: they never expire, and the UI shows no <video>."""
    poster = await workspace.read(video.poster_key)
    strip = await workspace.read(video.contact_key) if video.contact_key else None
    rejected = "" if video.state is VideoState.PUBLISHED else "**Rejected: it did not pass its checks.**\n\n"
    return "\n\n".join(
        [
            f"{rejected}{await _picture(POSTER, poster)}",
            f"**{await _links(workspace, video)}**",
            *([await _picture("Frames over time", strip, max_side=960, max_bytes=60_000)] if strip else []),
            _facts(video),
            _timeline(video),
        ]
    )


async def _picture(name: str, image: bytes, **bounds: int) -> str:
    small = await asyncio.to_thread(thumbnail, base64.b64encode(image).decode(), **bounds)
    return f"![{name}](data:image/jpeg;base64,{small})"


async def _links(workspace: Workspace, video: Video) -> str:
    """The player in the gallery, which lasts; else a link to the file, which expires."""
    if player := player_url(workspace.settings, video.job_id):
        return f"[Play the video]({player})"
    link = await workspace.store.presign(video.key, expires=LINK_LIFETIME)
    return f"[Play the video]({link})** (the link works for {LINK_LIFETIME.days} days)**"


def _facts(video: Video) -> str:
    model = f" ({video.model})" if video.model != video.provider else ""
    rows = {
        "Length": f"{video.seconds:.2f} s, {video.width}×{video.height}, {_count(len(video.renders), 'render')}",
        "Rendered by": f"{video.provider}{model}",
        "Cost": _price(video),
        "Stored as": f"`{video.uri}`",
        "Job": f"`{video.job_id}`",
    }
    rows |= {f"Warning {number}": warning.text for number, warning in enumerate(video.warnings, 1)}
    rows |= {f"Note {number}": note for number, note in enumerate(video.notes, 1)}
    return "| | |\n| --- | --- |\n" + "\n".join(f"| {name} | {value} |" for name, value in rows.items())


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _timeline(video: Video) -> str:
    """How long each stage took, drawn to scale in twenty blocks."""
    whole = sum(video.timings.values()) or 1.0
    rows = [
        f"| {stage} | {seconds:.1f} s | {'█' * max(1, round(20 * seconds / whole))} |"
        for stage, seconds in video.timings.items()
    ]
    return "\n".join(["| stage | took | |", "| --- | --- | --- |", *rows])


def _cost_table(video: Video) -> list[dict[str, str]]:
    """Sums first: the ids are long, and the UI cuts what does not fit."""
    return [
        {
            "provider": render.provider,
            "quoted": f"${render.quoted:.4f}",
            "billed": f"${render.billed:.4f}",
            "request": render.request_id,
            "render": render.render_id,
        }
        for render in video.renders
    ]


def _check_table(video: Video) -> list[dict[str, str]]:
    return [
        {
            "check": check.name,
            "value": check.value,
            "bound": check.bound,
            "verdict": "ok" if check.passed else "FAILED",
        }
        for check in video.checks
    ]


async def show_reconciled(found: Reconciled, resumed: list[str], cancelled: list[str]) -> None:
    """Leave a table of what was put straight, and what needs a person."""
    rows = [{"what": "needs a person: outcome unknown", "which": render_id} for render_id in found.unknown]
    rows += [{"what": "needs a person: stalled", "which": render_id} for render_id in found.stalled]
    rows += [{"what": "job bought in part, run it again", "which": job_id} for job_id in found.unfinished]
    rows += [
        {"what": "left as it is", "which": f"{render_id}: {why}"} for render_id, why in found.failed.items()
    ]
    for what in ("published", "collected", "attached", "running", "settled", "released", "invoiced"):
        rows += [{"what": what, "which": which} for which in getattr(found, what)]
    rows += [{"what": "flow run started again", "which": name} for name in resumed]
    rows += [{"what": "cancelled flow run ended", "which": name} for name in cancelled]
    await acreate_table_artifact(
        key="reconcile", table=rows, description="What was put straight, and what needs a person"
    )


#: Rows of a table that a browser shows without effort.
SHOWN = 500


async def show_expired(found: Expired, *, dry_run: bool) -> None:
    """Leave a table of what was deleted by the rules, and of what is old enough and was kept."""
    verb = "would be deleted" if dry_run else "deleted"
    rows = [
        {
            "what": f"{thing.kind}: {verb}",
            "which": thing.name,
            "objects": str(len(thing.keys)),
            "MB": f"{thing.size / 1e6:.1f}",
            "last changed": f"{thing.changed:%Y-%m-%d}",
        }
        for thing in found.deleted[:SHOWN]
    ]
    rows += [{"what": f"kept: {why}", "which": name} for name, why in list(found.kept.items())[:SHOWN]]
    size = sum(thing.size for thing in found.deleted)
    await acreate_table_artifact(
        key="expire",
        table=rows,
        description=f"{len(found.deleted)} things {verb} by the rules ({size / 1e6:.1f} MB), {len(found.kept)} kept",
    )

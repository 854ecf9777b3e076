"""Upkeep: reconcile what runs left behind, resolve a render, expire what is old, write the gallery into a folder."""

from enum import StrEnum
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger
from prefect.artifacts import acreate_markdown_artifact
from pydantic import Field

from avatar.job.reconcile import finish_render, reconcile_renders
from avatar.job.retention import expire as apply_rules
from avatar.money.settle import attach_request, attach_video, declare_not_charged, signed_by
from avatar.stored_models import Model
from avatar.web.export_gallery import Exported, export_gallery
from avatar.workspace import Workspace
from tasks.artifacts import end_progress, show_expired, show_reconciled, write_artifact
from tasks.context import with_workspace
from tasks.flow_runs import end_cancelled_runs, resume_dead_runs


# Flows that look after the others: what was left behind is finished, the unknown settled, the old deleted.
class Upkeep(Model):
    """How far `reconcile` may go."""

    idle_seconds: float | None = Field(
        None,
        title="Idle for",
        ge=0,
        le=86_400,
        description="Seconds without a sign of life after which a render is taken over. Empty: twice the polling window.",
        examples=[240],
    )
    resume_runs: bool = Field(
        True,
        title="Resume runs",
        description="Start crashed and stale flow runs again, a bounded number of times.",
    )


class Expiry(Model):
    """How `expire` applies the rules of AVATAR_RETENTION__…; without them it deletes nothing."""

    dry_run: bool = Field(
        False,
        title="Dry run",
        description="Delete nothing, and show what would be deleted.",
        examples=[True],
    )
    most: int = Field(
        10_000,
        title="At most",
        ge=1,
        le=1_000_000,
        description="Things of each kind deleted in this run. The oldest go first, the next run does the rest.",
        examples=[100],
    )


class Charged(StrEnum):
    CHARGED = "request found"
    NOT_CHARGED = "not charged"


class Settlement(Model):
    """What a person found out about a render whose outcome is unknown."""

    render_id: str = Field(
        title="Render",
        pattern=r"^[0-9a-f]{32}$",
        description="The render id that the error named.",
        examples=["0" * 32],
    )
    verdict: Charged = Field(
        title="Verdict",
        description="Whether the provider's dashboard shows the request. `not charged` lets it be sent again.",
    )
    request_id: str | None = Field(
        None,
        title="Request id",
        max_length=512,
        description="The provider's id of the request, if it was found.",
        examples=["764cabcf-b745-4b3e-ae38-1200304cf45b"],
    )
    video_url: str | None = Field(
        None,
        title="Video",
        max_length=4096,
        description="Where the provider's own pages have the video, for a render that has stalled.",
        examples=["https://v3b.fal.media/files/b/output.mp4"],
    )
    who: str = Field(
        "somebody in the Prefect UI",
        title="Who",
        max_length=100,
        description="Noted in the journal.",
        examples=["Anna"],
    )


@flow(name="reconcile", flow_run_name="put things straight")
@with_workspace
async def reconcile(workspace: Workspace, upkeep: Upkeep = Upkeep()) -> None:  # noqa: B008 - frozen, and the form needs the default
    """Finish, settle or report whatever earlier runs left behind. Never sends a paid request.

    Args:
        upkeep: how far to go.
    """
    try:
        found = await reconcile_renders(workspace, idle_seconds=upkeep.idle_seconds)
    finally:  # dead runs are started again whatever is wrong with the store
        resumed = await resume_dead_runs(workspace.settings.recovery) if upkeep.resume_runs else []
        cancelled = await end_cancelled_runs(workspace.settings.recovery)
    get_run_logger().info(
        "Collected %d, published %d, still rendering %d, unknown %d, stalled %d; %d runs started again, %d ended as "
        "cancelled.",
        len(found.collected), len(found.published), len(found.running), len(found.unknown), len(found.stalled),
        len(resumed), len(cancelled),
    )  # fmt: skip
    await show_reconciled(found, resumed, cancelled)
    for render_id in found.collected:
        await write_artifact(end_progress(render_id, "done; fetched by reconcile"), get_run_logger())


@flow(name="resolve", flow_run_name="settle {settlement.render_id}")
@with_workspace
async def resolve(workspace: Workspace, settlement: Settlement) -> str:
    """Settle a render whose outcome is unknown, as `avatar resolve` does. Spends nothing.

    Args:
        settlement: what was found out.
    """
    by = signed_by(settlement.who)
    if settlement.verdict is Charged.NOT_CHARGED:
        await declare_not_charged(workspace, settlement.render_id, by=by)
        return "settled as not charged"
    request_id = settlement.request_id
    if settlement.video_url:
        await attach_video(
            workspace, settlement.render_id, settlement.video_url, by=by, request_id=request_id
        )
    else:
        await attach_request(workspace, settlement.render_id, request_id or "", by=by)
    found = await finish_render(workspace, settlement.render_id)
    get_run_logger().info(found["text"])
    return found["state"]


@flow(name="expire", flow_run_name="delete what is old enough")
@with_workspace
async def expire(workspace: Workspace, expiry: Expiry = Expiry()) -> None:  # noqa: B008 - frozen, and the form needs the default
    """Delete what the rules of AVATAR_RETENTION__… say, and show it. Without a rule, nothing.

    Args:
        expiry: whether to delete, and how much.
    """
    rules = workspace.settings.retention.model_dump(exclude_none=True)
    if not rules:
        get_run_logger().info("No rule of AVATAR_RETENTION__… is set, so everything is kept.")
        return
    found = await apply_rules(workspace, dry_run=expiry.dry_run, most=expiry.most)
    verb = "Would delete" if expiry.dry_run else "Deleted"
    get_run_logger().info(
        "%s %d things; %d are old enough and kept.", verb, len(found.deleted), len(found.kept)
    )
    await show_expired(found, dry_run=expiry.dry_run)


class Export(Model):
    """Where the gallery is written."""

    folder: str = Field(
        "",
        title="Folder",
        max_length=1024,
        description="A new folder, or one that was exported to before, on the worker's machine. Empty: `gallery` in "
        "AVATAR_STATE_DIR.",
        examples=["/srv/www/videos"],
    )


@flow(name="gallery", flow_run_name="export the gallery")
@with_workspace
async def gallery(workspace: Workspace, export: Export = Export()) -> None:  # noqa: B008 - frozen, and the form needs the default
    """Write every video and its page into a folder that opens from disk, as `avatar export` does. Only what is new.

    Args:
        export: where to.
    """
    default = workspace.settings.state_dir / "gallery"
    folder = Path(export.folder).expanduser() if export.folder else default
    done = await export_gallery(workspace, folder)
    get_run_logger().info("%d videos in %s; %d files copied.", done.videos, folder, done.copied)
    page: Any = acreate_markdown_artifact(
        key="gallery", markdown=_page(folder, done), description="The gallery as a folder"
    )
    await write_artifact(page, get_run_logger())


def _page(folder: Path, done: Exported) -> str:
    missing = "".join(f"\n- `{key}` is missing in the store" for key in done.missing)
    return (
        f"{done.videos} videos in `{folder / 'index.html'}`: {done.copied} files copied, {done.unchanged} were there "
        f"already.\n{missing}"
    )

"""The gallery as a folder of the worker's machine, brought up to date: on demand, or on a schedule."""

from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger
from prefect.artifacts import acreate_markdown_artifact
from pydantic import Field

from flows.equipment import equipment
from flows.gallery.export import Exported, export_gallery
from tasks.artifacts import decorate
from tasks.forms import Model
from tasks.workspace import workspace


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
async def gallery(export: Export = Export()) -> None:  # noqa: B008 - frozen, and the form needs the default
    """Write every video and its page into a folder that opens from disk, as `avatar export` does. Only what is new.

    Args:
        export: where to.
    """
    async with equipment():
        default = workspace().settings.state_dir / "gallery"
        folder = Path(export.folder).expanduser() if export.folder else default
        done = await export_gallery(workspace(), folder)
        get_run_logger().info("%d videos in %s; %d files copied.", done.videos, folder, done.copied)
        page: Any = acreate_markdown_artifact(
            key="gallery", markdown=_page(folder, done), description="The gallery as a folder"
        )
        await decorate(page, get_run_logger())


def _page(folder: Path, done: Exported) -> str:
    missing = "".join(f"\n- `{key}` is missing in the store" for key in done.missing)
    return (
        f"{done.videos} videos in `{folder / 'index.html'}`: {done.copied} files copied, {done.unchanged} were there "
        f"already.\n{missing}"
    )

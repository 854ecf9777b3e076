"""What a job may read of the worker's machine: whoever starts runs names paths, and a worker opens them."""

import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from avatar.batch.manifest import open_manifest
from avatar.batch.models import Batch
from avatar.batch.rows import RawRow, as_job
from avatar.errors import InvalidInput
from avatar.job.inputs import open_input
from avatar.settings import AvatarSettings
from avatar.workspace import Workspace

Open = Callable[..., Workspace]


@pytest.fixture
def places(tmp_path: Path) -> dict[str, Path]:
    """A folder that jobs may read, one beside it with a name that begins alike, and ways from one to the other."""
    allowed, beside = tmp_path / "shared", tmp_path / "shared-not"
    for folder in (allowed, beside):
        folder.mkdir()
        (folder / "p.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (allowed / "link.png").symlink_to(beside / "p.png")
    (beside / "link.png").symlink_to(allowed / "p.png")
    return {"allowed": allowed, "beside": beside}


@pytest.fixture
async def open_with(make_settings: Callable[..., AvatarSettings]) -> AsyncIterator[Open]:
    """Workspaces whose jobs may read some folders."""
    opened: list[Workspace] = []

    def open_one(folders: str | None) -> Workspace:
        opened.append(Workspace(make_settings(input_folders=folders)))
        return opened[-1]

    yield open_one
    for workspace in opened:
        await workspace.aclose()


@pytest.mark.parametrize("name", ["{beside}/p.png", "{allowed}/../shared-not/p.png", "{allowed}/link.png", "/etc/hostname", "a\0b"])  # fmt: skip
async def test_what_lies_outside_is_refused(open_with: Open, places: dict[str, Path], name: str) -> None:
    """By its real place, whatever path leads to it; nothing tells whether it is there."""
    workspace = open_with(f"/nowhere{os.pathsep}{places['allowed']}")
    with pytest.raises(InvalidInput, match="AVATAR_INPUT_FOLDERS"):
        async with open_input(workspace, name.format(**places), what="portrait"):
            raise AssertionError("it was taken")


@pytest.mark.parametrize("name", ["{allowed}/p.png", "{beside}/link.png", "{beside}/../shared/./p.png"])
async def test_what_lies_inside_is_read(open_with: Open, places: dict[str, Path], name: str) -> None:
    """A file of the folder is taken, by any path; and without the setting any file is."""
    for folders in (str(places["allowed"]), None):
        async with open_input(open_with(folders), name.format(**places), what="portrait") as path:
            assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["p.png", "./p.png", "inner/../p.png"])
async def test_a_relative_path_means_a_file_in_one_of_them(
    open_with: Open, places: dict[str, Path], name: str
) -> None:
    """In the first that has it, wherever the worker's run happens to begin; and it leads to no other place."""
    folders = f"/nowhere{os.pathsep}{places['allowed']}"
    async with open_input(open_with(folders), name, what="portrait") as path:
        assert path == places["allowed"] / "p.png"
    with pytest.raises(InvalidInput, match="AVATAR_INPUT_FOLDERS"):
        async with open_input(open_with(folders), f"../{places['beside'].name}/p.png", what="portrait"):
            raise AssertionError("it was taken")


async def test_without_folders_it_is_relative_to_where_the_worker_was_started(
    open_with: Open, places: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run of a worker begins in an empty directory; a path that leads nowhere says what it is relative to."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PWD", str(places["allowed"]))
    monkeypatch.setenv("PREFECT__FLOW_RUN_ID", "a run of a worker")
    async with open_input(open_with(None), "p.png", what="portrait") as path:
        assert path == places["allowed"] / "p.png"
    with pytest.raises(InvalidInput) as refused:
        async with open_input(open_with(None), "q.png", what="portrait"):
            raise AssertionError("it was taken")
    assert "AVATAR_INPUT_FOLDERS" in (refused.value.hint or "")


async def test_no_folder_means_no_files(open_with: Open, places: dict[str, Path]) -> None:
    """Set and empty: only the bucket and the web."""
    with pytest.raises(InvalidInput, match="AVATAR_INPUT_FOLDERS"):
        async with open_input(open_with(""), str(places["allowed"] / "p.png"), what="portrait"):
            raise AssertionError("it was taken")


async def test_a_folder_of_voices_is_a_file_too(open_with: Open, places: dict[str, Path]) -> None:
    """What is in a folder outside is not listed."""
    batch = Batch(portrait="s3://avatar/p.png", voices=[f"{places['beside']}/"])
    with pytest.raises(InvalidInput, match="AVATAR_INPUT_FOLDERS"):
        async with open_manifest(open_with(str(places["allowed"])), batch):
            raise AssertionError("it was taken")


@pytest.mark.parametrize("base", ["s3://avatar/inbox/", "https://example.com/may/"])
@pytest.mark.parametrize("source", ["/home/anna/portrait.png", "~/portrait.png"])
def test_a_manifest_of_somebody_elses_names_no_files(base: str, source: str) -> None:
    """Who may write to the bucket, or serves the manifest, may not read the worker's disk through it."""
    row = RawRow(1, {"portrait": source, "voice": "voice.mp3"})
    assert "cannot name files of this machine" in str(as_job(row, Batch(manifest="s3://avatar/m.csv"), base))

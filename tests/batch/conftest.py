"""Batches in plain calls: a real store, the sandbox as fal, no Prefect."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from avatar.batch.check import check_rows
from avatar.batch.manifest import open_manifest
from avatar.batch.models import Batch, Checked, Summary
from avatar.batch.report import write_report
from avatar.batch.run import RowRunner, run_chunks
from avatar.workspace import Workspace
from tests.sandbox import samples
from tests.sandbox.running import Sandbox


@pytest.fixture(scope="session")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `portrait.png` and `voice.wav`, three seconds long."""
    folder = tmp_path_factory.mktemp("media")
    samples.make_inputs(folder)
    samples.write_voice(folder / "voice.wav", 3.0)
    return folder


@pytest.fixture
def rows(media: Path) -> Callable[..., list[dict[str, Any]]]:
    """Rows of different jobs over the same two files, so that the sandbox renders once."""

    def make(count: int, **more: Any) -> list[dict[str, Any]]:
        return [
            {"portrait": "portrait.png", "voice": "voice.wav", "prompt": f"take {number}", **more}
            for number in range(count)
        ]

    return make


@pytest.fixture
def manifest(media: Path, tmp_path: Path) -> Callable[..., Batch]:
    """Writes rows (or text) as a manifest beside the media; keywords are fields of `Batch`."""

    def write(rows: Iterable[Any] | str | bytes, *, name: str = "jobs.jsonl", **more: Any) -> Batch:
        text = rows if isinstance(rows, str | bytes) else "".join(json.dumps(row) + "\n" for row in rows)
        for file in media.iterdir():
            if not (tmp_path / file.name).exists():
                (tmp_path / file.name).symlink_to(file)
        data = text if isinstance(text, bytes) else text.encode()
        (tmp_path / name).write_bytes(data)
        return Batch(manifest=str(tmp_path / name), **more)

    return write


class Works:
    """A batch from its manifest to its report, as the flow does it."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace

    async def check(self, batch: Batch) -> Checked:
        async with open_manifest(self.workspace, batch) as opened:
            return await check_rows(self.workspace, batch, opened)

    async def run(
        self, batch: Batch, *, run: str = "run-1", at_once: int = 10, checked: Checked | None = None
    ) -> Summary:
        """All of it; with `checked`, from there on."""
        checked = checked or await self.check(batch)
        runner = RowRunner(
            self.workspace, batch_id=checked.batch_id, run=run, at_once=at_once, rows=checked.rows
        )
        await run_chunks(runner, range(checked.chunks))
        return await write_report(self.workspace, checked, run, name=batch.name)


@pytest.fixture
async def make_works(make_settings, sandbox: Sandbox):
    """Batches with the sandbox as fal, each like a process of its own; keywords are sections of the settings."""
    opened = []

    def make(**overrides: Any) -> Works:
        fal = {"key": sandbox.key, "queue_url": sandbox.url, "rest_url": sandbox.url}
        given = {"provider": "fal", "fal": fal} | overrides
        works = Works(Workspace(make_settings(**given)))
        opened.append(works)
        return works

    yield make
    for works in opened:
        await works.workspace.aclose()


@pytest.fixture
async def works(make_works) -> Works:
    return make_works()

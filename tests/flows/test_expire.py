"""The flows `expire` and `gallery`: what a person who runs them from the UI sees."""

from pathlib import Path
from typing import Any

import httpx
import pytest

from avatar.models import AvatarJob
from avatar.store.store import Store
from tests.batch.conftest import media  # noqa: F401 - fixture
from tests.flows.conftest import PREFECTS_SOCKETS, Produce, Run

pytestmark = [pytest.mark.server, PREFECTS_SOCKETS]


def artifacts(run: Run) -> list[dict[str, Any]]:
    query = {"artifacts": {"flow_run_id": {"any_": [run.flow_run_id]}}}
    found: list[dict[str, Any]] = httpx.post(f"{run.api_url}/artifacts/filter", json=query, timeout=20).json()
    return found


async def test_expire_does_nothing_until_a_rule_is_set(
    produce: Produce, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a rule it says so; with one, a table tells what it deleted."""
    from flows.upkeep import Expiry, expire

    idle = await produce(Expiry(), flow=expire)
    assert artifacts(idle) == []
    assert any("so everything is kept" in line for line in idle.logs("so everything is kept"))
    monkeypatch.setenv("AVATAR_RETENTION__BATCHES_DAYS", "1")
    await store.put("batches/b1/report.csv", b"line", content_type="text/csv")
    dry = await produce(Expiry(dry_run=True), flow=expire)
    (table,) = artifacts(dry)
    assert "0 things would be deleted" in table["description"]


async def test_the_gallery_is_written_into_a_folder(
    produce: Produce,
    media: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    """Every video and its page, in the folder that was asked for; its artifact says where."""
    from flows.upkeep import Export, gallery

    video = (
        await produce(AvatarJob(portrait=str(media / "portrait.png"), voice=str(media / "voice.wav")))
    ).video
    run = await produce(Export(folder=str(tmp_path / "site")), flow=gallery)
    assert (tmp_path / "site" / "index.html").is_file()
    assert (tmp_path / "site" / "videos" / f"{video.job_id}.html").is_file()
    (page,) = artifacts(run)
    assert f"1 videos in `{tmp_path / 'site' / 'index.html'}`" in page["data"]

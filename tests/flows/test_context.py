"""What a run works with is its own: other runs in the same process neither see nor change it."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from avatar.errors import NotConfigured, StoreUnfit
from avatar.models import AvatarJob, Video
from avatar.settings import AvatarSettings
from avatar.settings_sections import StoreSettings
from avatar.workspace import Step, Workspace
from tests.batch.conftest import media  # noqa: F401 - a fixture
from tests.flows.conftest import PREFECTS_SOCKETS, Local

pytestmark = [pytest.mark.server, PREFECTS_SOCKETS]


@pytest.fixture
def job(media: Path) -> AvatarJob:  # noqa: F811
    return AvatarJob(portrait=str(media / "portrait.png"), voice=str(media / "voice.wav"))


@pytest.fixture
def prefect(local: Local, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """The session's Prefect server; no setting names a store."""
    from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AVATAR_STATE_DIR", str(tmp_path / "state"))
    server = {PREFECT_API_URL: local.running.api_url, PREFECT_HOME: local.state_dir / "prefect"}
    with temporary_settings(server):
        yield


async def test_two_flows_in_one_process_do_not_see_each_other(
    prefect, job: AvatarJob, fresh_buckets: Callable[[], StoreSettings], tmp_path: Path
) -> None:
    """Each has its own store and hears its own steps; the environment is as it was."""
    from flows.generate import generate_avatar
    from tasks.context import in_workspace

    before = dict(os.environ)

    async def run(prompt: str) -> tuple[str, Video, list[Step]]:
        heard: list[Step] = []
        settings = AvatarSettings(_env_file=None, state_dir=tmp_path, store=fresh_buckets())
        async with Workspace(settings, listener=heard.append) as workspace:
            video = await in_workspace(generate_avatar, workspace)(job.model_copy(update={"prompt": prompt}))
        return settings.store.bucket, video, heard

    runs = await asyncio.gather(run("one"), run("two"))
    for bucket, video, heard in runs:
        assert video.uri.startswith(f"s3://{bucket}/")
        assert [step.render_id for step in heard if step.stage == "collect"] == [video.renders[0].render_id]
    assert dict(os.environ) == before


async def test_overlapping_flows_without_a_setting_share_the_embedded_store(
    prefect, local: Local, job: AvatarJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that ends last still has it, and neither leaves its address behind."""
    from flows.generate import generate_avatar

    monkeypatch.setenv("AVATAR_STATE_DIR", str(local.state_dir))
    before = dict(os.environ)
    jobs = [job.model_copy(update={"prompt": prompt}) for prompt in ("first", "second")]
    videos = await asyncio.gather(*(generate_avatar(each) for each in jobs))
    assert len({video.uri for video in videos}) == 2
    assert dict(os.environ) == before


async def test_a_deployed_run_starts_no_store_of_its_own(
    prefect, job: AvatarJob, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A worker without a store setting would buy again what another store holds: it refuses, and starts nothing."""
    from flows.generate import generate_avatar

    monkeypatch.setenv("PREFECT__RUNTIME__DEPLOYMENT__ID", "a-deployment")
    state: Any = await generate_avatar(job, return_state=True)
    outcome = await state.aresult(raise_on_failure=False)
    assert isinstance(outcome, NotConfigured)
    assert "AVATAR_STORE__" in str(outcome.hint)
    assert not (tmp_path / "state" / "store").exists()


async def test_a_run_on_another_store_than_the_servers_refuses(
    prefect,
    job: AvatarJob,
    fresh_buckets: Callable[[], StoreSettings],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The server's runs are on the store that was deployed with; a worker on another sends nothing."""
    from prefect.client.orchestration import get_client

    from flows.generate import generate_avatar
    from tasks.context import STORE_VARIABLE, in_workspace, name_store

    monkeypatch.setenv("PREFECT__RUNTIME__DEPLOYMENT__ID", "a-deployment")
    outcomes = []
    stores = [fresh_buckets(), fresh_buckets()]
    try:
        for store in stores:
            settings = AvatarSettings(_env_file=None, state_dir=tmp_path, store=store)
            async with Workspace(settings) as workspace, get_client() as client:
                if store is stores[0]:
                    await name_store(client, workspace)
                state: Any = await in_workspace(generate_avatar, workspace)(job, return_state=True)
                outcomes.append(await state.aresult(raise_on_failure=False))
                left = [stat.key for stat in await workspace.store.list("videos/")]
    finally:
        async with get_client() as client:
            await client.delete_variable_by_name(STORE_VARIABLE)
    assert [type(outcome) for outcome in outcomes] == [Video, StoreUnfit]
    assert left == []

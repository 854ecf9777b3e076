"""A bucket written by version 1d507ab, with jobs in every state, is read, continued and published."""

import hashlib
import json
import mimetypes
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from avatar.job.inputs import ingest
from avatar.job.plan import identify, plan_job
from avatar.job.publish import find_video, publish_video, require_published
from avatar.job.reconcile import reconcile_renders
from avatar.models import AvatarJob
from avatar.money.collect import collect_render
from avatar.money.entries import RenderState
from avatar.money.quote import quote_render
from avatar.money.settle import attach_request
from avatar.money.submit import submit_render
from avatar.stored_models import ProviderName
from avatar.workspace import Workspace
from tests.money.conftest import make_workspace  # noqa: F401 - a fixture
from tests.money.scripted import Scripted
from tests.sandbox.renderer import Look, render

PACKED = Path(__file__).parents[1] / "fixtures" / "bucket-1d507ab.tar.xz"


@pytest.fixture
def before(tmp_path) -> Path:
    """The unpacked fixture: objects/, inputs/ and states.json."""
    with tarfile.open(PACKED) as tar:
        tar.extractall(tmp_path / "before", filter="data")
    return tmp_path / "before"


@pytest.fixture
def jobs(before) -> dict[str, dict[str, str]]:
    """What the old version did, by the letter of the voice."""
    found: dict[str, dict[str, str]] = json.loads((before / "states.json").read_text())["jobs"]
    return found


@pytest.fixture
async def workspace(before, store, make_workspace) -> Callable[..., Workspace]:  # noqa: F811
    """A workspace on a copy of that bucket, whose provider returns a video of the given voice."""
    for path in sorted((before / "objects").rglob("*")):
        if path.is_file():
            key = path.relative_to(before / "objects").as_posix()
            data, kind = path.read_bytes(), mimetypes.guess_type(key)[0] or "application/octet-stream"
            named = {} if key.endswith(".json") else {"sha256": hashlib.sha256(data).hexdigest()}
            await store.put(key, data, content_type=kind, metadata=named)

    def make(voice: str, *answers: Any) -> Workspace:
        footage = before / f"{voice}.mp4"
        portrait = (before / "inputs" / "portrait.png").read_bytes()
        render(portrait, (before / "inputs" / f"{voice}.wav").read_bytes(), footage, Look(320, 25, 0.04))
        return make_workspace(Scripted(*answers, video=footage))

    return make


def job_of(before: Path, voice: str) -> AvatarJob:
    inputs = before / "inputs"
    return AvatarJob(
        portrait=str(inputs / "portrait.png"),
        voice=str(inputs / f"{voice}.wav"),
        prompt=f"case {voice}",
        provider="fal",
    )


@pytest.mark.parametrize("voice", ["a", "b", "c", "d", "e"])
async def test_the_same_inputs_are_the_same_job_and_render(before, jobs, workspace, voice):
    """Identity is by content, so that nothing that was bought is bought again by a newer version."""
    opened, job = workspace(voice), job_of(before, voice)
    portrait = await ingest(opened, job.portrait, what="portrait")
    sound = await ingest(opened, job.voice, what="voice")
    plan = await plan_job(opened, job, portrait, sound)
    assert (
        identify(job, portrait, sound, opened.provider(job.provider)) == jobs[voice]["job_id"] == plan.job_id
    )
    assert quote_render(opened, plan, plan.segments[0]).render_id == jobs[voice]["render_id"]


async def test_what_was_published_is_found(jobs, workspace):
    video = await find_video(workspace("a"), jobs["a"]["job_id"])
    assert video is not None
    assert require_published(video).renders[0].request_id == jobs["a"]["request_id"]


@pytest.mark.parametrize("voice", ["b", "c"])
async def test_what_was_bought_is_published_without_another_request(before, jobs, workspace, voice):
    """Collected or still at the provider: the job run again ends published, and nothing is sent."""
    opened, job = workspace(voice), job_of(before, voice)
    portrait = await ingest(opened, job.portrait, what="portrait")
    sound = await ingest(opened, job.voice, what="voice")
    plan = await plan_job(opened, job, portrait, sound)
    record = await submit_render(opened, plan, plan.segments[0])
    collected = await collect_render(opened, record.entry.render_id)
    video = await publish_video(opened, plan, [collected])
    assert require_published(video).renders[0].request_id == jobs[voice]["request_id"]
    assert opened.provider(job.provider).seen == []


async def test_what_was_open_is_finished_by_reconcile(jobs, workspace):
    opened = workspace("c")
    found = await reconcile_renders(opened, idle_seconds=0)
    assert jobs["c"]["job_id"] in found.published
    assert await find_video(opened, jobs["c"]["job_id"])
    assert opened.provider(ProviderName.FAL).seen == []


async def test_what_was_unknown_waits_for_a_person_and_can_be_settled(jobs, workspace):
    opened = workspace("e")
    found = await reconcile_renders(opened, idle_seconds=0)
    assert jobs["e"]["render_id"] in found.unknown
    record = await attach_request(opened, jobs["e"]["render_id"], "req-found", by="a person")
    assert record.state is RenderState.SUBMITTED
    assert opened.provider(ProviderName.FAL).seen == []

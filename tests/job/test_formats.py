"""Forms are made of what was bought: never bought again, each its own object, the original kept."""

import pytest
from pydantic import ValidationError

from avatar.job.formats import add_forms
from avatar.job.publish import find_video, publish_video
from avatar.models import AvatarJob, job_id
from tests.job.test_publish import rendered
from tests.money.conftest import footage, inputs, make_workspace, plan  # noqa: F401 - fixtures
from tests.money.scripted import Scripted


@pytest.fixture
async def published(make_workspace, plan, footage):  # noqa: F811
    workspace = make_workspace(Scripted("req-1", video=footage))
    ready = plan.model_copy(update={"formats": ("9:16",)})
    return workspace, await publish_video(workspace, ready, [await rendered(workspace, ready)])


def test_forms_are_no_part_of_a_job():
    job = AvatarJob(portrait="p.png", voice="v.mp3", formats="9:16; 1:1/crop")
    same = {"portrait_sha256": "a" * 64, "voice_sha256": "b" * 64, "model": "m"}
    assert job.formats == ("9:16", "1:1/crop")
    assert job_id(job, **same) == job_id(job.model_copy(update={"formats": ()}), **same)
    with pytest.raises(ValidationError):
        AvatarJob(portrait="p.png", voice="v.mp3", formats=["9:16/fill"])


async def test_a_form_comes_with_the_video(published):
    workspace, video = published
    (form,) = video.forms
    assert await find_video(workspace, video.job_id) == video
    assert form.key == f"videos/{video.job_id}/video-9x16.mp4"
    assert (await workspace.store.stat(form.key)).sha256 == form.sha256
    assert (form.width * 16 - form.height * 9) <= 32
    assert all(check.passed for check in form.checks), form.checks
    assert {"true peak", "loudness", "likeness to the original"} <= {check.name for check in form.checks}


async def test_more_are_made_later_without_a_payment(published):
    """What is there is not made again; the video that was bought stays what it was."""
    workspace, video = published
    changed = await add_forms(workspace, video, ["9:16", "1:1/crop"])
    assert [form.name for form in changed.forms] == ["9:16", "1:1/crop"]
    assert changed.forms[0] == video.forms[0]
    assert (changed.key, changed.sha256) == (video.key, video.sha256)
    assert await add_forms(workspace, changed, ["1:1/crop"]) is changed
    assert len(workspace.provider(video.provider).seen) == 1


async def test_a_form_that_fails_takes_nothing_from_the_video(make_workspace, plan, footage, tmp_path):  # noqa: F811
    (tmp_path / "intro.mp4").write_bytes(b"no video")
    forms = {"intro": str(tmp_path / "intro.mp4")}
    workspace = make_workspace(Scripted("req-1", video=footage), forms=forms)
    ready = plan.model_copy(update={"formats": ("9:16",)})
    video = await publish_video(workspace, ready, [await rendered(workspace, ready)])
    assert (video.state, video.forms) == ("published", ())
    assert "its forms were not made" in video.notes[-1]
    assert await find_video(workspace, video.job_id) == video

"""Captions: checked before anything is paid, no part of a job's identity, and free to change."""

import pytest

from avatar.errors import InvalidInput
from avatar.job.captions import caption_video, with_captions
from avatar.job.produce import find_made
from avatar.job.publish import find_video, publish_video
from avatar.models import AvatarJob, job_id
from tests.job.test_publish import rendered
from tests.money.conftest import footage, inputs, make_workspace, plan  # noqa: F401 - fixtures
from tests.money.scripted import Scripted

GERMAN = "1\n00:00:00,500 --> 00:00:02,000\nHallo\n"


@pytest.fixture
def asked(tmp_path):
    """A job with captions in two languages, of which one is a script."""
    (tmp_path / "eight.de.srt").write_text(GERMAN)
    (tmp_path / "eight.en.txt").write_text("Hello everybody. How are you?")
    files = tuple(str(tmp_path / name) for name in ("eight.de.srt", "eight.en.txt"))
    return AvatarJob(portrait="p.png", voice="eight.wav", language="de", captions=files)


@pytest.fixture
async def video(make_workspace, plan, footage, asked):  # noqa: F811
    workspace = make_workspace(Scripted("req-1", video=footage))
    ready = await with_captions(workspace, asked, plan.model_copy(update={"language": "de"}))
    return workspace, await publish_video(workspace, ready, [await rendered(workspace, ready)])


def test_captions_are_no_part_of_a_job(asked):
    same = {"portrait_sha256": "a" * 64, "voice_sha256": "b" * 64, "model": "m"}
    assert job_id(asked, **same) == job_id(asked.model_copy(update={"captions": ()}), **same)


async def test_they_lie_beside_the_video_and_in_its_record(video):
    workspace, made = video
    assert [(each.language, each.approximate) for each in made.captions] == [("de", False), ("en", True)]
    assert made.captions[0].key == f"videos/{made.job_id}/captions.de.vtt"
    assert b"Hallo" in (await workspace.store.get(made.captions[0].key)).data
    assert made.disclosure == "Dieses Video wurde mit künstlicher Intelligenz erzeugt."
    assert await find_video(workspace, made.job_id) == made


async def test_bad_ones_stop_a_job_before_it_pays(make_workspace, plan, asked, tmp_path):  # noqa: F811
    workspace = make_workspace(Scripted())
    (tmp_path / "eight.de.srt").write_text(GERMAN.replace("00:00:02", "00:01:02"))
    with pytest.raises(InvalidInput, match=r"eight\.de\.srt.*cue 1.*Nothing was sent or spent"):
        await with_captions(workspace, asked, plan)
    twice = asked.model_copy(update={"captions": (asked.captions[1],) * 2})
    with pytest.raises(InvalidInput, match="not the only ones in en"):
        await with_captions(workspace, twice, plan)


async def test_others_are_given_later_without_a_payment(video, tmp_path):
    """The language that is given is replaced, the others stay; the file that was published first is kept."""
    workspace, made = video
    (tmp_path / "new.de.srt").write_text(GERMAN.replace("Hallo", "Guten Tag"))
    changed = await caption_video(workspace, made, [str(tmp_path / "new.de.srt")])
    assert [each.language for each in changed.captions] == ["de", "en"]
    assert b"Guten Tag" in (await workspace.store.get(changed.captions[0].key)).data
    assert b"Hallo" in (await workspace.store.get(made.captions[0].key)).data
    assert (await workspace.store.stat(made.key)).sha256 == made.sha256 != changed.sha256
    assert (await workspace.store.stat(changed.key)).sha256 == changed.sha256
    assert await find_video(workspace, made.job_id) == changed
    assert len(workspace.provider(made.provider).seen) == 1


async def test_a_repeat_with_the_same_captions_changes_nothing(video, asked):
    workspace, made = video
    assert await find_made(workspace, asked, made.job_id) == made

"""What people call a video: kept in its record, outside its identity, and changed without a price."""

import pytest
from pydantic import ValidationError

from avatar.commands.generate import video_names
from avatar.commands.parser import build_parser
from avatar.errors import InvalidInput
from avatar.job.plan import plan_cache_key
from avatar.job.produce import find_made
from avatar.job.publish import find_video, name_video, publish_video
from avatar.models import AvatarJob, job_id, title_for
from avatar.store.objects import check_key
from tests.job.test_publish import rendered
from tests.money.conftest import footage, inputs, make_workspace, plan  # noqa: F401 - fixtures
from tests.money.scripted import Scripted

JOB = AvatarJob(portrait="/in/anna.png", voice="s3://avatar/in/welcome_de.mp3")


@pytest.fixture
async def video(make_workspace, plan, footage):  # noqa: F811
    """A published video called Welcome."""
    workspace = make_workspace(Scripted("req-1", video=footage))
    named = plan.model_copy(update={"title": "Welcome", "language": "de", "labels": {"campaign": "spring"}})
    return workspace, await publish_video(workspace, named, [await rendered(workspace, named)])


@pytest.mark.parametrize(
    ("voice", "title"),
    [
        ("/in/welcome_de.mp3", "welcome_de"),
        ("s3://avatar/in/a.b.wav", "a.b"),
        ("https://example.com/hello.mp3?token=secret", "hello"),
    ],
)
def test_without_a_title_it_is_called_by_its_voice(voice, title):
    """A link's query is no part of a name: it may be a signature."""
    assert title_for(JOB.model_copy(update={"voice": voice})) == title


def test_names_are_no_part_of_a_job():
    named = JOB.model_copy(update={"title": "Welcome", "language": "de", "labels": {"client": "a"}})
    same = {"portrait_sha256": "a" * 64, "voice_sha256": "b" * 64, "model": "m"}
    assert job_id(JOB, **same) == job_id(named, **same)


async def test_a_cached_plan_is_not_used_under_another_name(make_workspace, plan):  # noqa: F811
    workspace, assets = make_workspace(Scripted()), (plan.portrait.source, plan.voice.source)
    job = JOB.model_copy(update={"provider": "fal"})
    keys = {
        plan_cache_key(workspace, job.model_copy(update=one), *assets) for one in ({}, {"title": "Welcome"})
    }
    assert len(keys) == 2
    assert {check_key(key) for key in keys} == keys


async def test_a_record_says_what_it_is_called(video):
    workspace, made = video
    found = await find_video(workspace, made.job_id)
    assert (found.title, found.language, found.labels) == ("Welcome", "de", {"campaign": "spring"})


async def test_renaming_changes_the_record_alone(video):
    """The file is the same object, the state stays, an empty value takes a label away."""
    workspace, made = video
    before = await workspace.store.stat(made.key)
    await name_video(workspace, made, title="Hello", labels={"campaign": "", "client": "acme"})
    found = await find_video(workspace, made.job_id)
    assert (found.title, found.language, found.labels) == ("Hello", "de", {"client": "acme"})
    assert await workspace.store.stat(made.key) == before
    assert len(workspace.provider(made.provider).seen) == 1


async def test_a_repeat_with_another_title_renames_and_buys_nothing(video):
    workspace, made = video
    again = await find_made(workspace, JOB.model_copy(update={"title": "Hello"}), made.job_id)
    assert again.title == "Hello"
    assert (await find_made(workspace, JOB, made.job_id)).title == "Hello"
    assert len(workspace.provider(made.provider).seen) == 1


@pytest.mark.parametrize(
    "wrong", [{"language": "not a language"}, {"title": "x" * 201}, {"labels": {"a": "x" * 201}}]
)
def test_names_have_bounds(wrong):
    with pytest.raises(ValidationError):
        AvatarJob(portrait="a", voice="b", **wrong)


def test_the_command_takes_names():
    arguments = build_parser().parse_args(
        [
            "generate",
            "a.png",
            "b.mp3",
            "--title",
            "Hi",
            "--language",
            "de",
            "--label",
            "campaign=spring",
            "--label",
            "n=1",
        ]
    )
    assert video_names(arguments) == {
        "title": "Hi",
        "language": "de",
        "labels": {"campaign": "spring", "n": "1"},
    }


def test_a_label_that_is_none_is_told():
    arguments = build_parser().parse_args(["label", "0" * 32, "--label", "campaign"])
    with pytest.raises(InvalidInput, match="is not KEY=VALUE"):
        video_names(arguments)

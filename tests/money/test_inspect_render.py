"""A video is decoded once: what is published says of it what a look at the published file itself says."""

from dataclasses import replace
from functools import partial

import pytest

from avatar.errors import VideoRejected
from avatar.job.produce import render_all
from avatar.job.publish import publish_video
from avatar.media import confined
from avatar.media.decoder_calls import inspect_video
from avatar.media.facts import Stills
from avatar.models import AvatarJob, VideoState
from avatar.money.collect import collect_render
from avatar.money.inspect_render import Beside, Seen, take_seen
from avatar.money.submit import submit_render
from tests.money.conftest import footage, inputs, make_workspace, plan  # noqa: F401 - fixtures
from tests.money.scripted import Scripted
from tests.sandbox.renderer import Look as Made
from tests.sandbox.renderer import render

JOB = AvatarJob(portrait="p", voice="v")


async def bought(workspace, plan, segment, claim):  # noqa: F811
    record = await submit_render(workspace, plan, segment, claim=claim)
    return await collect_render(workspace, record.entry.render_id)


async def made(workspace, plan):  # noqa: F811
    """The job's video, rendered and published in one run."""
    renders = await render_all(workspace, JOB, plan, partial(bought, workspace))
    return await publish_video(workspace, plan, renders)


async def fetched(workspace, key, path):
    await workspace.store.download(key, path)
    return path


@pytest.fixture
def decoded(monkeypatch):
    """Names of the functions that decoding processes were asked for."""
    names, run = [], confined._run

    def noting(call, *more):
        names.append(call.function.__name__)
        return run(call, *more)

    monkeypatch.setattr(confined, "_run", noting)
    return names


@pytest.fixture(params=["", "black", "late_voice", "short", "no_audio"])
def source(request, inputs, tmp_path):  # noqa: F811
    """A provider's video, perhaps with a defect."""
    target = tmp_path / "made.mp4"
    portrait, voice = ((inputs / name).read_bytes() for name in ("portrait.png", "eight.wav"))
    render(portrait, voice, target, Made(320, 25, 0.04, request.param))
    return target


async def test_one_look_finds_what_a_second_would(make_workspace, plan, source, inputs, decoded):  # noqa: F811
    """Checks and stills of the published file, good or bad, without decoding it."""
    workspace = make_workspace(Scripted("req-1", video=source))
    video = await made(workspace, plan)
    assert decoded == ["inspect_video", "write_marked"]
    path = await fetched(workspace, video.key, source.with_name("published.mp4"))
    stills = Stills(source.with_name("poster.jpg"), source.with_name("contact.jpg"))
    facts, checks = inspect_video(path, plan.voice.seconds, voice=inputs / "eight.wav", stills=stills)
    assert video.checks == checks
    assert video.seconds == facts.seconds
    for key, still in ((video.poster_key, stills.poster), (video.contact_key, stills.contact)):
        assert (await workspace.store.get(key)).data == still.read_bytes()
    assert not workspace.looks


async def test_a_look_that_fails_decides_nothing(make_workspace, plan, footage, monkeypatch):  # noqa: F811
    """Whether a video plays is what `probe_video` says; it is looked at again when it is published."""
    workspace = make_workspace(Scripted("req-1", video=footage))
    with monkeypatch.context() as broken:
        broken.setattr("avatar.money.inspect_render.inspect_video", _refuse)
        renders = await render_all(workspace, JOB, plan, partial(bought, workspace))
    video = await publish_video(workspace, plan, renders)
    assert video.state is VideoState.PUBLISHED


def _refuse(*_, **__):
    raise VideoRejected("it takes too much processor time")


async def test_only_what_was_seen_of_the_very_file_is_believed(make_workspace, plan, footage):  # noqa: F811
    """Not of other bytes that another worker kept for this render, nor beside another voice."""
    workspace = make_workspace(Scripted("req-1", video=footage))
    (bought_render,) = await render_all(workspace, JOB, plan, partial(bought, workspace))
    segment, look = plan.segments[0], workspace.looks[bought_render.render_id]
    other_bytes = bought_render.model_copy(update={"sha256": "0" * 64})
    other_voice = replace(look, beside=replace(look.beside, voice_key="assets/other.mp3"))
    cases = [(look, other_bytes, False), (other_voice, bought_render, False), (look, bought_render, True)]
    for kept, render_, believed in cases:
        workspace.looks[bought_render.render_id] = kept
        assert isinstance(take_seen(workspace.looks, plan, segment, render_), Seen) is believed


async def test_a_part_is_looked_at_beside_its_own_piece_of_the_voice(plan):  # noqa: F811
    """And no stills are made of it: the whole has them."""
    (segment,) = plan.segments
    halves = [segment.model_copy(update={"index": index, "seconds": 4.0}) for index in (0, 1)]
    several = plan.model_copy(update={"segments": tuple(halves)})
    assert Beside.of(plan, segment) == Beside(plan.voice.heard.key, plan.voice.seconds, stills=True)
    assert {*map(partial(Beside.of, several), halves)} == {Beside(segment.asset.key, 4.0, stills=False)}

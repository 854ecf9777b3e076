"""What is published was checked; what failed is kept, said, and published only on a person's word."""

import pytest

from avatar.errors import VideoRejected
from avatar.job.publish import accept_video, find_video, publish_video, require_published
from avatar.models import VideoState
from avatar.money.collect import collect_render
from avatar.money.commit import commit_job
from avatar.money.submit import submit_render
from tests.money.conftest import footage, inputs, make_workspace, plan  # noqa: F401 - fixtures
from tests.money.scripted import Scripted
from tests.sandbox.renderer import Look, render


async def rendered(workspace, plan):  # noqa: F811
    """The job's render, bought and collected."""
    (claim,) = (await commit_job(workspace, plan)).values()
    record = await submit_render(workspace, plan, plan.segments[0], claim=claim)
    return await collect_render(workspace, record.entry.render_id)


@pytest.fixture
def spoilt(inputs, tmp_path):  # noqa: F811
    """Footage with a defect."""

    def make(defect: str):
        target = tmp_path / f"{defect}.mp4"
        voice = (inputs / "eight.wav").read_bytes()
        render((inputs / "portrait.png").read_bytes(), voice, target, Look(320, 25, 0.04, defect))
        return target

    return make


async def test_a_good_video_is_published_whole(make_workspace, plan, footage):  # noqa: F811
    """Video, poster, contact strip and manifest are in the store, and the manifest can be audited."""
    workspace = make_workspace(Scripted("req-1", video=footage))
    video = await publish_video(workspace, plan, [await rendered(workspace, plan)])
    assert require_published(video) == await find_video(workspace, plan.job_id)
    keys = [stat.key.rsplit("/", 1)[-1] for stat in await workspace.store.list(f"videos/{plan.job_id}/")]
    assert keys == ["contact.jpg", "manifest.json", "poster.jpg", "video.mp4"]
    assert video.renders[0].request_id == "req-1"
    assert {"submit", "render", "collect", "publish"} <= set(video.timings)


@pytest.mark.parametrize("defect", ["black", "frozen", "silent", "short", "late_voice"])
async def test_a_bad_video_is_kept_and_rejected(make_workspace, plan, spoilt, defect):  # noqa: F811
    """Paid, so kept with its reason; asked for again it is neither published nor bought anew."""
    provider = Scripted("req-1", video=spoilt(defect))
    workspace = make_workspace(provider)
    await publish_video(workspace, plan, [await rendered(workspace, plan)])
    video = await find_video(workspace, plan.job_id)
    assert video.state is VideoState.REJECTED
    with pytest.raises(VideoRejected, match=r"did not pass its checks.*was charged") as caught:
        require_published(video)
    assert caught.value.cost_at_risk == video.cost.billed
    assert (await workspace.store.stat(video.key)).size == video.size
    assert len(provider.seen) == 1


async def test_a_rejected_video_can_be_accepted(make_workspace, plan, spoilt):  # noqa: F811
    """A person's word publishes it, and the manifest says so."""
    workspace = make_workspace(Scripted("req-1", video=spoilt("silent")))
    video = await publish_video(workspace, plan, [await rendered(workspace, plan)])
    await accept_video(workspace, video)
    accepted = require_published(await find_video(workspace, plan.job_id))
    assert "accepted by a person" in accepted.notes[-1]
    assert accepted.sha256 == video.sha256


async def test_a_manifest_without_its_video_is_not_believed(make_workspace, plan, footage):  # noqa: F811
    """If the video has gone, the job is not published: the kept render is put in place again."""
    workspace = make_workspace(provider := Scripted("req-1", video=footage))
    render_kept = await rendered(workspace, plan)
    video = await publish_video(workspace, plan, [render_kept])
    await workspace.store.remove(video.key)
    assert await find_video(workspace, plan.job_id) is None
    again = await publish_video(workspace, plan, [render_kept])
    assert again.sha256 == video.sha256
    assert len(provider.seen) == 1

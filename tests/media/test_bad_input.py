"""Every case of docs/bad-input.md that is a file: what its user is told, what it costs, what is kept."""

import pytest

from avatar.errors import InvalidInput, VideoRejected
from avatar.job.inputs import ingest
from avatar.job.plan import plan_job
from avatar.job.publish import publish_video
from avatar.models import AvatarJob
from avatar.money.collect import collect_render
from avatar.money.submit import submit_render
from tests.cases import FileCase, portraits, videos, voices
from tests.media import wrecks
from tests.media.outcomes import OUTCOMES
from tests.media.recordings import EXAMPLES
from tests.money.conftest import footage, inputs, make_workspace, plan  # noqa: F401 - fixtures
from tests.money.scripted import Scripted

TABLES = {"portraits": portraits.CASES, "voices": voices.CASES, "videos": videos.CASES}
REFUSED = [case for case in (*portraits.CASES, *voices.CASES) if case.is_refused and "empty" not in case.seen]
BROKEN = [case for case in videos.CASES if case.is_refused]


@pytest.mark.parametrize(
    ("kind", "case"), [pytest.param(kind, case, id=case.name) for kind, cases in TABLES.items() for case in cases]
)  # fmt: skip
def test_its_user_is_told(tmp_path, kind, case: FileCase):
    """To the letter what the page says."""
    assert OUTCOMES[kind](case.make(tmp_path), tmp_path) == case.seen


async def test_nothing_refused_reaches_the_provider(make_workspace, tmp_path):  # noqa: F811
    """Each is refused while the job is planned; the journal stays empty, and the text says that nothing was spent."""
    workspace = make_workspace(provider := Scripted())
    good = {"portrait": EXAMPLES / "portrait.png", "voice": EXAMPLES / "speech.mp3"}
    for case in REFUSED:
        path = case.make(tmp_path)
        given = good | {"portrait" if case in portraits.CASES else "voice": path}
        job = AvatarJob(
            portrait=str(given["portrait"]), voice=str(given["voice"]), prompt="p", provider="fal"
        )
        assets = [await ingest(workspace, str(given[what]), what=what) for what in ("portrait", "voice")]
        with pytest.raises(InvalidInput, match=r"Nothing was sent or spent\.$"):
            await plan_job(workspace, job, *assets)
    assert provider.seen == []
    assert await workspace.store.list("journal/") == []


async def collected(workspace, plan):  # noqa: F811
    record = await submit_render(workspace, plan, plan.segments[0])
    return await collect_render(workspace, record.entry.render_id)


async def test_a_broken_video_is_kept(make_workspace, plan, tmp_path):  # noqa: F811
    """Paid for, so it stays in the store byte for byte; the text says where, and it is not bought again."""
    for number, case in enumerate(BROKEN):
        workspace = make_workspace(provider := Scripted(f"req-{number}", video=case.make(tmp_path)))
        taken = plan.model_copy(update={"take": number})
        with pytest.raises(VideoRejected, match=rf"{case.seen[:-1]}.*kept as renders/") as caught:
            await collected(workspace, taken)
        (kept,) = await workspace.store.list(f"renders/{caught.value.render_id}/")
        assert kept.key in caught.value.message
        assert (await workspace.store.get(kept.key)).data == provider.video.read_bytes()
        assert (caught.value.request_id, len(provider.seen)) == (f"req-{number}", 1)


async def test_a_video_that_crashes_its_decoder_is_kept(make_workspace, plan, footage, monkeypatch):  # noqa: F811
    """When it is collected: we go on, and so does what was paid for."""
    workspace = make_workspace(Scripted("req-1", video=footage))
    monkeypatch.setattr("avatar.money.collect.probe_video", wrecks.crash_on_video)
    with pytest.raises(VideoRejected, match=r"decoder crashed \(SIGSEGV\).*The file is kept as renders/"):
        await collected(workspace, plan)
    assert len(await workspace.store.list("renders/")) == 1


async def test_renders_that_crash_the_decoder_later_are_kept(make_workspace, plan, footage, monkeypatch):  # noqa: F811
    """When the video is put together: the text names what was kept; another try costs nothing."""
    workspace = make_workspace(provider := Scripted("req-1", video=footage))
    render = await collected(workspace, plan)
    with monkeypatch.context() as broken:
        broken.setattr("avatar.job.publish.inspect_video", lambda path, *_, **__: wrecks.crash_on_video(path))
        with pytest.raises(VideoRejected, match=r"decoder crashed.*is kept as renders/") as caught:
            await publish_video(workspace, plan, [render])
    assert (caught.value.request_id, caught.value.cost_at_risk) == ("req-1", render.billed)
    await publish_video(workspace, plan, [render])
    assert len(provider.seen) == 1

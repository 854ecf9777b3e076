"""What the gallery asks for two files, before anything is started."""

from avatar.job import plan
from avatar.stored_models import ProviderName
from avatar.web import offers
from tests.sandbox import samples
from tests.web.gallery.manifests import put_video
from tests.web.gallery.test_actions import bring, desk, inputs, prefect, priced_order  # noqa: F401 - fixtures


async def test_what_was_published_before_leads_to_its_video(desk, store, inputs, monkeypatch):  # noqa: F811
    """The same files under another title: its offer says so and has nothing to press; the others have."""
    plans = []

    async def plan_job(*asked):
        plans.append(await plan.plan_job(*asked))
        return plans[-1]

    monkeypatch.setattr(offers, "plan_job", plan_job)
    portrait, voice = [
        (await bring(desk, inputs / name)).json()["key"] for name in ("portrait.png", "eight.wav")
    ]
    fields = {"portrait": portrait, "voice": voice}
    start, page = await priced_order(desk, fields | {"title": "Hello"})
    assert "nothing is paid for it again" not in page.text
    buttons = page.text.count(f'action="{start}"')
    job_id = next(made.job_id for made in plans if made.provider is ProviderName.PIXAZO)
    await put_video(store, 1, job_id=job_id)
    start, page = await priced_order(desk, fields | {"title": "Hello again"})
    assert "Published before: nothing is paid for it again." in page.text
    assert f'href="../videos/{job_id}">See the video</a>' in page.text
    assert page.text.count(f'action="{start}"') == buttons - 1


async def test_what_cannot_be_rendered_is_said_before_anything_is_sent(desk, inputs, tmp_path):  # noqa: F811
    """A voice that is too short: the page says so, and has nothing to press for it."""
    samples.write_voice(tmp_path / "short.wav", 1.0)
    portrait = (await bring(desk, inputs / "portrait.png")).json()["key"]
    voice = (await bring(desk, tmp_path / "short.wav")).json()["key"]
    html = (await priced_order(desk, {"portrait": portrait, "voice": voice}))[1].text
    assert "the shortest accepted is 2 s" in html
    assert 'name="price"' not in html

"""Consent of the person in a portrait: asked for before anything is paid, told in the record, no part of a job's identity."""

import asyncio
import json
from datetime import UTC, date, datetime, timedelta

import pytest

from avatar import quote
from avatar.commands.main import main
from avatar.errors import ConsentMissing
from avatar.job.consent import fault_of, find_consent, with_consent, write_consent
from avatar.job.produce import render_all
from avatar.job.publish import find_video, publish_video
from avatar.models import AvatarJob
from avatar.stored_models import Consent
from tests.job.test_publish import rendered
from tests.money.conftest import footage, inputs, make_workspace, plan  # noqa: F401 - fixtures
from tests.money.scripted import Scripted

LATER = date(2999, 12, 31)


def given(plan, **more) -> Consent:  # noqa: F811
    facts = {"who": "Anna Meyer", "purpose": "spring campaign", "until": LATER, "paper": "folder 12"}
    written = {"portrait": plan.portrait.source.sha256, "written_at": datetime.now(UTC)}
    return Consent.model_validate(facts | written | more)


async def test_nothing_is_paid_for_a_face_without_one(make_workspace, plan):  # noqa: F811
    """None, an ended one, a revoked one, one that is revoked while the job waits: the provider is not asked."""
    workspace = make_workspace(Scripted(), consent="required")
    with pytest.raises(ConsentMissing, match=r"no consent is recorded.*Nothing was sent or spent"):
        await with_consent(workspace, plan)
    await write_consent(workspace, given(plan, until=date(2020, 1, 1)))
    with pytest.raises(ConsentMissing, match=r"Anna Meyer ended on 2020-01-01"):
        await with_consent(workspace, plan)
    await write_consent(workspace, given(plan))
    ready = await with_consent(workspace, plan)
    assert (ready.consent.who, ready.job_id) == ("Anna Meyer", plan.job_id)
    await write_consent(workspace, given(plan, revoked=True))
    job = AvatarJob(portrait="p.png", voice="eight.wav")

    async def render(*_):
        raise AssertionError("asked for")

    with pytest.raises(ConsentMissing, match="was revoked on"):
        await render_all(workspace, job, ready, render)
    assert workspace.provider(plan.provider).seen == []
    assert await workspace.store.list("open/jobs/") == []


async def test_what_it_covers_is_in_the_record(make_workspace, plan, footage):  # noqa: F811
    """Whether one is asked for or not."""
    workspace = make_workspace(Scripted("req-1", video=footage))
    assert (await with_consent(workspace, plan)).consent is None
    await write_consent(workspace, given(plan))
    ready = await with_consent(workspace, plan)
    made = await publish_video(workspace, ready, [await rendered(workspace, ready)])
    assert (await find_video(workspace, made.job_id)).consent == given(
        plan, written_at=made.consent.written_at
    )


def test_it_holds_through_its_last_day(plan):  # noqa: F811
    consent = given(plan, until=date(2026, 3, 1))
    assert [bool(fault_of(consent, date(2026, 3, day))) for day in (1, 2)] == [False, True]


async def test_a_quote_refuses_too(make_settings, inputs):  # noqa: F811
    """From Python; the free preview needs none."""
    settings = make_settings(consent="required", fal={"key": "k"})
    files = {"portrait": str(inputs / "portrait.png"), "voice": str(inputs / "eight.wav")}
    assert (await quote(AvatarJob(**files, provider="preview"), settings)).consent is None
    with pytest.raises(ConsentMissing):
        await quote(AvatarJob(**files, provider="fal"), settings)


@pytest.fixture
def avatar(store_settings, inputs, tmp_path, monkeypatch, capsys):  # noqa: F811
    """The command in this process; gives its exit code and what it printed as JSON."""
    monkeypatch.chdir(inputs)
    monkeypatch.setenv("AVATAR_STATE_DIR", str(tmp_path / "state"))
    for name in ("endpoint", "access_key", "secret_key", "bucket", "secure"):
        value = getattr(store_settings, name)
        text = value.get_secret_value() if hasattr(value, "get_secret_value") else str(value)
        monkeypatch.setenv(f"AVATAR_STORE__{name.upper()}", text)

    def run(*arguments):
        code = main([*arguments, "--json"])
        return code, json.loads(capsys.readouterr().out)

    return run


def test_the_command_adds_shows_and_revokes(avatar, monkeypatch):
    """By the file, or by what its content is called; a quote says what is missing."""
    monkeypatch.setenv("AVATAR_CONSENT", "required")
    asked = ("quote", "--provider", "fal", "--portrait", "portrait.png", "eight.wav")
    code, told = avatar(*asked)
    assert (code, told["offers"][0]["accepted"]) == (2, False)
    assert "no consent is recorded" in told["offers"][0]["reason"]
    facts = ("--who", "Anna", "--for", "spring", "--paper", "folder 12")
    yesterday = str(datetime.now(UTC).date() - timedelta(days=1))
    assert avatar("consent", "add", "portrait.png", *facts, "--until", yesterday)[0] == 2
    _, told = avatar("consent", "add", "portrait.png", *facts, "--until", "2999-12-31")
    sha256 = told["consents"][0]["portrait"]
    assert avatar("consent", "show") == avatar("consent", "show", sha256) == (0, told)
    code, told = avatar("consent", "revoke", sha256)
    assert (told["consents"][0]["fault"][:30], told["videos"]) == ("the consent of Anna was revoke", [])
    assert avatar("consent", "show", "eight.wav")[0] == 2


async def test_revoking_lists_the_videos(make_workspace, plan, footage, avatar):  # noqa: F811
    """Those from before it was recorded, too; they are not touched."""
    workspace = make_workspace(Scripted("req-1", video=footage))
    made = await publish_video(workspace, plan, [await rendered(workspace, plan)])
    await write_consent(workspace, given(plan))
    _, told = await asyncio.to_thread(avatar, "consent", "revoke", plan.portrait.source.sha256)
    assert [video["job_id"] for video in told["videos"]] == [made.job_id]
    assert (await find_consent(workspace, plan.portrait.source.sha256)).revoked
    assert await find_video(workspace, made.job_id) == made

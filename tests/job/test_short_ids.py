"""What people copy from a list is often cut: the beginning of an id is enough wherever one is asked for."""

import asyncio
import json
from argparse import Namespace
from datetime import datetime, timedelta, timezone
from decimal import Decimal

import pytest

from avatar.commands import captions_and_formats, status
from avatar.errors import InvalidInput
from avatar.settings import AvatarSettings
from avatar.settings_sections import StoreSettings
from avatar.stored_models import ProviderName
from avatar.workspace import Workspace
from tests.store.memory import MemoryStore
from tests.web.gallery.manifests import put_video

JOB, OTHER, RENDER = "ab12cd" + "0" * 26, "ab12ce" + "0" * 26, "ef34ab" + "0" * 26
GALLERY = {"public_url": "http://127.0.0.1:4299"}


@pytest.fixture
def store(monkeypatch, tmp_path):
    """A bucket in memory with two videos and a render, which the commands look into."""
    nowhere = StoreSettings(endpoint="memory.invalid", access_key="test", secret_key="test")
    settings = AvatarSettings(_env_file=None, state_dir=tmp_path / "state", store=nowhere, gallery=GALLERY)
    store = MemoryStore()
    store.server.buckets["avatar"] = {}

    def with_store(work):
        async def run():
            async with Workspace(settings) as workspace:
                workspace.store = workspace.journal.store = workspace.budget.store = store
                return await work(workspace)

        return asyncio.run(run())

    async def fill(workspace):
        for number, job_id in enumerate((JOB, OTHER)):
            await put_video(store, number, job_id=job_id, title=f"Greeting {number}")
        facts = {"job_id": JOB, "provider": ProviderName.FAL, "quoted": Decimal("1.04")}
        await workspace.journal.begin(None, render_id=RENDER, **facts)

    for module in (status, captions_and_formats):
        monkeypatch.setattr(module, "with_store", with_store)
    with_store(fill)
    return store


def said(capsys, run, **given):
    """The JSON that a command prints."""
    assert run(Namespace(json=True, **given)) == 0
    return json.loads(capsys.readouterr().out)


def shown(capsys, wanted):
    return said(capsys, status.run, id=wanted, spend=False, by=None)


def test_status_takes_the_beginning_of_an_id(store, capsys):
    """Of a job or a render; too little of it is told, and so is what begins none."""
    found = shown(capsys, "ab12cd")
    assert (found["video"]["job_id"], found["video"]["title"]) == (JOB, "Greeting 0")
    assert [entry["render_id"] for entry in shown(capsys, "ef34ab0")["journal"]] == [RENDER]
    for wanted, why in (("ab12c", "no job"), ("ffffff", "no job"), (JOB[:5] + "?", "no job")):
        with pytest.raises(InvalidInput, match=why):
            shown(capsys, wanted)


def test_what_begins_two_is_not_guessed(store, capsys):
    store.keep("videos/ab12cd1/manifest.json", b"{}")
    with pytest.raises(InvalidInput, match="begins 2 ids: give more of it"):
        shown(capsys, "ab12cd")


def test_status_links_the_player(store, capsys):
    """In the list and for one, for people and for programs."""
    link = f"{GALLERY['public_url']}/videos/{JOB}"
    assert shown(capsys, JOB)["video"]["link"] == link
    assert status.run(Namespace(json=False, id=None, spend=False, by=None)) == 0
    assert link in capsys.readouterr().out


def test_status_tells_the_time_of_this_place(store, capsys, monkeypatch):
    """In UTC for programs."""
    monkeypatch.setattr(status, "datetime", Berlin)
    assert shown(capsys, JOB)["video"]["published_at"] == "2026-01-01 12:00:00"
    assert status.run(Namespace(json=False, id="ab12cd", spend=False, by=None)) == 0
    assert "2026-01-01 13:00:00" in capsys.readouterr().out


class Berlin(datetime):
    """A clock of another place than where the tests run."""

    def astimezone(self, tz=None):
        return super().astimezone(tz or timezone(timedelta(hours=1)))


def test_a_video_is_renamed_by_the_beginning_of_its_id(store, capsys):
    names = {"title": "Hello", "language": "de", "label": ["campaign=spring"]}
    found = said(capsys, status.run_label, job="ab12cd", **names)
    assert found == {"job_id": JOB, "title": "Hello", "language": "de", "labels": {"campaign": "spring"}}
    assert shown(capsys, JOB)["video"]["title"] == "Hello"


@pytest.mark.parametrize(
    ("run", "given"),
    [
        (captions_and_formats.run_captions, {"files": ["de.srt"]}),
        (captions_and_formats.run_formats, {"forms": ["9:16"]}),
    ],
)
def test_captions_and_forms_are_for_the_video_that_begins_so(store, capsys, monkeypatch, run, given):
    asked = []

    async def change(_, video, wanted):
        asked.append((video.job_id, list(wanted)))
        return video

    for name in ("caption_video", "add_forms"):
        monkeypatch.setattr(captions_and_formats, name, change)
    assert said(capsys, run, job="ab12cd", **given)["job_id"] == JOB
    assert [job_id for job_id, _ in asked] == [JOB]
    with pytest.raises(InvalidInput, match="There is no video of job 'ffffff'"):
        run(Namespace(json=True, job="ffffff", **given))

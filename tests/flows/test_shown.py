"""What a run is called, what it shows and which links lead to it, told to a client that writes it down."""

import argparse
import logging
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from types import SimpleNamespace
from uuid import uuid4

import pytest
from prefect.logging import disable_run_logger

from avatar import local
from avatar.batch.models import Summary
from avatar.commands import batch as batch_command
from avatar.commands import generate as generate_command
from avatar.errors import RenderFailed, StoreUnavailable
from avatar.local import Services
from avatar.models import RemoteState, Snapshot
from flows import batch as batch_flow
from flows import generate as generate_flow
from tasks import artifacts, context
from tasks import job as steps
from tests.web.gallery.manifests import make_video

LOG = logging.getLogger("test")
JOB = {"portrait": "/in/anna.png", "voice": "s3://avatar/in/welcome_de.mp3"}
BATCH = {"manifest": "/in/may.csv"}


@pytest.mark.parametrize(
    ("typed", "title", "called"),
    [
        ("My own name 1", "", "My own name 1"),
        ("My own name 1", "Welcome", "My own name 1"),
        ("brave-otter", "Welcome", "Welcome"),
        ("brave-otter", "", "anna says welcome_de"),
    ],
)
def test_the_name_that_a_person_typed_stays(monkeypatch, typed, title, called):
    """Prefect's own is replaced by the title, or by what is rendered."""
    run = SimpleNamespace(
        name=typed, parameters={"job": JOB | {"title": title}, "batch": BATCH | {"name": title}}
    )
    for module in (generate_flow, batch_flow, context):
        monkeypatch.setattr(module, "flow_run", run)
    assert generate_flow._run_name() == called
    of_batch = called if typed == called else f"batch {title or 'may.csv'}"
    assert batch_flow._batch_run_name() == of_batch


class Kept:
    """Progress artifacts as Prefect's server keeps them, the newest first."""

    def __init__(self):
        self.run, self.rows = str(uuid4()), []

    async def create(self, *, key, progress, description):
        row = SimpleNamespace(id=uuid4(), key=key, run=self.run, data=progress, description=description)
        self.rows.insert(0, row)
        return row.id

    async def update(self, *, artifact_id, progress, description):
        (row,) = [row for row in self.rows if row.id == artifact_id]
        row.data, row.description = progress, description

    @asynccontextmanager
    async def client(self):
        yield self

    async def read_artifacts(self, *, artifact_filter, sort):
        assert sort == "CREATED_DESC"
        runs = artifact_filter.flow_run_id and {str(one) for one in artifact_filter.flow_run_id.any_}
        keys = artifact_filter.key.any_
        return [row for row in self.rows if row.key in keys and (not runs or row.run in runs)]

    def told(self):
        return [(row.data, row.description) for row in self.rows]


@pytest.fixture
def kept(monkeypatch):
    kept = Kept()
    monkeypatch.setattr(artifacts, "get_client", kept.client)
    monkeypatch.setattr(artifacts, "acreate_progress_artifact", kept.create)
    monkeypatch.setattr(artifacts, "aupdate_progress_artifact", kept.update)
    monkeypatch.setattr(artifacts, "flow_run", SimpleNamespace(id=kept.run))
    return kept


RENDER = "ab" * 16
HALF = Snapshot(state=RemoteState.RUNNING, progress=0.5)
DONE = Snapshot(state=RemoteState.DONE)


async def attempt(*snapshots):
    """A task run that follows the render: the first, or one after another."""
    progress = artifacts.RenderProgress(RENDER, LOG)
    for snapshot in snapshots:
        await progress.show(snapshot, 1.0)
    return progress


async def test_a_render_has_one_progress_in_its_run(kept):
    """However often it is tried, it goes on where it was, and ends at 100 %."""
    for _ in range(3):
        await attempt(HALF)
    assert [share for share, _ in kept.told()] == [50.0]
    await attempt(HALF, DONE)
    ((share, text),) = kept.told()
    assert (share, "done" in text) == (100.0, True)


async def test_a_render_that_failed_says_so(kept):
    """At the share it had; in the runs that showed it before, too."""
    await attempt(HALF)
    kept.run = str(uuid4())
    artifacts.flow_run.id = kept.run
    failed = RenderFailed("The provider said no.", hint="Change the portrait.")
    await (await attempt(HALF)).end(failed)
    assert kept.told() == [(50.0, f"Ended without a video: {failed}")] * 2


async def test_a_render_that_was_said_to_be_done_and_failed_says_so(kept, monkeypatch):
    """With fal's result only; what passes leaves the task to be tried again."""
    errors = [StoreUnavailable("away"), RenderFailed("The provider said no.", hint="Change the portrait.")]

    async def collect(*_):
        raise errors[0]

    monkeypatch.setattr(steps, "collect", collect)
    monkeypatch.setattr(steps, "get_run_logger", lambda: LOG)
    workspace, submission = SimpleNamespace(announce=lambda _: None), SimpleNamespace(render_id=RENDER)
    await attempt(DONE)
    for said in ("done", "Ended without a video: The provider said no."):
        with pytest.raises(type(errors[0])):
            await steps.collect_render.fn(workspace, submission)
        ((_, text),) = kept.told()
        assert text.startswith(said)
        errors.pop(0)


async def test_what_passes_ends_no_other_runs_progress(kept):
    await attempt(HALF)
    artifacts.flow_run.id = kept.run = str(uuid4())
    away = StoreUnavailable("The store did not answer.")
    await (await attempt(HALF)).end(away)
    own, other = kept.told()
    assert own == (50.0, f"Ended without a video: {away}")
    assert "Ended" not in other[1]


async def test_no_run_is_left_at_96_per_cent(kept):
    """What a run that died showed is ended by the run after it."""
    almost = Snapshot(state=RemoteState.RUNNING, progress=0.96)
    await attempt(almost)
    artifacts.flow_run.id = kept.run = str(uuid4())
    await attempt(DONE)
    assert [share for share, _ in kept.told()] == [100.0, 100.0]


async def test_what_reconcile_fetched_is_done(kept):
    """Also where the last run ended in trouble that passed; a run before it that failed goes on saying so."""
    failed, away = RenderFailed("no", hint="another portrait"), StoreUnavailable("The store did not answer.")
    for error in (failed, away):
        artifacts.flow_run.id = kept.run = str(uuid4())
        await (await attempt(HALF)).end(error)
    await artifacts.end_progress(RENDER, "done; fetched by reconcile")
    assert kept.told() == [(100.0, "done; fetched by reconcile"), (50.0, f"Ended without a video: {failed}")]


async def test_the_previews_page_is_apart_from_the_paid_videos(monkeypatch):
    """Each artifact has a key that begins with what it is; those of a preview are its own."""
    keys = []

    async def create(*, key, **_):
        keys.append(key.rpartition("-")[0])

    async def page(*_):
        return "page"

    for name in ("acreate_markdown_artifact", "acreate_table_artifact"):
        monkeypatch.setattr(artifacts, name, create)
    monkeypatch.setattr(artifacts, "_page", page)
    monkeypatch.setattr(artifacts, "get_run_logger", lambda: LOG)
    with disable_run_logger():
        await artifacts.show_preview(None, make_video(1))
        assert keys == ["preview"]
        await artifacts.show_video(None, make_video(1))
    assert keys == ["preview", "video", "cost", "checks"]


RUN, HERE = "0190a1b2-0000-7000-8000-000000000001", "http://127.0.0.1:4200"


@pytest.mark.parametrize(
    ("started", "gallery", "link"),
    [
        pytest.param(False, "", f"{HERE}/v2/runs/flow-run/{RUN}", id="a server of the user's"),
        pytest.param(True, "http://127.0.0.1:4299", f"{HERE}/v2/runs/flow-run/{RUN}", id="avatar up"),
        pytest.param(True, "", None, id="ends with the command"),
    ],
)
def test_a_printed_run_is_in_the_ui_that_opens_by_default(started, gallery, link):
    running = Services(None, f"{HERE}/api", HERE, started_api=started, gallery_url=gallery)
    assert generate_command.run_url(running, RUN) == link


def test_a_repeat_does_not_read_as_a_purchase(capsys):
    """What was there says so, with what it cost then; what was made now says what it cost."""
    video = make_video(1, title="Welcome")
    asked, told = argparse.Namespace(out=None, json=False), {"url": "", "flow_run_id": RUN}
    generate_command._print(video, asked, video.published_at + timedelta(hours=1), **told)
    assert "published before, nothing paid now ($0.94 by fal then)" in capsys.readouterr().out
    generate_command._print(video, asked, video.published_at - timedelta(minutes=1), **told)
    said = capsys.readouterr().out.splitlines()[0]
    assert said == "Welcome: 8.16 s of video, 720×720, for $0.94 by fal"


def test_a_batch_prints_its_page_and_its_run(monkeypatch, capsys, tmp_path):
    """The page of its videos in the gallery, where its report is too."""
    running = Services(None, f"{HERE}/api", HERE, started_api=True, gallery_url="http://127.0.0.1:4299")

    @contextmanager
    def services(*_, **__):
        yield running

    async def generate(*_):
        return Summary(batch_id="ab" * 16, rows=2, states={"published": 2}, report_key="r.csv"), RUN

    monkeypatch.setattr(local, "services", services)
    monkeypatch.setattr(local, "prefect_variables", lambda *_: {})
    monkeypatch.setattr(batch_command, "_generate", generate)
    monkeypatch.setenv("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    monkeypatch.setenv("AVATAR_STATE_DIR", str(tmp_path))
    asked = {
        "manifest": "may.csv",
        "portrait": None,
        "voices": [],
        "prompt": ".",
        "provider": None,
        "model": None,
    }
    more = {
        "on_bad_rows": "skip",
        "at_once": None,
        "max_cost": None,
        "name": "",
        "json": False,
        "debug": False,
    }
    assert batch_command.run(argparse.Namespace(**asked, **more)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("2 of 2 rows have a video")
    assert f"  videos http://127.0.0.1:4299/batches/{'ab' * 16}" in lines
    assert f"  run    {HERE}/v2/runs/flow-run/{RUN}" in lines

"""Events out: what a Prefect server hears of videos, by which users start automations of their own."""

import asyncio
import re
import time
import uuid
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest

from avatar.batch.models import Batch
from avatar.errors import BatchIncomplete, BudgetRefused, OutcomeUnknown, RenderFailed, VideoRejected
from avatar.events import NOTICES, Notice
from avatar.job.reconcile import reconcile_renders
from avatar.models import AvatarJob, Video
from avatar.settings import AvatarSettings
from avatar.stored_models import ProviderName
from avatar.workspace import Workspace
from tests.batch.conftest import Works, make_works, manifest, media, rows  # noqa: F401 - fixtures
from tests.flows.conftest import PREFECTS_SOCKETS, Local, Produce
from tests.sandbox.running import Sandbox

pytestmark = PREFECTS_SOCKETS
DOCS = Path(__file__).parents[2] / "docs" / "events.md"


class Heard:
    """Our events on the session's server, of this test's runs only."""

    def __init__(self, api_url: str) -> None:
        self.url, self.since = f"{api_url}/events/filter", datetime.now(UTC).isoformat()

    def until(self, count: int, *runs: Any) -> list[dict[str, Any]]:
        """The events of these runs, oldest first, once there are so many: they come with a delay."""
        deadline = time.monotonic() + 20
        while True:
            found = [event for event in self._all() if runs_of(event) & {run.flow_run_id for run in runs}]
            if len(found) >= count or time.monotonic() > deadline:
                return found
            time.sleep(0.3)

    def _all(self) -> list[dict[str, Any]]:
        ours = {"event": {"prefix": ["avatar."]}, "occurred": {"since": self.since}, "order": "ASC"}
        wanted = {"filter": ours, "limit": 50}  # the server's highest
        events: list[dict[str, Any]] = httpx.post(self.url, json=wanted, timeout=20).json()["events"]
        return events


def runs_of(event: dict[str, Any]) -> set[str]:
    ids = [resource["prefect.resource.id"] for resource in event["related"]]
    return {each.rpartition(".")[2] for each in ids if each.startswith("prefect.flow-run.")}


@pytest.fixture
def heard(local: Local) -> Heard:
    return Heard(local.running.api_url)


@pytest.fixture
def jobs(media: Path) -> Callable[..., AvatarJob]:  # noqa: F811
    """Jobs of three seconds that differ by their prompt."""
    files = {"portrait": str(media / "portrait.png"), "voice": str(media / "voice.wav")}
    return lambda prompt, **more: AvatarJob(**files, prompt=prompt, **more)


@pytest.mark.server
async def test_a_published_video_is_told_once(
    produce: Produce, jobs: Callable[..., AvatarJob], heard: Heard, sandbox: Sandbox
) -> None:
    """With cost, length and place; asked for again it is found, which is no news. Nothing secret is in it."""
    variables = sandbox.fal_env() | {"AVATAR_GALLERY__PUBLIC_URL": "https://videos.example"}
    run = await produce(jobs("one"), **variables)
    again = await produce(jobs("one"), **variables)
    last = await produce(jobs("two"), **variables)
    first, second = heard.until(2, run, again, last)
    assert runs_of(first) == {run.flow_run_id}
    assert first["event"] == second["event"] == "avatar.video.published"
    assert first["resource"]["prefect.resource.id"] == f"avatar.video.{run.video.job_id}"
    payload = first["payload"]
    assert (payload["uri"], payload["provider"], payload["billed"]) == (run.video.uri, "fal", "0.3496")
    assert payload["link"] == f"https://videos.example/videos/{run.video.job_id}"
    assert not re.search(r"https?://(?!videos\.example)|Signature|sandbox-key", str(first))


@pytest.mark.server
async def test_what_goes_wrong_is_told_by_its_kind(
    produce: Produce, jobs: Callable[..., AvatarJob], heard: Heard, sandbox: Sandbox
) -> None:
    """Rejected, failed, unknown, refused: an event each, with the reason and what to do next."""
    kinds = {}
    sandbox.behave("history", "forbidden", times=1000)  # else fal's own list settles what was lost
    for do, more in (("defective", {"defect": "black"}), ("fail", {"kind": "content_policy"}), ("drop", {})):
        sandbox.behave("submit", do, **more)
        kinds[do] = await produce(jobs(do), **sandbox.fal_env())
    kinds["dear"] = await produce(jobs("dear", max_cost="0.10"), **sandbox.fal_env())
    outcomes = [type(run.outcome) for run in kinds.values()]
    assert outcomes == [VideoRejected, RenderFailed, OutcomeUnknown, BudgetRefused]
    events = heard.until(4, *kinds.values())
    names = ["video.rejected", "video.failed", "submission.unknown", "budget.refused"]
    assert [event["event"] for event in events] == [f"avatar.{name}" for name in names]
    rejected, failed, unknown, refused = (event["payload"] for event in events)
    assert "picture" in rejected["reason"] or "black" in rejected["reason"]
    assert (failed["error"], failed["request_id"]) == ("RenderFailed", kinds["fail"].outcome.request_id)
    assert unknown["hint"].startswith(f"avatar resolve {kinds['drop'].outcome.render_id}")
    assert "$0.10" in refused["reason"]


@pytest.mark.server
async def test_an_accepted_video_is_told_and_an_unknown_one_not_again(
    produce: Produce, jobs: Callable[..., AvatarJob], heard: Heard, sandbox: Sandbox
) -> None:
    """A person's acceptance publishes it; a second run into the same lost answer is no second loss."""
    sandbox.behave("submit", "defective", defect="black")
    rejected = await produce(jobs("black"), **sandbox.fal_env())
    accepted = await produce(jobs("black", accept=True), **sandbox.fal_env())
    sandbox.behave("submit", "drop")
    sandbox.behave("history", "forbidden", times=1000)  # else fal's own list settles what was lost
    lost = await produce(jobs("lost"), **sandbox.fal_env())
    still = await produce(jobs("lost"), **sandbox.fal_env())
    assert isinstance(still.outcome, OutcomeUnknown)
    events = heard.until(3, rejected, accepted, lost, still)
    told = [(event["event"].removeprefix("avatar."), runs_of(event).pop()) for event in events]
    assert told == [
        ("video.rejected", rejected.flow_run_id),
        ("video.published", accepted.flow_run_id),
        ("submission.unknown", lost.flow_run_id),
    ]


@pytest.mark.server
async def test_the_rows_of_a_batch_are_told_as_single_jobs_are(
    produce: Produce,
    manifest: Callable[..., Batch],  # noqa: F811
    rows: Callable[..., Any],  # noqa: F811
    heard: Heard,
    sandbox: Sandbox,
) -> None:
    """An event for each row, and one for the whole batch if the day's money is not enough for it."""
    from flows.batch import generate_batch

    limit = {"AVATAR_BUDGET__PER_DAY": "1.10"}
    run = await produce(manifest(rows(6)), flow=generate_batch, **sandbox.fal_env(), **limit)
    assert isinstance(run.outcome, BudgetRefused)
    assert [event["event"] for event in heard.until(1, run)] == ["avatar.budget.refused"]
    sandbox.behave("submit", "fail", kind="content_policy")
    run = await produce(manifest(rows(3)), flow=generate_batch)
    assert isinstance(run.outcome, BatchIncomplete)
    events = heard.until(3, run)
    assert Counter(event["event"] for event in events) == {
        "avatar.video.published": 2,
        "avatar.video.failed": 1,
    }
    assert len({event["resource"]["prefect.resource.id"] for event in events}) == 3


async def test_rows_that_one_limit_stands_against_are_one_thing(
    make_works: Callable[..., Works],  # noqa: F811
    manifest: Callable[..., Batch],  # noqa: F811
    rows: Callable[..., Any],  # noqa: F811
) -> None:
    """Three rows too many for the day: three notices with the same id."""
    works, told = make_works(budget={"per_day": "0.40"}), list[Notice]()
    works.workspace = works.workspace.with_changes(deliver=told.append)
    await works.run(manifest(rows(4)), at_once=1)
    ids = [notice.id for notice in told if notice.EVENT == "avatar.budget.refused"]
    assert (len(ids), len(set(ids))) == (3, 1)


async def test_reconcile_tells_of_a_request_whose_sender_died(
    make_settings: Callable[..., AvatarSettings], sandbox: Sandbox
) -> None:
    """It becomes unknown, and is told once however often it is looked at."""
    fal = {"key": sandbox.key, "queue_url": sandbox.url}
    told = list[Notice]()
    workspace = Workspace(make_settings(fal=fal, journal={"lease_seconds": 2}), deliver=told.append)
    begun = {"render_id": "a" * 32, "job_id": "b" * 32, "provider": ProviderName.FAL, "quoted": Decimal(1)}
    await workspace.journal.begin(None, **begun)
    async with asyncio.timeout(20):
        while not (await reconcile_renders(workspace, idle_seconds=0)).unknown:
            await asyncio.sleep(0.5)
    await reconcile_renders(workspace, idle_seconds=0)
    await workspace.aclose()
    (notice,) = told
    assert (notice.EVENT, notice.resource) == ("avatar.submission.unknown", f"avatar.submission.{'a' * 32}")


@pytest.mark.server
async def test_an_event_that_cannot_be_sent_fails_no_job(
    produce: Produce, jobs: Callable[..., AvatarJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The video is published all the same."""
    from tasks import context as announcing

    def broken(**_: Any) -> None:
        raise ConnectionError("the server is away")

    monkeypatch.setattr(announcing, "emit_event", broken)
    assert isinstance((await produce(jobs("silent"))).outcome, Video)


@pytest.mark.parametrize("kind", NOTICES, ids=lambda kind: kind.EVENT)
def test_every_payload_is_documented(kind: type[Notice]) -> None:
    """docs/events.md has the event, its resource and each field of its payload with what the model says."""
    page = DOCS.read_text()
    assert f"`{kind.EVENT}`" in page
    section = page.split(f"### `{kind.EVENT}`")[1].split("\n### ")[0].split("\n## ")[0]
    told = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", section, re.MULTILINE))
    assert told == {name: field.description for name, field in kind.model_fields.items() if not field.exclude}


def test_the_same_thing_has_the_same_id() -> None:
    """So that a server that is told twice takes it once."""
    (first, again, other) = (
        NOTICES[-1](key=key, job_id=uuid.uuid4().hex, reason="by a test") for key in ("a", "a", "b")
    )
    assert first.id == again.id != other.id

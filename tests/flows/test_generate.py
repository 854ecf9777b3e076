"""The flow from Python against real servers: what is published, what is paid, and what Prefect shows of it."""

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest

from avatar.errors import BudgetRefused, RenderFailed
from avatar.media.decoder_calls import probe_video, probe_voice
from avatar.models import AvatarJob, Video
from avatar.option_names import at_form
from avatar.store.store import Store
from tests.flows.conftest import PORTRAIT, PREFECTS_SOCKETS, VOICE, Produce
from tests.sandbox.running import Sandbox

pytestmark = [pytest.mark.server, PREFECTS_SOCKETS]

JOB = AvatarJob(portrait=str(PORTRAIT), voice=str(VOICE))
STEPS = {
    "upload portrait and voice",
    "validate voice and portrait",
    "submit segment 0 to preview",
    "wait for preview request",
    "collect from preview",
    "publish the video",
}

AsProvider = Callable[[Sandbox], dict[str, str]]


async def keys(store: Store, prefix: str) -> list[str]:
    return sorted(stat.key for stat in await store.list(prefix))


async def test_a_preview_is_published(produce: Produce, store: Store, tmp_path: Path) -> None:
    """Video, poster and manifest are in the store, the manifest last; the video is as long as the voice."""
    run = await produce(JOB)
    stored = {stat.key: stat for stat in await store.list(f"videos/{run.video.job_id}/")}
    assert set(stored) == {run.video.key, run.video.poster_key, run.video.contact_key, run.video.manifest_key}
    assert stored[run.video.manifest_key].modified == max(stat.modified for stat in stored.values())
    manifest = (await store.get(run.video.manifest_key)).data
    assert Video.model_validate_json(manifest) == run.video
    await store.download(run.video.key, tmp_path / "video.mp4")
    facts = probe_video(tmp_path / "video.mp4")
    assert facts.seconds == pytest.approx(probe_voice(VOICE).seconds, abs=0.1)
    assert {row["name"] for row in run.task_runs(len(STEPS))} == STEPS


async def test_a_published_job_is_not_rendered_again(produce: Produce, store: Store) -> None:
    """The same job a second time returns the same video after one task, and writes nothing to the journal."""
    first = await produce(JOB)
    journal = await keys(store, "journal/")
    second = await produce(JOB)
    assert second.video == first.video
    assert await keys(store, "journal/") == journal
    assert any("Made already" in line for line in second.logs("Made already"))
    assert [row["name"] for row in second.task_runs(1)] == ["upload portrait and voice"]


@pytest.mark.parametrize(
    ("variables", "options"),
    [
        pytest.param(Sandbox.fal_env, {}, id="fal"),
        pytest.param(Sandbox.pixazo_env, {"pixazo_generation": "v1"}, id="pixazo v1"),
        pytest.param(Sandbox.pixazo_env, {"pixazo_generation": "v2"}, id="pixazo v2"),
    ],
)
async def test_a_paid_render_is_bought_once(
    produce: Produce, sandbox: Sandbox, variables: AsProvider, options: dict[str, str]
) -> None:
    """One POST, no key anywhere it has no business, and the cost is what the provider bills."""
    sandbox.reset(**options)
    run = await produce(JOB, **variables(sandbox))
    again = await produce(JOB)
    seen = sandbox.state()
    assert (seen["posts"], seen["accepts"], seen["leaks"]) == (1, 1, [])
    (render,) = run.video.renders
    assert render.request_id == seen["accepted"][0]["request_id"]
    price = Decimal("0.115")  # US dollars a second, both providers' pages
    assert run.video.cost.billed == (Decimal(str(seen["charged_seconds"])) * price).quantize(
        Decimal("0.0001")
    )
    assert run.video.cost.quoted == 9 * price  # 8.14 s, in whole seconds
    assert again.video == run.video


async def test_a_long_render_is_waited_for_in_windows(produce: Produce, sandbox: Sandbox) -> None:
    """A render longer than the polling window takes several of them, one POST, one progress artifact, no noise."""
    sandbox.reset(render_seconds=4)
    run = await produce(JOB, **sandbox.fal_env(), AVATAR_POLLING__WINDOW_SECONDS="1")
    assert run.video.state == "published"
    assert sandbox.state()["posts"] == 1
    waits = [row for row in run.task_runs(len(STEPS)) if row["name"] == "wait for fal request"]
    assert [row["state_type"] for row in waits] == ["COMPLETED"]
    assert waits[0]["run_count"] == 1
    assert len(run.artifacts("progress")) == 1
    assert not [line for line in run.logs("Published") if "Traceback" in line]


async def test_a_failed_render_is_told_and_not_published(
    produce: Produce, sandbox: Sandbox, store: Store
) -> None:
    """The provider's reason is in the error and ends its progress; nothing is published or sent again."""
    sandbox.behave("submit", "fail", kind="content_policy_violation", message="This face is not allowed")
    run = await produce(JOB, **sandbox.fal_env())
    assert isinstance(run.outcome, RenderFailed)
    assert "This face is not allowed" in str(run.outcome)
    next_step = at_form(f"Next: {run.outcome.hint}")
    logs = run.logs(next_step)
    assert not [line for line in logs if "Traceback" in line]
    assert next_step in logs[-1]
    (progress,) = run.artifacts("progress")
    assert progress["description"].startswith("Ended without a video: ")
    assert "This face is not allowed" in progress["description"]
    assert await keys(store, "videos/") == []
    assert sandbox.state()["posts"] == 1


async def test_a_job_above_its_price_is_refused(produce: Produce, sandbox: Sandbox, store: Store) -> None:
    """Above AVATAR_BUDGET__PER_JOB nothing is sent, and the journal holds no intent."""
    run = await produce(JOB, **sandbox.fal_env(), AVATAR_BUDGET__PER_JOB="1.00")
    assert isinstance(run.outcome, BudgetRefused)
    assert "AVATAR_BUDGET__PER_JOB" in str(run.outcome)
    assert sandbox.state()["posts"] == 0
    assert await keys(store, "journal/") == []

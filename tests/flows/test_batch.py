"""Batches through Prefect and through the command: what the server shows, what is paid, what a script gets."""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from avatar.batch.models import RowState, Summary
from avatar.errors import ApprovalDenied, BatchIncomplete
from tests.batch.conftest import manifest, media, rows  # noqa: F401 - fixtures
from tests.flows.conftest import PREFECTS_SOCKETS, Local, Produce
from tests.sandbox.running import Sandbox

pytestmark = [pytest.mark.server, PREFECTS_SOCKETS]


@pytest.fixture
def batched(produce: Produce) -> Produce:
    """Runs `generate_batch` as `produce` runs `generate_avatar`."""
    from flows.batch import generate_batch

    return lambda batch, **variables: produce(batch, flow=generate_batch, **variables)


def artifacts(run: Any, kind: str) -> list[dict[str, Any]]:
    query = {"artifacts": {"flow_run_id": {"any_": [run.flow_run_id]}, "type": {"any_": [kind]}}}
    found: list[dict[str, Any]] = httpx.post(f"{run.api_url}/artifacts/filter", json=query, timeout=20).json()
    return found


async def test_a_small_batch_is_a_task_run_for_each_row(batched, manifest, rows, sandbox):  # noqa: F811
    """Every row is a task run with its own state; progress and summary are artifacts; the run fails if a row did."""
    sandbox.behave("submit", "drop")
    sandbox.behave("history", "forbidden", times=1000)  # else fal's own list settles what was lost
    run = await batched(manifest(rows(6), name="may.jsonl"), **sandbox.fal_env())
    assert isinstance(run.outcome, BatchIncomplete)
    assert run.outcome.summary.states == {RowState.PUBLISHED: 5, RowState.UNKNOWN: 1}
    states = Counter(row["state_name"] for row in run.task_runs(9))
    assert states == {"Completed": 3, "Published": 5, "Unknown": 1}
    (progress,) = artifacts(run, "progress")
    assert (progress["data"], progress["description"].startswith("6 of 6 rows: 5 published")) == (100.0, True)
    page = artifacts(run, "markdown")[-1]["data"]
    assert "avatar resolve" in page
    assert "report.csv" in page


async def test_a_large_batch_is_a_task_run_for_each_chunk(batched, manifest, rows, sandbox, monkeypatch):  # noqa: F811
    """Beyond a few hundred rows a hundred share a task run; run again, nothing is rendered."""
    from tasks import batch as batching

    monkeypatch.setattr(batching, "ROW_TASKS_UP_TO", 4)
    batch = manifest(rows(6))
    run = await batched(batch, **sandbox.fal_env())
    assert isinstance(run.outcome, Summary)
    names = {row["name"] for row in run.task_runs(4)}
    assert names == {"check every row", "report", "rows 1 to 100"}
    again = await batched(batch)
    assert again.outcome.states == {RowState.ALREADY: 6}
    assert {row["name"] for row in again.task_runs(2)} == {"check every row", "report"}
    assert sandbox.state()["posts"] == 6


async def test_the_manifest_of_the_day_is_taken(batched, manifest, rows, sandbox):  # noqa: F811
    """`{date}` in its name is the day the run was scheduled for."""
    today = datetime.now(UTC).date().isoformat()
    batch = manifest(rows(1), name=f"{today}.jsonl")
    run = await batched(
        batch.model_copy(update={"manifest": str(batch.manifest).replace(today, "{date}")}),
        **sandbox.fal_env(),
    )
    assert run.outcome.states == {RowState.PUBLISHED: 1}


async def test_a_dear_batch_waits_for_a_person(batched, manifest, rows, sandbox):  # noqa: F811
    """Above AVATAR_BUDGET__APPROVE_ABOVE in all, although no job is: nobody can be asked here, so nothing is sent."""
    run = await batched(manifest(rows(4)), **sandbox.fal_env(), AVATAR_BUDGET__APPROVE_ABOVE="1.00")
    assert isinstance(run.outcome, ApprovalDenied)
    assert sandbox.state()["posts"] == 0


@pytest.fixture
def avatar(local: Local, tmp_path: Path, sandbox: Sandbox) -> Callable[..., "subprocess.Popen[str]"]:
    """Starts the command on the session's services, with the sandbox as fal, in a bucket of the test's own."""
    own = {"AVATAR_STATE_DIR": str(local.state_dir), "AVATAR_STORE__BUCKET": f"test-{tmp_path.name[-40:]}"}
    own["AVATAR_STORE__BUCKET"] = own["AVATAR_STORE__BUCKET"].replace("_", "-").lower()

    def start(*arguments: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-m", "avatar", *arguments],
            cwd=tmp_path, env=os.environ | sandbox.fal_env() | own, text=True, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    return start


def test_killed_in_the_middle_it_pays_for_each_row_once(avatar, manifest, rows, sandbox):  # noqa: F811
    """kill -9 while five of twelve are rendering; the same command does the rest: twelve accepts, twelve videos."""
    sandbox.reset(render_seconds=6)
    batch = manifest(rows(12))
    arguments = ("batch", batch.manifest, "--at-once", "5", "--json")
    victim = avatar(*arguments)
    sandbox.wait_for("accepts", 5, seconds=120)
    sandbox.wait_for("stream", 5)  # followed, so written down
    os.killpg(victim.pid, signal.SIGKILL)
    victim.communicate()
    said, complained = (again := avatar(*arguments)).communicate(timeout=240)
    assert again.returncode == 0, complained
    states = Counter(json.loads(said)["states"])  # on a slow machine some may have been done before
    assert states["published"] + states["already"] == states.total() == 12
    assert states["published"] >= 1
    assert sandbox.state()["accepts"] == 12


def test_the_command_tells_bad_rows_and_does_the_others(avatar, manifest, rows, sandbox):  # noqa: F811
    """Exit 2 and nothing sent by default; with `skip` the good row is rendered, and exit 0."""
    batch = manifest([*rows(1), {"portrait": "portrait.png"}])
    stopped = avatar("batch", batch.manifest, "--json")
    said, complained = stopped.communicate(timeout=120)
    told = json.loads(said)
    assert (stopped.returncode, sandbox.state()["posts"]) == (2, 0)
    assert told["error"]["type"] == "InvalidInput"
    assert "Line 2: voice is missing" in complained
    skipped = avatar("batch", batch.manifest, "--on-bad-rows", "skip")
    said, complained = skipped.communicate(timeout=120)
    assert skipped.returncode == 0, complained
    assert said.startswith("1 of 2 rows have a video, for $0.35 (1 published, 1 bad)")
    assert sandbox.state()["accepts"] == 1


@pytest.fixture
async def shard_deployment(local: Local, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    """`render-shard` deployed without a worker, for chunks of four rows; its id."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from avatar.batch import check as checking
    from avatar.batch import chunks
    from flows import batch as shards

    for module in (checking, chunks, shards):
        monkeypatch.setattr(module, "CHUNK_ROWS", 4)
    with temporary_settings({PREFECT_API_URL: local.running.api_url}):
        deployment_id = str(await (await shards.render_shard.ato_deployment("render-shard")).aapply())
    yield deployment_id
    async with httpx.AsyncClient(base_url=local.running.api_url, timeout=20) as client:
        await client.delete(f"/deployments/{deployment_id}")


async def test_shards_that_no_worker_takes_are_done_by_the_batch(
    batched, shard_deployment, manifest, rows, sandbox  # noqa: F811
):  # fmt: skip
    """Child runs are made under keys of their own; the batch's run takes them over, and none is paid twice."""
    variables = {"AVATAR_BATCH__SHARD_ROWS": "4", "AVATAR_BATCH__SHARDS": "3", "AVATAR_BATCH__AT_ONCE": "6"}
    run = await batched(manifest(rows(11)), **sandbox.fal_env(), **variables)
    assert run.outcome.states == {RowState.PUBLISHED: 11}
    assert sandbox.state()["accepts"] == 11
    query = {"flow_runs": {"deployment_id": {"any_": [shard_deployment]}}}
    parts = {"artifacts": {"flow_run_id": {"any_": [run.flow_run_id]}, "type": {"any_": ["progress"]}}}
    async with httpx.AsyncClient(base_url=run.api_url, timeout=20) as client:
        children = (await client.post("/flow_runs/filter", json=query)).json()
        progress = (await client.post("/artifacts/filter", json=parts)).json()
    assert [child["state_type"] for child in children] == ["CANCELLED", "CANCELLED"]
    assert len({child["idempotency_key"] for child in children}) == 2
    asked = [child["parameters"]["shard"] for child in children]
    assert sorted((shard["rows"], shard["at_once"]) for shard in asked) == [(3, 2), (4, 2)]
    told = {each["key"].split("-", 3)[3]: each["description"].split(" rows: ")[0] for each in progress}
    assert told == {
        "rows-1-to-4": "rows 1 to 4: 4 of 4",
        "rows-5-to-8": "rows 5 to 8: 4 of 4",
        "rows-9-to-11": "rows 9 to 11: 3 of 3",
    }

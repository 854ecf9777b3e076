"""Automations on a real Prefect server: dead runs are noticed and started again in bounds, and people are told."""

import asyncio
import http.server
import json
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from pydantic import SecretStr

from avatar.errors import AvatarError, RenderFailed
from avatar.models import AvatarJob, Video
from avatar.settings import AvatarSettings
from avatar.settings_sections import NotifySettings, RecoverySettings
from tests.batch.conftest import media  # noqa: F401 - fixture
from tests.flows.conftest import PREFECTS_SOCKETS, Local, Produce
from tests.sandbox.running import Sandbox

pytestmark = [pytest.mark.server, PREFECTS_SOCKETS]

#: Seconds without a heartbeat, in place of the ten minutes.
SOON = 10


class Server:
    """What the tests ask of the session's Prefect server."""

    def __init__(self, client: Any, api_url: str) -> None:
        self.client, self.api_url = client, api_url

    async def automations(self) -> dict[str, Any]:
        found = await self.client.read_automations()
        return {each.name: each for each in found if each.name.startswith("avatar-")}

    async def forget(self) -> None:
        for automation in (await self.automations()).values():
            await self.client.delete_automation(automation.id)

    async def start(self, *tags: str, parameters: dict[str, Any] | None = None) -> UUID:
        """A run of a deployment that nobody carries out, and that says Running."""
        from prefect import flow
        from prefect.states import Pending, Running
        from prefect.utilities.callables import parameter_schema

        flow_id = await self.client.create_flow(flow(name="stand-in")(stand_in))
        deployment = await self.client.create_deployment(
            flow_id=flow_id,
            name=f"stand-in-{uuid4().hex[:8]}",
            parameter_openapi_schema=parameter_schema(stand_in).model_dump(),
        )
        run = await self.client.create_flow_run_from_deployment(
            deployment, tags=list(tags), parameters=parameters
        )
        for state in (Pending(), Running()):
            await self.client.set_flow_run_state(run.id, state)
        return run.id

    async def put(self, run_id: UUID, state: Any) -> None:
        await self.client.set_flow_run_state(run_id, state, force=True)

    async def heartbeat(self, run_id: UUID, *tags: str) -> None:
        """One as a flow's process sends it."""
        related = [
            {"prefect.resource.id": f"prefect.tag.{tag}", "prefect.resource.role": "tag"} for tag in tags
        ]
        event = {
            "id": str(uuid4()),
            "occurred": datetime.now(UTC).isoformat(),
            "event": "prefect.flow-run.heartbeat",
            "resource": {"prefect.resource.id": f"prefect.flow-run.{run_id}"},
            "related": related,
        }
        async with httpx.AsyncClient(timeout=20) as plain:
            (await plain.post(f"{self.api_url}/events", json=[event])).raise_for_status()

    async def state(self, run_id: UUID) -> Any:
        return (await self.client.read_flow_run(run_id)).state


#: What workers say of a run that ended with code 1 (Prefect 3.9): of a process, and of a container.
NOT_BEGUN = (
    "Process exited with status code: 1. The process exited with a general error.",
    "Flow run infrastructure exited with non-zero status code 1. The process exited with a general error.",
)


def stand_in() -> None:
    """Never called."""


@pytest.fixture
async def server(local: Local) -> AsyncIterator[Server]:
    """The session's server, without our automations before and after."""
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

    url = local.running.api_url
    with temporary_settings({PREFECT_API_URL: url, PREFECT_HOME: local.state_dir / "prefect"}):
        async with get_client() as client:
            opened = Server(client, url)
            await opened.forget()
            yield opened
            await opened.forget()


async def until(done: Callable[[], Awaitable[object]], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not await done():
        assert time.monotonic() < deadline, "it did not come about in time"
        await asyncio.sleep(0.3)


async def test_deployed_twice_there_is_one_of_each(server: Server, tmp_path: Path) -> None:
    """Limits and automations by their names; one that a person switched off stays off; no address, no message."""
    from flows.automations import ensure_all

    settings = AvatarSettings(_env_file=None, state_dir=tmp_path)
    first = await ensure_all(settings)
    automations = await server.automations()
    assert set(automations) == {"avatar-crash-zombies", "avatar-resume-crashed"}
    assert {"avatar-fal", "avatar-fal-submits", "avatar-pixazo", "avatar-pixazo-submits"} < set(first)
    await server.client.pause_automation(automations["avatar-resume-crashed"].id)
    assert await ensure_all(settings) == first
    again = await server.automations()
    assert {name: each.id for name, each in again.items()} == {
        name: each.id for name, each in automations.items()
    }
    assert [each.enabled for each in again.values()].count(False) == 1
    assert again["avatar-crash-zombies"].trigger.within == timedelta(minutes=10)


async def test_a_run_without_a_sign_of_life_becomes_crashed(server: Server) -> None:
    """One of ours that stopped sending; neither one that ended first, nor a suspended one, nor a stranger's."""
    from prefect.states import Completed, Suspended

    from flows.automations import crash_zombies, ensure_automation

    soon = RecoverySettings.model_construct(stale_seconds=SOON, max_resumes=3)
    await ensure_automation(server.client, crash_zombies(soon))
    await until_heard(server)
    dead, ended, waiting = [await server.start("avatar", "video") for _ in range(3)]
    stranger = await server.start("other")
    for run_id in (dead, ended, waiting):
        await server.heartbeat(run_id, "avatar")
    await server.heartbeat(stranger, "other")
    await server.put(ended, Completed())
    await server.put(waiting, Suspended(timeout_seconds=300))
    await server.heartbeat(ended, "avatar")  # sent before it ended, and overtaken

    async def crashed() -> bool:
        return bool((await server.state(dead)).is_crashed())

    await until(crashed, 4 * SOON)
    names = [(await server.state(run_id)).name for run_id in (ended, waiting, stranger)]
    assert names == ["Completed", "Suspended", "Running"]


async def until_heard(server: Server) -> None:
    """Wait until the server's trigger service knows of the automation that was just made."""
    probe = await server.start("avatar")

    async def heard() -> bool:
        await server.heartbeat(probe, "avatar")
        filter_ = {"filter": {"resource": {"id": [f"prefect.flow-run.{probe}"]}}, "limit": 1}
        async with httpx.AsyncClient(timeout=20) as plain:
            answer = await plain.post(f"{server.api_url}/events/filter", json=filter_)
        return bool(answer.json()["events"])

    await until(heard, 20)


async def test_a_crashed_run_is_started_again(server: Server) -> None:
    """One of ours, also when the worker tells of its crash a second time; not a stranger's, nor one that ended."""
    from prefect.states import Completed, Crashed

    from flows.automations import ensure_automation, resume_crashed

    await ensure_automation(server.client, resume_crashed(timedelta(seconds=SOON)))
    await until_heard(server)
    ours, ended, stranger = [await server.start(tag) for tag in ("avatar", "avatar", "other")]
    begun = [await server.start("avatar") for _ in range(2)]
    for run_id, text in zip(begun, NOT_BEGUN, strict=True):
        await server.put(run_id, Crashed(message=text))
    for run_id in (stranger, ended, ours):
        await server.put(run_id, Crashed(message="Process exited with status code: -9. It was killed."))
    await server.put(ended, Completed())

    async def scheduled() -> bool:
        return (await server.state(ours)).name == "AwaitingRetry"

    await until(scheduled, 4 * SOON)
    await server.put(ours, Crashed(message="told a second time"))
    await until(scheduled, 4 * SOON)
    assert [(await server.state(run_id)).name for run_id in (ended, stranger)] == ["Completed", "Crashed"]
    assert {(await server.state(run_id)).name for run_id in begun} == {"Crashed"}, "left to `reconcile`"


async def test_parameters_that_are_not_the_flows_are_never_started_again(server: Server) -> None:
    """It would die again before it could say why; it ends as Failed, and the parameter is named."""
    from prefect.states import Crashed

    from tasks.flow_runs import resume_dead_runs

    run_id = await server.start("avatar", parameters={"job": {}, "dry": True})
    await server.put(run_id, Crashed(message=NOT_BEGUN[0]))
    name = (await server.client.read_flow_run(run_id)).name
    assert name not in await resume_dead_runs(RecoverySettings())
    state = await server.state(run_id)
    assert (state.name, "no parameter 'dry', 'job'" in state.message) == ("Failed", True)


async def test_reconcile_gives_up_what_crashes_before_it_can_say_so(server: Server) -> None:
    """Started again as often as allowed, it ends as Failed with the reason, and is left alone."""
    from prefect.states import Crashed

    from tasks.flow_runs import RESUMED, resume_dead_runs

    run_id = await server.start("avatar")
    await server.put(run_id, Crashed())
    assert await resume_dead_runs(RecoverySettings(max_resumes=1))
    assert (await server.state(run_id)).message == RESUMED
    await server.put(run_id, Crashed())
    assert await resume_dead_runs(RecoverySettings(max_resumes=1)) == []
    state = await server.state(run_id)
    assert (state.name, "started again 1 times" in state.message) == ("Failed", True)


async def test_what_never_got_beyond_pending_is_started_again(server: Server) -> None:
    """Its worker was gone before it began: one of ours, after `stale_seconds` and not sooner; not a stranger's."""
    from prefect.states import Pending

    from tasks.flow_runs import RESUMED, resume_dead_runs

    ours, stranger = await server.start("avatar"), await server.start("other")
    for run_id in (ours, stranger):
        await server.put(run_id, Pending(name="Submitting"))
    name = (await server.client.read_flow_run(ours)).name
    assert name not in await resume_dead_runs(RecoverySettings())
    assert name in await resume_dead_runs(RecoverySettings.model_construct(stale_seconds=0, max_resumes=3))
    assert (await server.state(ours)).message == RESUMED
    assert (await server.state(stranger)).name == "Submitting"


async def test_what_failed_of_something_that_passes_is_started_again(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch that the store was away for, so often and no more; not what failed for good, nor a sweep's run."""
    from prefect.states import Failed

    from tasks import flow_runs

    said = "Flow run encountered an exception: StoreUnavailable: The store did not answer."
    batch, sweep = await server.start("avatar", "batch"), await server.start("avatar", "inbox")
    refused = await server.start("avatar", "video")
    for run_id in (batch, sweep):
        await server.put(run_id, Failed(message=said))
    await server.put(refused, Failed(message=said.replace("StoreUnavailable", "BudgetRefused")))
    name = (await server.client.read_flow_run(batch)).name
    assert name not in await flow_runs.resume_dead_runs(RecoverySettings(max_resumes=1))
    monkeypatch.setattr(flow_runs, "PASSING_AFTER", timedelta(0))
    assert name in await flow_runs.resume_dead_runs(RecoverySettings(max_resumes=1))
    assert (await server.state(batch)).message == flow_runs.PASSED
    assert [(await server.state(each)).name for each in (sweep, refused)] == ["Failed", "Failed"]
    await server.put(batch, Failed(message=said))
    assert name not in await flow_runs.resume_dead_runs(RecoverySettings(max_resumes=1))


async def test_what_was_cancelled_and_is_gone_ends(server: Server) -> None:
    """Its host was lost before it could stop: one of ours, after `stale_seconds` and not sooner; not a stranger's."""
    from prefect.states import Cancelling, Running

    from tasks.flow_runs import CANCELLED, end_cancelled_runs

    ours, stranger = await server.start("avatar"), await server.start("other")
    for run_id in (ours, stranger):
        await server.put(run_id, Running())
        await server.put(run_id, Cancelling())
    name = (await server.client.read_flow_run(ours)).name
    assert name not in await end_cancelled_runs(RecoverySettings())
    assert name in await end_cancelled_runs(RecoverySettings.model_construct(stale_seconds=0))
    state = await server.state(ours)
    assert (state.name, state.message) == ("Cancelled", CANCELLED)
    assert (await server.state(stranger)).name == "Cancelling"


async def test_a_run_that_keeps_crashing_ends_as_failed(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Resumed after approvals it goes on; started again by itself once too often it says so; a person may retry."""
    from prefect.states import AwaitingRetry, Crashed, Running, Suspended

    from tasks.flow_runs import RESUMED, check_resumes, count_resumes

    run_id = await server.start("avatar")
    monkeypatch.setenv("PREFECT__RUNTIME__FLOW_RUN__ID", str(run_id))
    monkeypatch.setenv("PREFECT__RUNTIME__FLOW_RUN__RUN_COUNT", "6")
    for _ in range(2):
        await server.put(run_id, Suspended(timeout_seconds=300))
        await server.put(run_id, Running())
    await check_resumes(RecoverySettings(max_resumes=1))
    for _ in range(2):
        await server.put(run_id, Crashed())
        await server.put(run_id, AwaitingRetry(message=RESUMED))
        await server.put(run_id, Running())
    with pytest.raises(AvatarError, match=r"started again 2 times.*pays for nothing twice"):
        await check_resumes(RecoverySettings(max_resumes=1))
    await server.put(run_id, AwaitingRetry())
    assert await count_resumes(server.client, run_id) == 0


@pytest.fixture
def sink() -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """A service that takes messages: its port, and what it got."""
    got: list[dict[str, Any]] = []

    class Taker(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Taker) as taker:
        thread = threading.Thread(target=taker.serve_forever)
        thread.start()
        yield taker.server_port, got
        taker.shutdown()
        thread.join()


async def test_a_failed_job_is_one_message(
    server: Server,
    produce: Produce,
    media: Path,  # noqa: F811
    sink: tuple[int, list[dict[str, Any]]],
    sandbox: Sandbox,
) -> None:
    """AVATAR_NOTIFY__APPRISE_URL: the reason and the next step, once; a published video is no message."""
    from flows.automations import ensure_automation, notify

    port, got = sink
    address = NotifySettings(apprise_url=SecretStr(f"json://127.0.0.1:{port}/hook"))
    wanted = await notify(address)
    assert wanted is not None
    await ensure_automation(server.client, wanted)
    await until_heard(server)
    files = {"portrait": str(media / "portrait.png"), "voice": str(media / "voice.wav")}
    assert isinstance((await produce(AvatarJob(**files, prompt="good"), **sandbox.fal_env())).outcome, Video)
    sandbox.behave("submit", "fail", kind="content_policy", message="This face is not allowed")
    failed = await produce(AvatarJob(**files, prompt="bad"), **sandbox.fal_env())
    assert isinstance(failed.outcome, RenderFailed)

    async def told() -> bool:
        return bool(got)

    await until(told, 30)
    (message,) = got
    assert message["title"] == "avatar.video.failed"
    assert "This face is not allowed" in message["message"]
    assert "another take" in message["message"]


async def test_a_part_of_a_batch_goes_to_a_worker_that_has_none(server: Server) -> None:
    """Of two on one worker the second goes back to the pool, if another is online that takes such runs."""
    from prefect import flow
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.states import Running

    from tasks.flow_runs import _is_better_elsewhere

    # All by Prefect's client, which waits for a database that is locked.
    client, pool = server.client, f"parts-{uuid4().hex[:8]}"
    await client.create_work_pool(WorkPoolCreate(name=pool, type="process"))
    flow_id = await client.create_flow(flow(name="stand-in")(stand_in))
    deployment = await client.create_deployment(flow_id=flow_id, name=pool, work_pool_name=pool)

    async def online(name: str) -> None:
        await client.send_worker_heartbeat(pool, name, heartbeat_interval_seconds=300)

    async def start(worker: str, parent: UUID | None = None) -> UUID:
        more = {}
        if parent:
            row = {"flow_run_id": str(parent), "task_key": "part", "dynamic_key": uuid4().hex}
            more = {
                "parent_task_run_id": UUID((await client._client.post("/task_runs/", json=row)).json()["id"])
            }
        run = await client.create_flow_run_from_deployment(deployment, **more)
        await client.update_flow_run_labels(run.id, {"prefect.worker.name": worker})
        await server.put(run.id, Running())
        return run.id

    async def better_elsewhere(run_id: UUID) -> bool:
        return await _is_better_elsewhere(client, await client.read_flow_run(run_id), batch)

    await online("first")
    await online("first-upkeep")
    batch = await start("first")
    part = await start("first", batch)
    assert not await better_elsewhere(part), "nobody else takes it"
    await online("second")
    assert await better_elsewhere(part)
    other = await start("second", batch)
    assert not await better_elsewhere(part), "both have one"
    assert not await better_elsewhere(other)

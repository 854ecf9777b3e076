"""A run is started when there is work for it, and only then."""

import asyncio
import itertools
from datetime import UTC, datetime, timedelta

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from avatar.errors import StoreUnavailable
from avatar.web import start_due_runs as looking
from avatar.web.start_due_runs import (
    FIRST_PAUSE,
    LONGEST_PAUSE,
    RECONCILE,
    SWEEP,
    DueRuns,
    FlowRuns,
    OpenWork,
)

NOW = 1_000.0
STALE = 600.0
LONG_AGO = datetime.now(UTC) - timedelta(hours=1)


class Prefect:
    """As much of the API as is asked: runs, heartbeats, and what was started."""

    def __init__(self):
        self.runs, self.alive, self.waiting, self.started = {}, set(), 0, []

    def add(self, run_id, state, *, at=LONG_AGO, deployment="d", tags=("avatar",), message=""):
        self.runs[run_id] = {
            "id": run_id,
            "state_id": f"{run_id}-{state}",
            "state_type": state,
            "state": {"timestamp": at.isoformat(), "message": message},
            "tags": list(tags),
            "parameters": {},
            "start_time": at.isoformat(),
            "end_time": at.isoformat(),
            "deployment_id": deployment,
        }

    async def get(self, request):
        what, *rest = request.match_info["path"].split("/")
        if what == "csrf-token":
            return web.Response(status=404)
        if what == "deployments":
            return web.json_response({"id": "/".join(rest[1:]).replace("/", "|")})
        found = self.runs.get(rest[0])
        return web.json_response(found, status=200 if found else 404)

    async def post(self, request):
        path, body = request.match_info["path"], await request.json()
        if path == "flow_runs/count":
            return web.json_response(self.waiting)
        if path == "flow_runs/filter":
            wanted, ended = body["flow_runs"]["state"]["type"]["any_"], body["flow_runs"].get("end_time")
            found = [run for run in self.runs.values() if run["state_type"] in wanted]
            if ended:
                found = [run for run in found if ended["after_"] < run["end_time"] < ended["before_"]]
            return web.json_response(found)
        if path == "events/filter":
            (run,) = body["filter"]["resource"]["id"]
            beats = [1] if run.rpartition(".")[2] in self.alive else []
            return web.json_response({"events": beats})
        self.started.append(path.split("/")[1].replace("|", "/"))
        return web.json_response({"id": "new"})


@pytest.fixture
def server():
    return Prefect()


@pytest.fixture
async def runs(server):
    app = web.Application()
    app.router.add_get("/api/{path:.*}", server.get)
    app.router.add_post("/api/{path:.*}", server.post)
    async with TestServer(app) as started:
        yield FlowRuns(str(started.make_url("/api")), STALE)


def test_what_stays_due_starts_a_run_ever_less_often():
    """At once, then after pauses that double; what is new starts one whatever the others wait for."""
    due, starts, at = DueRuns(), [], NOW
    while at < NOW + 20 * LONGEST_PAUSE:
        if due.is_new({"a"}, at):
            starts.append(at - NOW)
        at += FIRST_PAUSE
    pauses = [after - before for before, after in itertools.pairwise(starts)]
    assert pauses[:3] == [FIRST_PAUSE, 2 * FIRST_PAUSE, 4 * FIRST_PAUSE]
    assert max(pauses) == LONGEST_PAUSE
    assert due.is_new({"a", "b"}, at)
    assert not due.is_new({"a", "b"}, at)


def test_what_was_done_and_is_due_again_starts_a_run_at_once():
    due = DueRuns()
    assert due.is_new({"a"}, NOW)
    assert not due.is_new(set(), NOW + 1)
    assert due.is_new({"a"}, NOW + 2)


async def test_a_run_is_started_unless_one_waits(server, runs):
    await runs.start(RECONCILE)
    server.waiting = 1
    await runs.start(SWEEP)
    assert server.started == [RECONCILE]


async def test_dead_runs_are_due_and_living_ones_are_not(server, runs):
    """Crashed and not started again; without a heartbeat; taken by a worker and never begun."""
    server.add("crashed", "CRASHED")
    server.add("crashed-just-now", "CRASHED", at=datetime.now(UTC))
    server.add("silent", "RUNNING")
    server.add("living", "RUNNING")
    server.add("never-begun", "PENDING")
    server.add("told-to-stop", "CANCELLING")
    server.alive.add("living")
    dead = await runs.dead()
    assert {name.split()[1] for name in dead} == {"crashed", "silent", "never-begun", "told-to-stop"}


async def test_what_failed_of_something_that_passes_is_due(server, runs):
    """A job's run that the store was away for, once it has rested; not what failed for good, nor a sweep's."""
    said = "Flow run encountered an exception: StoreUnavailable: The store did not answer."
    job, rested = ("avatar", "video"), datetime.now(UTC) - timedelta(minutes=5)
    server.add("passing", "FAILED", at=rested, tags=job, message=said)
    server.add("just-now", "FAILED", at=datetime.now(UTC), tags=job, message=said)
    server.add("given-up", "FAILED", at=LONG_AGO - timedelta(hours=1), tags=job, message=said)
    server.add(
        "for-good", "FAILED", at=rested, tags=job, message=said.replace("StoreUnavailable", "InvalidInput")
    )
    server.add("sweep", "FAILED", at=rested, tags=("avatar", "inbox"), message=said)
    assert {name.split()[1] for name in await runs.dead()} == {"passing"}


@pytest.mark.parametrize(
    ("state", "deployment", "goes_on"),
    [
        ("COMPLETED", "d", False),
        ("CANCELLED", "d", False),
        ("RUNNING", "d", True),
        ("CRASHED", "d", True),
        ("CRASHED", None, False),
        ("RUNNING", None, False),
        ("PAUSED", "d", True),
    ],
)
async def test_who_still_works_on_an_upload(server, runs, state, deployment, goes_on):
    """A crashed run of a deployment is started again; one that was called from Python is not."""
    server.add("owner", state, deployment=deployment)
    assert await runs.is_under_way("owner") is goes_on
    assert await runs.is_under_way("nobody") is False


async def test_a_store_that_is_away_keeps_no_dead_run_from_being_started(
    server, runs, workspace, monkeypatch
):
    async def away(*_, **__):
        raise StoreUnavailable("away")

    monkeypatch.setattr(workspace.store, "list", away)
    work = OpenWork(workspace, runs, print)
    with pytest.raises(StoreUnavailable):
        await work.open_work()
    server.add("crashed", "CRASHED")
    assert len(await work.open_work()) == 1


async def test_an_idle_installation_has_nothing_due(runs, workspace):
    work = OpenWork(workspace, runs, print)
    assert (await work.inbox(), await work.open_work(), await work.books()) == (
        set(),
        set(),
        set(),
    )


async def test_no_run_is_started_until_there_is_work(server, runs, workspace, monkeypatch):
    """Look after look over an idle installation makes none; a run that crashed makes one, and no second."""
    for pause in ("INBOX_EVERY", "OPEN_EVERY", "BOOKS_EVERY"):
        monkeypatch.setattr(looking, pause, 0.001)
    work, looked = OpenWork(workspace, runs, print), asyncio.Queue()
    look = work.open_work

    async def counted():
        found = await look()
        looked.put_nowait(found)
        return found

    async def some_looks():
        return [await looked.get() for _ in range(5)]

    monkeypatch.setattr(work, "open_work", counted)
    task = asyncio.create_task(work.run())
    assert await some_looks() == [set()] * 5
    assert server.started == []
    server.add("crashed", "CRASHED")
    while not (await some_looks())[0]:
        pass
    assert server.started == [RECONCILE]
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

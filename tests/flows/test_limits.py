"""Limits of a provider's account, counted by the Prefect server over all runs; no slot leaks, no paid flow dies of one."""

import asyncio
import collections
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from avatar.batch.models import Batch, Checked
from avatar.batch.run import RowRunner, run_chunks
from avatar.local import environment, services
from avatar.local import state_directory as locks
from avatar.local.embedded_store import choose_ports
from avatar.local.processes import Process, is_free, kill
from avatar.local.start_programs import ensure_program, server_program
from avatar.local.state_directory import StartedProgram, StateDirectory
from avatar.models import AvatarJob
from avatar.settings import AvatarSettings
from avatar.settings_sections import FalSettings
from avatar.stored_models import ProviderName
from tasks.turns import AccountLimit, HeldSlot, TurnServer
from tests.batch.conftest import Works, make_works, manifest, media, rows, works  # noqa: F401 - fixtures
from tests.flows.conftest import PORTRAIT, PREFECTS_SOCKETS, Local, Produce
from tests.sandbox.running import Sandbox
from tests.up import with_database

pytestmark = [pytest.mark.server, PREFECTS_SOCKETS]

#: One job in a process of its own, as a worker starts it.
ONE_JOB = """
import asyncio, sys
from flows.generate import generate_avatar
from avatar.models import AvatarJob
job = AvatarJob(portrait=sys.argv[1], voice=sys.argv[2], prompt=sys.argv[3])
print(asyncio.run(generate_avatar(job)).state)
"""


class Limits:
    """The global concurrency limits of a server, as its UI sees and changes them."""

    def __init__(self, api_url: str) -> None:
        self.url = f"{api_url}/v2/concurrency_limits"

    def read(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = httpx.get(f"{self.url}/{name}", timeout=20).raise_for_status().json()
        return found

    def change(self, name: str, **values: Any) -> None:
        httpx.patch(f"{self.url}/{name}", json=values, timeout=20).raise_for_status()

    def forget(self) -> None:
        for name in ("avatar-fal", "avatar-fal-submits", "avatar-pixazo", "avatar-pixazo-submits"):
            httpx.delete(f"{self.url}/{name}", timeout=20)


@pytest.fixture
def limits(local: Local) -> Iterator[Limits]:
    """Those of the session's server; they are as new before and after."""
    opened = Limits(local.running.api_url)
    opened.forget()
    yield opened
    opened.forget()


class Given:
    """Inputs of three seconds: a batch of four rows, and single jobs."""

    def __init__(self, batch: Batch, folder: Path) -> None:
        self.batch, self.files = batch, (str(folder / "portrait.png"), str(folder / "voice.wav"))

    def job(self, prompt: str) -> AvatarJob:
        return AvatarJob(portrait=self.files[0], voice=self.files[1], prompt=prompt)


@pytest.fixture
def given(manifest: Callable[..., Batch], rows: Callable[..., Any], media: Path) -> Given:  # noqa: F811
    return Given(manifest(rows(4)), media)


def most_at_once(sandbox: Sandbox) -> int:
    """The most renders that the provider ever had."""
    jobs = sandbox.state()["accepted"]
    moments = sorted([(job["accepted"], 1) for job in jobs] + [(job["ended"], -1) for job in jobs])
    counts = [sum(change for _, change in moments[: number + 1]) for number in range(len(moments))]
    return max(counts)


async def until(done: Callable[[], object], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, "it did not come about in time"
        await asyncio.sleep(0.3)


@pytest.mark.parametrize("provider", ["fal", "pixazo"])
async def test_all_runs_together_keep_to_the_accounts_limit(
    produce: Produce,
    given: Given,
    sandbox: Sandbox,
    limits: Limits,
    provider: str,
) -> None:
    """A batch of four and two single jobs under …__AT_ONCE=2: never three in flight, and no slot is kept."""
    from flows.batch import generate_batch

    sandbox.reset(render_seconds=0.7)
    variables = getattr(sandbox, f"{provider}_env")() | {f"AVATAR_{provider.upper()}__AT_ONCE": "2"}
    runs = await asyncio.gather(
        produce(given.batch, flow=generate_batch, **variables),
        *(produce(given.job(f"single {number}"), **variables) for number in range(2)),
    )
    assert runs[0].outcome.states == {"published": 4}
    assert [run.video.state for run in runs[1:]] == ["published"] * 2
    assert sandbox.state()["accepts"] == 6
    assert most_at_once(sandbox) == 2
    account = limits.read(f"avatar-{provider}")
    assert (account["limit"], account["active_slots"]) == (2, 0)


async def test_a_limit_of_none_stops_paying_until_it_is_raised(
    produce: Produce, given: Given, sandbox: Sandbox, limits: Limits, monkeypatch: pytest.MonkeyPatch
) -> None:
    """0 in the UI, and nothing more is sent; raised again, what waited goes on."""
    ask, answers = TurnServer.lease, []

    async def watched(self: TurnServer, limit: AccountLimit) -> HeldSlot | None:
        answers.append(await ask(self, limit))
        return answers[-1]

    sandbox.reset(render_seconds=0.5)
    await produce(given.job("one"), **sandbox.fal_env())
    limits.change("avatar-fal", limit=0)
    monkeypatch.setattr(TurnServer, "lease", watched)
    waiting = asyncio.create_task(produce(given.job("two"), **sandbox.fal_env()))
    await until(lambda: len(answers) > 1, 30)
    assert (answers[:2], sandbox.state()["accepts"], waiting.done()) == ([None, None], 1, False)
    limits.change("avatar-fal", limit=1)
    assert (await waiting).video.state == "published"
    assert sandbox.state()["accepts"] == 2


async def test_a_change_in_the_ui_holds_unless_the_setting_is_stated(
    produce: Produce,
    given: Given,
    sandbox: Sandbox,
    limits: Limits,
) -> None:
    """Made by the first run with the default; what a person sets is kept, until AVATAR_FAL__AT_ONCE is stated."""
    await produce(given.job("one"), **sandbox.fal_env())
    assert limits.read("avatar-fal")["limit"] == FalSettings().at_once
    assert limits.read("avatar-fal-submits")["slot_decay_per_second"] == FalSettings().submits_per_second
    limits.change("avatar-fal", limit=7)
    await produce(given.job("two"), **sandbox.fal_env())
    assert limits.read("avatar-fal")["limit"] == 7
    await produce(given.job("three"), **sandbox.fal_env(), AVATAR_FAL__AT_ONCE="3")
    assert limits.read("avatar-fal")["limit"] == 3


async def test_the_segments_of_a_long_voice_keep_to_it_too(
    produce: Produce, sandbox: Sandbox, limits: Limits
) -> None:
    """Two segments, one turn: the second is sent when the first is done."""
    job = AvatarJob(portrait=str(PORTRAIT), voice=str(PORTRAIT.parent / "speech-95s.mp3"))
    run = await produce(job, **sandbox.fal_env(), AVATAR_FAL__AT_ONCE="1")
    assert run.video.seconds > 94
    assert (sandbox.state()["accepts"], most_at_once(sandbox)) == (2, 1)
    assert limits.read("avatar-fal")["limit"] == 1


class Counter:
    """Turns that are only counted."""

    def __init__(self) -> None:
        self.held: list[bool] = []

    @asynccontextmanager
    async def hold(self, provider: ProviderName, *, under_way: bool) -> AsyncIterator[None]:
        assert provider is ProviderName.FAL
        self.held.append(under_way)
        yield


async def carry(works: Works, checked: Checked, run: str) -> list[bool]:  # noqa: F811
    """The turns that a run over a batch holds."""
    counter = Counter()
    workspace = works.workspace.with_changes(turns=counter)
    runner = RowRunner(workspace, batch_id=checked.batch_id, run=run, at_once=4, rows=checked.rows)
    await run_chunks(runner, range(checked.chunks))
    return counter.held


async def test_what_is_made_already_takes_no_turn(
    works: Works,  # noqa: F811
    given: Given,
    sandbox: Sandbox,
) -> None:
    """Four rows, four turns; without their videos but with their renders, none; the preview has no account."""
    checked = await works.check(given.batch)
    assert await carry(works, checked, "run-1") == [False] * 4
    for stat in await works.workspace.store.list("videos/"):
        await works.workspace.store.remove(stat.key)
    assert await carry(works, checked, "run-2") == []
    assert sandbox.state()["posts"] == 4


async def test_money_that_waited_long_for_its_turn_is_set_aside_anew(
    works: Works,  # noqa: F811
    given: Given,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What was set aside hours ago may have been given back, or be of yesterday: each render counts once."""
    budget, asked = works.workspace.budget, collections.Counter[str]()
    claim = budget.claim

    async def claim_long_ago(amounts, **more):
        claims = await claim(amounts, **more)
        for name, key in claims.items():
            asked[name] += 1
            if asked[name] == 1:
                budget.use(key)  # it is not believed in any more, as one that is hours old
        return claims

    monkeypatch.setattr(budget, "claim", claim_long_ago)
    checked = await works.check(given.batch)
    assert await carry(works, checked, "run-1") == [False] * 4
    assert sorted(asked.values()) == [2] * 4
    (day,) = await works.workspace.budget.days()
    claims = await works.workspace.store.list(f"budget/{day}/")
    assert [stat.key.split(".")[1] for stat in claims] == ["settled"] * 4


@pytest.fixture
def own(tmp_path: Path, sandbox: Sandbox) -> Iterator[tuple[StateDirectory, str, dict[str, str]]]:
    """A Prefect server and a store of this test's own: where they are, and the environment of a run on them."""
    state = StateDirectory(tmp_path / "state")
    state.prepare()
    with_database(state.prefect_home)
    # Where no outgoing connection is given its port while the server is away.
    state.change(api=StartedProgram(process=Process(pid=1, born=""), port=choose_ports(None)))
    settings = AvatarSettings(_env_file=None, state_dir=state.path)
    with services(settings) as running:
        variables = environment(settings, running) | sandbox.fal_env() | {"AVATAR_FAL__AT_ONCE": "2"}
        yield state, running.api_url, os.environ | variables


async def test_no_slot_is_lost_to_kill_9_nor_to_a_restart_of_the_server(
    own: tuple[StateDirectory, str, dict[str, str]],
    given: Given,
    sandbox: Sandbox,
    tmp_path: Path,
) -> None:
    """A holder dies, then the server: the other run renders on to its one payment, and both slots are free again."""
    state, api_url, variables = own
    sandbox.reset(render_seconds=25)
    limits = Limits(api_url)

    def start(prompt: str) -> "subprocess.Popen[str]":
        command = [sys.executable, "-c", ONE_JOB, *given.files, prompt]
        return subprocess.Popen(command, cwd=tmp_path, env=variables, text=True, stdout=subprocess.PIPE)

    survivor, victim = start("survivor"), start("victim")
    try:
        await until(lambda: sandbox.state(brief=True)["accepts"] == 2, 60)
        assert limits.read("avatar-fal")["active_slots"] == 2
        os.kill(victim.pid, signal.SIGKILL)
        restart_server(state)
        said, _ = await asyncio.to_thread(survivor.communicate, timeout=90)
        assert said.split()[-1] == "published"
        await until(lambda: limits.read("avatar-fal")["active_slots"] == 0, 100)
        assert sandbox.state()["accepts"] == 2
    finally:
        for process in (survivor, victim):
            process.kill()
            process.communicate()


def restart_server(state: StateDirectory) -> None:
    """As `avatar up` does when the server died, and its threads, which hold the port a moment longer, have ended."""
    entry = state.read().api
    assert entry is not None
    kill(entry.process)
    deadline = time.monotonic() + 10
    while not is_free(entry.port):
        assert time.monotonic() < deadline, "the port stays taken"
    with locks.exclusive_lock(state.starting):
        assert ensure_program(state, server_program(state), lambda: True).port == entry.port

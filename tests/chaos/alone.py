"""(h) Nobody runs the job again: `reconcile` alone brings home what was paid for, whatever else goes wrong meanwhile."""

import asyncio
import json
import signal
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

from avatar.job.reconcile import reconcile_renders
from avatar.money.entries import RenderState
from avatar.settings import AvatarSettings
from avatar.workspace import Workspace
from tests.chaos.case import Case
from tests.chaos.gate import Rule
from tests.chaos.kills import MOMENTS, RUN_SECONDS, WRITES, die_before_the_answer
from tests.chaos.person import recover, settle
from tests.chaos.proxy import ForwardProxy
from tests.chaos.trial import Trial
from tests.chaos.victims import Shown
from tests.chaos.witness import Witness

KILLED, SLEEPING, HISTORY = "killed, then only reconcile", "asleep, and only reconcile", "history of requests"
RESULT, PROXY, AWAY, STORES = (
    "result address fails",
    "behind a proxy",
    "store away for a minute",
    "two stores",
)
#: Seconds that `reconcile` may take, and between two of its runs.
PATIENCE, PAUSE = 90.0, 0.5
#: Random moments of the table, beside those at writes.
AT_RANDOM = 40
#: Misdeeds of the result's address, each so often.
RESULTS = ("gateway_timeout", "server_error", "unavailable", "html", "unknown", "half", "empty", "drop")


def cases() -> Iterator[Case]:
    for on, skip in WRITES:
        for do in MOMENTS:
            yield Case(KILLED, f"{do} {on} {skip}", partial(at_a_write, on=on, skip=skip, do=do))
    for number in range(AT_RANDOM):
        yield Case(KILLED, f"at random, {number}", at_random)
    for number in range(6):
        yield Case(HISTORY, f"on, killed in the request, {number}", in_the_request)
    yield Case(HISTORY, "on, of what has ended only", partial(in_the_request, lists_running=False))
    yield Case(HISTORY, "away at first", partial(in_the_request, deed=("unavailable", 3)))
    yield Case(HISTORY, "off", no_history)
    for do in RESULTS:
        yield Case(RESULT, f"{do}, the run killed", partial(result_fails, do=do))
    for moment in ("journal-intent", "request", "journal-submitted", "render"):
        yield Case(SLEEPING, f"at the {moment}", partial(asleep, moment=moment))
    yield Case(PROXY, "all goes through it", behind_a_proxy)
    yield Case(PROXY, "the answer to the paid request is lost", partial(behind_a_proxy, fate="lost"))
    yield Case(PROXY, "it dies with the request on its way", partial(behind_a_proxy, fate="cut"))
    for on in ("PUT plan", "PUT journal-intent", "PUT journal-submitted", "PUT render", "PUT manifest"):
        yield Case(AWAY, f"from {on}", partial(away, on=on))
    yield Case(STORES, "a worker on another", another_store, published=False, alone=True)


def own_bucket(trial: Trial) -> None:
    """`reconcile` looks after all renders of a bucket, and those of other trials are at other sandboxes."""
    trial.store = trial.ground.bucket(f"alone-{trial.folder.name}")


def at_a_write(trial: Trial, *, on: str, skip: int, do: str) -> Shown:
    own_bucket(trial)
    trial.gated(Rule(on, do, skip=skip))
    trial.run()
    return reconciled(trial)


def at_random(trial: Trial) -> Shown:
    own_bucket(trial)
    victim = trial.generate(machine=trial.rng.choice("ab"))
    time.sleep(trial.rng.uniform(0.3, RUN_SECONDS))
    trial.kill(victim)
    return reconciled(trial)


def in_the_request(trial: Trial, *, lists_running: bool = True, deed: tuple[str, int] | None = None) -> Shown:
    """Only the provider knows of it, and its list of requests tells."""
    own_bucket(trial)
    trial.sandbox.reset(lists_running=lists_running)
    if deed:
        trial.sandbox.behave("history", deed[0], times=deed[1])
    die_before_the_answer(trial)
    return reconciled(trial)


def no_history(trial: Trial) -> Shown:
    """The account stores no inputs, so the list tells nothing: a person looks."""
    own_bucket(trial)
    trial.sandbox.reset(payloads=False)
    trial.sandbox.behave("submit", "drop")
    settle(trial, trial.run())
    return reconciled(trial)


def result_fails(trial: Trial, *, do: str) -> Shown:
    """The render is done, and what tells where it is does not answer as it should, for some time."""
    own_bucket(trial)
    trial.sandbox.behave("result", do, times=6)
    trial.gated(Rule("PUT journal-submitted", "kill_done"))
    trial.run()
    return reconciled(trial)


def asleep(trial: Trial, *, moment: str) -> Shown:
    """A machine sleeps in mid-work; `reconcile` does what can be done; it wakes, and pays nothing again."""
    own_bucket(trial)
    if moment == "request":
        trial.sandbox.behave("submit", "delay", seconds=2)
        sleeper = trial.generate()
        trial.sandbox.wait_for("accepts")
        sleeper.send(signal.SIGSTOP)
    else:
        rule = Rule(f"PUT {moment}", "call_done")
        gate = trial.gated(rule)
        sleeper = trial.generate()
        gate.kill = lambda: sleeper.send(signal.SIGSTOP)
        rule.wait()
    shown = reconciled(trial, seconds=8.0 if moment == "journal-intent" else PATIENCE)
    sleeper.send(signal.SIGCONT)
    woken = trial.finish(sleeper)
    return woken if woken.published else recover(trial) if moment == "journal-intent" else shown


def behind_a_proxy(trial: Trial, *, fate: str = "") -> Shown:
    """Store and provider are reached through it alone."""
    own_bucket(trial)
    prefect = trial.ground.api_url.removesuffix("/api")
    with ForwardProxy(lost=fate) as proxy:
        spared = f"{prefect},{prefect.removeprefix('http://')}"
        more = {"HTTP_PROXY": proxy.url, "http_proxy": proxy.url, "NO_PROXY": spared, "no_proxy": spared}
        trial.run(more=more, machine="a") if fate else None
        shown = reconciled(trial) if fate else trial.finish(trial.generate(more=more))
        assert proxy.posts == 1, f"{proxy.posts} paid requests went through the proxy"
    return shown


def away(trial: Trial, *, on: str) -> Shown:
    """The store does not answer for a minute: the run that is at work waits, and needs no hand afterwards."""
    own_bucket(trial)
    trial.gated(Rule(on, "cut", seconds=60.0))
    shown = trial.run()
    return shown if shown.published else reconciled(trial)


def another_store(trial: Trial) -> Shown:
    """Two stores on one Prefect server: the runs of that which it does not know refuse, and send nothing."""
    trial.store = trial.ground.bucket(f"alone-{trial.folder.name}")
    with trial.ground.knows_its_store():
        shown = trial.run()
    assert shown.error.get("type") == "StoreUnfit", shown
    assert not trial.accepted()
    return shown


def reconciled(trial: Trial, *, seconds: float = PATIENCE) -> Shown:
    """What is scheduled every two minutes, until the job is published; nothing was bought: the job is still to be had."""
    state = asyncio.run(reconcile(trial, seconds))
    if state is None:
        if not trial.accepted() and seconds == PATIENCE:
            return recover(trial)
        return Shown(1, json.dumps({"error": {"type": "NotReconciled", "message": "no video"}}), "")
    return Shown(0, json.dumps({"state": state}), "")


async def reconcile(trial: Trial, seconds: float) -> str | None:
    """The state of the trial's video; None if there is none after so many seconds, or there is nothing to do."""
    workspace = Workspace(settings_of(trial))
    deadline = time.monotonic() + seconds
    try:
        while time.monotonic() < deadline:
            await reconcile_renders(workspace, idle_seconds=1.0)
            videos: list[dict[str, Any]] = await asyncio.to_thread(Witness(trial).manifests)
            if videos and not await is_being_booked(workspace):
                return str(videos[0]["state"])
            if not trial.accepted() and not await workspace.journal.open_renders():
                return None
            await asyncio.sleep(PAUSE)
    finally:
        await workspace.aclose()
    return None


async def is_being_booked(workspace: Workspace) -> bool:
    """Whether a video is in the store whose bill is not in the books yet: the next look does that."""
    heads = [await workspace.journal.head(render_id) for render_id in await workspace.journal.open_renders()]
    return any(head is not None and head.state is RenderState.COLLECTED for head in heads)


def settings_of(trial: Trial) -> AvatarSettings:
    """Those of another machine, which reaches the store without a gate."""
    key, url = trial.sandbox.key, trial.sandbox.url
    return AvatarSettings(
        _env_file=None,
        state_dir=trial.folder / "c",
        store=trial.store,
        fal={"key": key, "queue_url": url, "rest_url": url, "api_url": f"{url}/v1"},
        pixazo={"key": key, "base_url": url},
        download={"allow_private_hosts": True},
    )

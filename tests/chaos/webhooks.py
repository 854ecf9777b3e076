"""(g) SIGKILL right after the provider accepted, and a webhook instead of a person."""

import asyncio
import socket
import time
from collections.abc import Iterator
from functools import partial

import httpx

from avatar.job.reconcile import reconcile_renders
from avatar.settings import AvatarSettings
from avatar.workspace import Workspace
from tests.chaos.case import Case
from tests.chaos.gate import Rule
from tests.chaos.kills import die_before_the_answer
from tests.chaos.person import MOST_RUNS, PAUSE, UNKNOWN
from tests.chaos.trial import Trial
from tests.chaos.victims import Shown

ROW = "kill -9, then a webhook"
TRIALS = 50
#: Seconds that a bridge, or `reconcile`, may take.
PATIENCE = 60.0


def cases() -> Iterator[Case]:
    """Killed in the request or at writing its receipt; taken up by the next run, elsewhere, or by `reconcile`."""
    plays = (
        ("in the request, then run again", partial(in_the_request, then="a")),
        ("in the request, then reconciled", partial(in_the_request, then="reconcile")),
        ("at the receipt, then run elsewhere", at_the_receipt),
        ("in the request, then run elsewhere", partial(in_the_request, then="b")),
        ("Pixazo: in the request, then reconciled", partial(in_the_request, then="reconcile", provider="pixazo")),
    )  # fmt: skip
    for number in range(TRIALS):
        name, play = plays[number % len(plays)]
        yield Case(ROW, f"{number}, {name}", play)


def in_the_request(trial: Trial, *, then: str, provider: str = "fal") -> Shown:
    """The run dies as soon as the provider has accepted, before it answers."""
    trial.provider = provider
    if then == "reconcile":
        # It looks after all renders of a bucket, and those of other trials are at other sandboxes.
        trial.store = trial.ground.bucket(f"webhooks-{trial.folder.name}")
    open_bridge(trial)
    die_before_the_answer(trial)
    return after_the_webhook(trial, then)


def at_the_receipt(trial: Trial) -> Shown:
    """The run dies as it writes the receipt down; the one on its disk is of no use to another machine."""
    open_bridge(trial)
    trial.gated(Rule("PUT journal-submitted", "kill"))
    trial.run()
    return after_the_webhook(trial, "b")


def open_bridge(trial: Trial) -> None:
    """Start `avatar bridge` on a machine of its own, and have webhooks sent there."""
    with socket.create_server(("127.0.0.1", 0)) as door:
        port = door.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    jwks = f"{trial.sandbox.url}/.well-known/jwks.json"
    trial.settings |= {"AVATAR_BRIDGE__PUBLIC_URL": address, "AVATAR_BRIDGE__JWKS_URL": jwks}
    trial.start("bridge", machine="bridge", more={"AVATAR_BRIDGE__PORT": str(port)})
    deadline = time.monotonic() + PATIENCE
    while not is_up(address):
        if time.monotonic() > deadline:
            raise TimeoutError(f"the bridge did not open: {trial.started[-1].shown().text[-500:]}")
        time.sleep(0.05)


def is_up(address: str) -> bool:
    try:
        return httpx.get(f"{address}/health", trust_env=False).is_success
    except httpx.TransportError:
        return False


def after_the_webhook(trial: Trial, then: str) -> Shown:
    """Go on as nobody's help would: the next run, or what is scheduled, and then the run of whoever asks again."""
    told = trial.sandbox.wait_for("webhooks_sent")["webhooks"]
    assert [one["status"] for one in told] == [204], told
    if then == "reconcile":
        asyncio.run(reconcile(trial))
    for _ in range(MOST_RUNS):
        shown = trial.run(machine="a" if then == "reconcile" else then)
        assert shown.code != UNKNOWN, f"a person was asked: {shown.text[-500:]}"
        if shown.published:
            return shown
        time.sleep(PAUSE)
    return shown


async def reconcile(trial: Trial) -> None:
    """What is scheduled every two minutes, until the job is published."""
    env = trial.environment("c")
    key, url = trial.sandbox.key, trial.sandbox.url
    workspace = Workspace(
        AvatarSettings(
            _env_file=None,
            state_dir=env["AVATAR_STATE_DIR"],
            store=trial.store,
            fal={"key": key, "queue_url": url, "rest_url": url},
            pixazo={"key": key, "base_url": url},
            download={"allow_private_hosts": True},
        )
    )
    mine: set[str] = set()
    try:
        async with asyncio.timeout(PATIENCE):
            while True:
                found = await reconcile_renders(workspace)
                mine |= set(found.attached)
                if mine & set(found.collected):
                    return
                await asyncio.sleep(PAUSE)
    finally:
        await workspace.aclose()

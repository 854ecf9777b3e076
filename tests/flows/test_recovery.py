"""A flow run that is killed is started again by `reconcile`, continues from the journal, and pays nothing."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest

from avatar.local import find
from avatar.local.processes import children
from avatar.local.state_directory import StateDirectory
from avatar.settings import AvatarSettings
from tests.sandbox import samples
from tests.sandbox.running import Sandbox
from tests.up import with_database

pytestmark = pytest.mark.server
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory, sandbox_process: Sandbox) -> Iterator[StateDirectory]:
    """`avatar up` as a person starts it, with the sandbox as fal."""
    folder = tmp_path_factory.mktemp("up")
    state = StateDirectory(folder / "state")
    with_database(state.prefect_home)
    variables = {
        "AVATAR_STATE_DIR": str(state.path),
        "AVATAR_POLLING__WINDOW_SECONDS": "2",
        "AVATAR_BUDGET__APPROVE_ABOVE": "0.95",
    }
    command = [str(Path(sys.executable).parent / "avatar"), "up"]
    said = folder / "up.log"
    with said.open("w") as log:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=os.environ | sandbox_process.fal_env() | variables,
            stdout=log,
            stderr=log,
        )
        try:
            # It gives up by itself, program by program: on a busy machine later than a test would guess.
            until(lambda: "Everything runs" in said.read_text() or process.poll() is not None, 600)
            assert process.poll() is None, said.read_text()
            yield state
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(180)


def until(done: Callable[[], object], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.2)


class Api:
    """The few questions a person asks in the UI."""

    def __init__(self, url: str) -> None:
        self.client = httpx.Client(base_url=url, timeout=30)

    def ask(self, method: str, path: str, **given) -> httpx.Response:
        """A request, asked again while SQLite is locked, as Prefect's own client does."""
        for _ in range(50):
            answer = self.client.request(method, path, **given)
            if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                break
            time.sleep(0.2)
        return answer.raise_for_status()

    def start(self, deployment: str, parameters: dict) -> str:
        found = self.ask("GET", f"/deployments/name/{deployment}/{deployment}").json()
        created = self.ask(
            "POST", f"/deployments/{found['id']}/create_flow_run", json={"parameters": parameters}
        )
        return created.json()["id"]

    def question(self, run_id: str) -> str:
        """What the form of a suspended run says."""
        rows = (
            self.ask("POST", f"/flow_runs/{run_id}/input/filter", json={"prefix": "suspended", "limit": 10})
            .raise_for_status()
            .json()
        )
        return " ".join(row["value"] for row in rows)

    def answer(self, run_id: str, *, approved: bool) -> None:
        given = {"run_input": {"answer": "Approve" if approved else "Refuse", "who": "anna"}}
        self.ask("POST", f"/flow_runs/{run_id}/resume", json=given)

    def switch_off(self, automation: str) -> None:
        for found in self.ask("POST", "/automations/filter", json={}).json():
            if found["name"] == automation:
                self.ask("PATCH", f"/automations/{found['id']}", json={"enabled": False})

    def run(self, run_id: str) -> dict:
        return self.ask("GET", f"/flow_runs/{run_id}").json()


def short_voice(folder: Path) -> Path:
    """A voice cheap enough to need no approval."""
    samples.write_voice(folder / "short.wav", 4.0)
    return folder / "short.wav"


def kill_runs(up: StateDirectory) -> None:
    """kill -9 of whatever the worker runs."""
    for run in children(up.read().worker.process):
        os.kill(run.pid, signal.SIGKILL)


def test_a_killed_run_is_started_again_and_paid_once(
    up: StateDirectory, sandbox: Sandbox, tmp_path: Path
) -> None:
    """kill -9 in mid-render: resumed by the automation; again, without it: by reconcile; Completed, one payment."""
    sandbox.reset(render_seconds=60)
    api = Api(find(AvatarSettings(_env_file=None, state_dir=up.path)).api_url)
    examples = ROOT / "examples"
    job = {"portrait": str(examples / "portrait.png"), "voice": str(short_voice(tmp_path))}
    run_id = api.start("generate-avatar", {"job": job})
    sandbox.wait_for("stream", seconds=120)  # followed, so written down
    kill_runs(up)
    until(lambda: api.run(run_id)["run_count"] == 2, 90)
    api.switch_off("avatar-resume-crashed")
    kill_runs(up)
    until(lambda: api.run(run_id)["state_type"] == "CRASHED", 60)
    api.start("reconcile", {"upkeep": {"idle_seconds": 86400}})
    until(lambda: api.run(run_id)["state_type"] == "COMPLETED", 150)
    assert api.run(run_id)["run_count"] == 3
    assert sandbox.state()["accepts"] == 1
    api.client.close()


def test_a_dear_job_waits_for_approval_before_it_is_paid(up: StateDirectory, sandbox: Sandbox) -> None:
    """Suspended with its quote shown; refused it ends unpaid; approved it is paid once and published."""
    api = Api(find(AvatarSettings(_env_file=None, state_dir=up.path)).api_url)
    examples = ROOT / "examples"
    job = {"portrait": str(examples / "portrait.png"), "voice": str(examples / "speech.mp3")}
    refused, approved = (api.start("generate-avatar", {"job": job | {"take": take}}) for take in (0, 1))
    for run_id in (refused, approved):
        until(lambda run_id=run_id: api.run(run_id)["state_name"] == "Suspended", 120)
    assert sandbox.state()["posts"] == 0
    until(lambda: "Pay $1.04 to fal?" in api.question(approved), 30)
    assert api.run(approved)["state"]["message"].startswith("Waiting for you: $1.04 until ")
    api.answer(refused, approved=False)
    until(lambda: api.run(refused)["state_type"] == "FAILED", 120)
    assert (
        api.run(refused)["state"]["message"]
        == "anna refused the $1.04 of this job. Nothing was sent or spent."
    )
    assert sandbox.state()["posts"] == 0
    say = partial(subprocess.run, cwd=up.path, capture_output=True, text=True, check=False, timeout=60)
    command = [sys.executable, "-m", "avatar", "approve", approved[:8], "--who", "anna", "--price"]
    at_home = os.environ | {"AVATAR_STATE_DIR": str(up.path)}
    assert say([*command, "0.95"], env=at_home).returncode == 2
    assert api.run(approved)["state_name"] == "Suspended"
    assert say([*command, "1.04"], env=at_home).stdout.startswith("approved $1.04: ")
    until(lambda: api.run(approved)["state_type"] == "COMPLETED", 120)
    assert sandbox.state()["accepts"] == 1
    api.client.close()

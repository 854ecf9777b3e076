"""The inbox under `avatar up`: files are dropped by a plain S3 client, and videos come out."""

import json
import os
import re
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from avatar.local import find
from avatar.local.processes import children
from avatar.local.state_directory import StateDirectory
from avatar.settings import AvatarSettings
from tests.flows.test_recovery import Api, short_voice, until
from tests.inbox.conftest import Client
from tests.sandbox.running import Sandbox
from tests.up import until_ready, with_database

pytestmark = pytest.mark.server
DOCS = Path(__file__).parents[2] / "docs"
PORTRAIT = Path(__file__).parents[2] / "examples" / "portrait.png"


class Machine:
    """A machine on which `avatar up` runs, and a user of its bucket."""

    def __init__(self, state: StateDirectory) -> None:
        running = find(AvatarSettings(_env_file=None, state_dir=state.path))
        assert running.store
        self.state, self.user, self.api = state, Client(running.store), Api(running.api_url)

    def drop(self, name: str, folder: Path, **job: str) -> None:
        self.user.drop(f"{name}/portrait.png", PORTRAIT.read_bytes())
        self.user.drop(f"{name}/job.json", json.dumps({"prompt": name} | job))
        self.user.drop(f"{name}/voice.wav", short_voice(folder).read_bytes())

    def is_done(self, name: str) -> bool:
        return f".done/{name}/result.json" in self.user.listing(".done/")

    def pause_sweeps(self) -> None:
        found = self.api.ask("GET", "/deployments/name/take-uploads/sweep-inbox").json()
        self.api.ask("POST", f"/deployments/{found['id']}/pause_deployment")

    def sweep(self) -> None:
        """One sweep, to its end."""
        found = self.api.ask("GET", "/deployments/name/take-uploads/sweep-inbox").json()
        run_id = self.api.ask("POST", f"/deployments/{found['id']}/create_flow_run", json={}).json()["id"]
        until(lambda: self.api.run(run_id)["state_type"] == "COMPLETED", 120)

    def runs(self, deployment: str) -> list[dict[str, Any]]:
        query = {"deployments": {"name": {"any_": [deployment]}}, "sort": "START_TIME_DESC"}
        found: list[dict[str, Any]] = self.api.ask("POST", "/flow_runs/filter", json=query).json()
        return found

    def post_event(self) -> None:
        event = {
            "id": str(uuid.uuid4()),
            "occurred": datetime.now(UTC).isoformat(),
            "event": "avatar.inbox.settled",
            "resource": {"prefect.resource.id": "avatar.inbox"},
            "payload": {"uploads": ["anna"]},
        }
        self.api.ask("POST", "/events", json=[event])

    def close(self) -> None:
        self.api.client.close()
        self.user.minio._http.clear()


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory, sandbox_process: Sandbox) -> Iterator[Machine]:
    """`avatar up` with the free preview, and with the sandbox for who asks for fal."""
    folder = tmp_path_factory.mktemp("up")
    state = StateDirectory(folder / "state")
    with_database(state.prefect_home)
    variables = sandbox_process.fal_env() | {
        "AVATAR_PROVIDER": "preview",
        "AVATAR_STATE_DIR": str(state.path),
        "AVATAR_POLLING__WINDOW_SECONDS": "2",
        "AVATAR_INBOX__REPORT_AFTER_SECONDS": "2",
        "AVATAR_BUDGET__APPROVE_ABOVE": "0.40",
    }
    command = [str(Path(sys.executable).parent / "avatar"), "up"]
    process = subprocess.Popen(
        command, cwd=folder, env=os.environ | variables, text=True, stdout=subprocess.PIPE
    )
    until_ready(process)
    running = Machine(state)
    yield running
    running.close()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=90)


def test_a_sweep_makes_a_video_of_what_was_dropped(machine: Machine, tmp_path: Path) -> None:
    """Without a command and without an event; half an upload is told of, and stays."""
    found = machine.api.ask("GET", "/deployments/name/take-uploads/on-upload").json()
    related = machine.api.ask("GET", f"/automations/related-to/prefect.deployment.{found['id']}").json()
    for automation in related:
        machine.api.ask("PATCH", f"/automations/{automation['id']}", json={"enabled": False})
    machine.user.drop("half/voice.mp3")
    machine.drop("Zoë & co", tmp_path)
    until(lambda: machine.is_done("Zoë & co"), 120)
    until(lambda: machine.user.listing(".waiting/"), 120)
    assert machine.runs("on-upload") == []
    result = json.loads(machine.user.read(".done/Zoë & co/result.json"))
    assert result["videos"][0]["provider"] == "preview"
    assert [key for key in machine.user.listing() if not key.startswith(".")] == ["half/voice.mp3"]
    for automation in related:
        machine.api.ask("PATCH", f"/automations/{automation['id']}", json={"enabled": True})


def test_the_quick_start_over_http_runs_as_it_stands(machine: Machine, tmp_path: Path) -> None:
    """The shell of docs/api.md, in one piece: a run is started, waited for, and its video found."""
    code = "\n".join(snippets("sh")).replace("do sleep 1; done", "do sleep 1; done; sleep 5")
    inputs(tmp_path)
    variables = os.environ | {"PREFECT_API_URL": str(machine.api.client.base_url).rstrip("/")}
    command = ["bash", "-e", "-o", "pipefail", "-c", code]
    ended = subprocess.run(
        command, cwd=tmp_path, env=variables, capture_output=True, text=True, check=False, timeout=120
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    started, state, *_, video = ended.stdout.splitlines()
    assert (started[:4], state) == ("run ", "COMPLETED")
    assert "'uri': 's3://avatar/videos/" in video


def test_the_quick_start_from_python_runs_as_it_stands(machine: Machine, tmp_path: Path) -> None:
    """On the store of what runs on this machine."""
    inputs(tmp_path)
    variables = os.environ | {"AVATAR_STATE_DIR": str(machine.state.path)}
    command = [sys.executable, "-c", "\n".join(snippets("python"))]
    ended = subprocess.run(
        command, cwd=tmp_path, env=variables, capture_output=True, text=True, check=False, timeout=120
    )
    assert ended.returncode == 0, ended.stderr
    price, video = ended.stdout.splitlines()
    assert price.startswith("0.0000 1 [")
    assert re.fullmatch(r"s3://avatar/videos/[0-9a-f]{32}/video\.mp4 [0-9.]+ 0\.0000", video)


def snippets(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (DOCS / "api.md").read_text(), re.MULTILINE | re.DOTALL)


def inputs(folder: Path) -> None:
    (folder / "portrait.png").write_bytes(PORTRAIT.read_bytes())
    made = short_voice(folder)
    if made.name != "voice.wav":
        (folder / "voice.wav").write_bytes(made.read_bytes())


def test_one_event_is_one_run(machine: Machine) -> None:
    """An event as the bridge posts it starts `on-upload` once; with nothing to take it is over at once."""
    machine.pause_sweeps()
    before = len(machine.runs("on-upload"))
    machine.post_event()
    until(lambda: len(machine.runs("on-upload")) > before, 30)
    newest = machine.runs("on-upload")[0]["id"]
    until(lambda: machine.api.run(newest)["state_type"] == "COMPLETED", 60)
    assert len(machine.runs("on-upload")) == before + 1


def test_approved_and_killed_it_goes_on_and_pays_once(
    machine: Machine, sandbox: Sandbox, tmp_path: Path
) -> None:
    """Suspended for its price, approved, kill -9 in mid-render: the same run ends it, and other sweeps leave it alone."""
    sandbox.reset(render_seconds=6)
    before = {run["id"] for run in machine.runs("on-upload")}
    machine.drop("anna", tmp_path, provider="fal")
    until(lambda: {run["id"] for run in machine.runs("on-upload")} - before, 60)
    (run_id,) = {run["id"] for run in machine.runs("on-upload")} - before
    until(lambda: machine.api.run(run_id)["state_name"] == "Suspended", 60)
    machine.sweep()
    assert sandbox.state()["posts"] == 0
    machine.api.answer(run_id, approved=True)
    sandbox.wait_for("stream", seconds=120)  # followed, so written down
    for run in children(machine.state.read().worker.process):
        os.kill(run.pid, signal.SIGKILL)
    until(lambda: machine.api.run(run_id)["state_type"] == "CRASHED", 60)
    machine.sweep()
    assert not machine.is_done("anna")
    machine.api.start("reconcile", {"upkeep": {"idle_seconds": 86400}})
    until(lambda: machine.api.run(run_id)["state_type"] == "COMPLETED", 150)
    assert machine.is_done("anna")
    assert sandbox.state()["accepts"] == 1

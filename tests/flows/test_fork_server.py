"""Runs that are forked from a process that has imported Prefect: what a worker sees of them, and what is left behind."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from avatar.local import environment
from avatar.models import AvatarJob
from avatar.settings import AvatarSettings
from flows import launch
from tests.batch.conftest import media  # noqa: F401 - a fixture
from tests.flows.conftest import PREFECTS_SOCKETS, Local
from tests.sandbox.running import Sandbox

pytestmark = [
    pytest.mark.server,
    PREFECTS_SOCKETS,
    pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a run imports Prefect itself"),
]
LAUNCH = (sys.executable, "-I", "-S", launch.__file__)


def until(found: Callable[[], Any], seconds: float = 60) -> Any:
    deadline = time.monotonic() + seconds
    while not (seen := found()):
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.1)
    return seen


def servers() -> list[int]:
    """Fork servers of runs that this process has started."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"flows.fork_server" in words and str(os.getpid()).encode() in words:
            found.append(int(path.parent.name))
    return [pid for pid in found if parent(pid) not in found]


def parent(pid: int) -> int | None:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
    except OSError:
        return None


def forks(server: int) -> list[int]:
    """Its runs: whoever forks decoders is its child, too, by another name."""
    found = [int(path.name) for path in Path("/proc").glob("[0-9]*") if parent(int(path.name)) == server]
    return [pid for pid in found if b"flows.fork_server" in command(pid)]


def command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


class Started:
    """A run as a worker starts it."""

    def __init__(self, run_id: str, variables: dict[str, str], folder: Path) -> None:
        self.id = run_id
        own = variables | {"PREFECT__FLOW_RUN_ID": run_id}
        self.process = subprocess.Popen(
            LAUNCH, env=own, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    def ended(self) -> tuple[int, str]:
        said, _ = self.process.communicate(timeout=120)
        return self.process.returncode, said


@pytest.fixture
def start(
    local: Local,
    make_settings: Callable[..., AvatarSettings],
    sandbox: Sandbox,
    media: Path,  # noqa: F811
    tmp_path: Path,
) -> Iterator[Callable[..., Started]]:
    """Starts `generate_avatar` on this test's bucket; keywords are environment variables."""
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from flows.generate import generate_avatar

    variables = os.environ | environment(make_settings(), local.running) | sandbox.fal_env()
    variables |= {"PREFECT__FLOW_ENTRYPOINT": "flows.generate.generate_avatar"}
    started: list[Started] = []

    async def create(prompt: str) -> str:
        job = AvatarJob(portrait=str(media / "portrait.png"), voice=str(media / "voice.wav"), prompt=prompt)
        async with get_client() as client:
            run = await client.create_flow_run(
                generate_avatar, parameters={"job": job.model_dump(mode="json")}
            )
            return str(run.id)

    def run(prompt: str, **more: str) -> Started:
        with temporary_settings({PREFECT_API_URL: local.running.api_url}):
            run_id = asyncio.run(create(prompt))
        started.append(Started(run_id, variables | more, tmp_path))
        return started[-1]

    yield run
    for each in started:
        each.process.kill()
        each.process.communicate()
    for server in servers():
        os.kill(server, signal.SIGKILL)


def test_runs_are_forked_and_end_as_the_worker_expects(
    start: Callable[..., Started], sandbox: Sandbox
) -> None:
    """The first imports Prefect and starts the server; the next ones are its forks, whatever becomes of them."""
    code, said = start("first").ended()
    assert code == 0, said
    (server,) = servers()

    forked = start("forked")
    until(lambda: forks(server))
    code, said = forked.ended()
    assert (code, "Finished in state Completed" in said) == (0, True)
    assert sandbox.state()["accepts"] == 2

    sandbox.reset(render_seconds=120)
    for number, kill in enumerate((stop_launcher, kill_launcher, kill_fork, kill_server), 1):
        run = start(kill.__name__)
        (fork,) = until(lambda: forks(server))
        until(lambda expected=number: sandbox.state(brief=True)["accepts"] == expected)
        codes = kill(run, fork, server)
        code, said = run.ended()
        assert code in codes, said
        until(lambda gone=fork: parent(gone) is None)
    assert servers() == []


def stop_launcher(run: Started, _: int, __: int) -> set[int]:
    """The engine ends as it would by itself: well, if it could say that it was stopped."""
    run.process.terminate()
    return {0, -signal.SIGTERM}


def kill_launcher(run: Started, _: int, __: int) -> set[int]:
    run.process.kill()
    return {-signal.SIGKILL}


def kill_fork(_: Started, fork: int, __: int) -> set[int]:
    os.kill(fork, signal.SIGKILL)
    return {-signal.SIGKILL}


def kill_server(_: Started, __: int, server: int) -> set[int]:
    os.kill(server, signal.SIGKILL)
    return {1}


def test_other_settings_or_other_code_need_another_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a run is told of itself does not: each has its own id."""
    code = tmp_path / "flows" / "batch.py"
    code.parent.mkdir()
    code.write_text("")
    monkeypatch.setattr(launch, "ROOT", tmp_path)
    before = launch.socket_path()
    monkeypatch.setenv("PREFECT__FLOW_RUN_ID", "another")
    assert launch.socket_path() == before
    monkeypatch.setenv("AVATAR_PROVIDER", "fal")
    settings = launch.socket_path()
    os.utime(code, (1, 1))
    assert len({before, settings, launch.socket_path()}) == 3


def test_a_folder_that_others_may_enter_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever listens there would be given every key of the environment."""
    monkeypatch.setattr(launch.tempfile, "gettempdir", lambda: str(tmp_path))
    assert launch.socket_path() is not None
    (folder,) = tmp_path.iterdir()
    folder.chmod(0o755)
    assert launch.socket_path() is None

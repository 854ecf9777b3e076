"""Local services: shared, outliving their starter, stopped by the last user and by nobody else."""

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import wave
from collections.abc import Callable, Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import pytest

from avatar.commands import doctor
from avatar.local import Services, environment, find, prefect_client, start_programs
from avatar.local import state_directory as locks
from avatar.local.environment import flatten
from avatar.local.processes import Process, alive, children, free_port, identify, python, spawn, stop
from avatar.local.start_programs import POOL, ensure_program, fingerprint, site_program, stop_workers
from avatar.local.state_directory import TITLES, StartedProgram, StateDirectory
from avatar.settings import AvatarSettings
from avatar.settings_sections import FalSettings, GallerySettings

EXAMPLES = Path(__file__).parents[2] / "examples"
USER = """
import json, sys
from pathlib import Path
from avatar.local import services
from avatar.settings import AvatarSettings
with services(AvatarSettings(state_dir=Path(sys.argv[1]))) as running:
    print(json.dumps({"api": running.api_url, "store": running.store.endpoint}), flush=True)
    sys.stdin.read()
"""
UP = """
import sys
from pathlib import Path
from avatar.local import run_up
from avatar.settings import AvatarSettings
sys.exit(run_up(AvatarSettings(state_dir=Path(sys.argv[1]))))
"""
#: As a worker does: its run has a session of its own, and SIGTERM makes it wait for that run.
DRAINING = """
import signal, subprocess, sys
signal.signal(signal.SIGTERM, lambda *_: None)
run = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
print("ready", flush=True)
run.wait()
"""

Program = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def state(tmp_path: Path) -> Iterator[StateDirectory]:
    """A state directory of its own; whatever a failed test leaves running in it is ended."""
    directory = StateDirectory(tmp_path / "state")
    directory.prepare()
    yield directory
    for process in recorded(directory):
        stop(process, grace=5)


@pytest.fixture
def program(state: StateDirectory, tmp_path: Path) -> Iterator[Program]:
    """Start a script on the state directory, in a directory without a `.env`."""
    started: list[subprocess.Popen[str]] = []

    def start(script: str) -> "subprocess.Popen[str]":
        command = [sys.executable, "-c", script, str(state.path)]
        pipe = subprocess.PIPE
        started.append(subprocess.Popen(command, cwd=tmp_path, text=True, stdin=pipe, stdout=pipe))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def recorded(state: StateDirectory) -> list[Process]:
    record = state.read()
    return [entry.process for name in TITLES if (entry := getattr(record, name))]


def answer(process: "subprocess.Popen[str]") -> Any:
    assert process.stdout
    return json.loads(process.stdout.readline())


def leave(process: "subprocess.Popen[str]") -> None:
    process.communicate(timeout=90)
    assert process.returncode == 0


def settings(state: StateDirectory, **more: Any) -> AvatarSettings:
    return AvatarSettings(_env_file=None, state_dir=state.path, **more)


@pytest.mark.server
def test_services_are_shared_and_stopped_by_the_last_user(state: StateDirectory, program: Program) -> None:
    """Two users get the same services; the first to go leaves them running, the last stops them.

    Whoever comes then finds them on the same ports: links in artifacts hold.
    """
    first, second = program(USER), program(USER)
    found = answer(first)
    assert answer(second) == found
    pids = recorded(state)
    leave(first)
    assert [alive(pid) for pid in pids] == [True, True]
    leave(second)
    assert [alive(pid) for pid in pids] == [False, False]
    assert find(settings(state)) == Services(store=None, api_url="", ui_url="", started_api=False)
    third = program(USER)
    assert answer(third) == found
    leave(third)


@pytest.mark.server
def test_services_of_a_killed_user_are_taken_over(state: StateDirectory, program: Program) -> None:
    """kill -9 of the only user leaves its services to the next, who stops them at the end."""
    first = program(USER)
    found, pids = answer(first), recorded(state)
    first.kill()
    first.wait()
    assert prefect_client.healthy(found["api"])
    second = program(USER)
    assert (answer(second), recorded(state)) == (found, pids)
    leave(second)
    assert [alive(pid) for pid in pids] == [False, False]


@pytest.mark.server
def test_services_that_died_are_replaced(state: StateDirectory, program: Program) -> None:
    """A recorded server that no longer runs is started again for the next user, at the same address."""
    first = program(USER)
    found, pids = answer(first), recorded(state)
    first.kill()
    for process in pids:
        stop(process, grace=20)
    second = program(USER)
    assert answer(second) == found
    assert not set(pids) & set(recorded(state))
    leave(second)


@pytest.mark.server
def test_up_runs_everything_and_stops_what_it_started(
    state: StateDirectory, program: Program, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`up`: UI, deployment, workers and doctor are fine; SIGTERM ends all of it and no other process."""
    bystander = spawn(python("-c", "import time; time.sleep(600)"), dict(os.environ), tmp_path / "log")
    up = program(UP)
    assert up.stdout
    said = "".join(iter(up.stdout.readline, "Everything runs. Ctrl-C stops it.\n"))
    running, pids = find(settings(state)), recorded(state)
    assert running.ui_url in said
    assert f"Gallery      {running.gallery_url}\n" in said
    assert f"Bridge       {running.bridge_url}\n" in said
    assert httpx.get(f"{running.bridge_url}health").text == "ok\n"
    assert "No videos yet" in httpx.get(running.gallery_url).text
    assert httpx.get(running.ui_url, follow_redirects=True).headers["content-type"].startswith("text/html")
    assert prefect_client.read(running.api_url, "/deployments/name/generate-avatar/generate-avatar")
    assert len(prefect_client.online_workers(running.api_url, POOL)) == 2
    assert doctor.run_doctor(settings(state), as_json=True) == 0
    assert {row["status"] for row in json.loads(capsys.readouterr().out)["findings"]} == {"ok"}
    told, _ = program(UP).communicate(timeout=60)
    assert told == f"avatar up is already running: {running.ui_url}\n"
    up.send_signal(signal.SIGTERM)
    up.communicate(timeout=90)
    assert up.returncode == 0
    assert [alive(pid) for pid in pids] == [False] * 6
    assert alive(bystander)
    stop(bystander, grace=5)


@pytest.mark.server
def test_up_revives_a_dead_gallery_at_its_address(state: StateDirectory, program: Program) -> None:
    """A gallery that is killed is started again where it was, and the worker goes on undisturbed."""
    up = program(UP)
    assert up.stdout
    assert "".join(iter(up.stdout.readline, "Everything runs. Ctrl-C stops it.\n"))
    before = state.read()
    assert before.gallery
    assert before.worker
    os.kill(before.gallery.process.pid, signal.SIGKILL)
    assert up.stdout.readline() == "The gallery died; starting it again.\n"
    after = wait_for(lambda: (now := state.read().gallery) and now.process != before.gallery.process and now)
    assert wait_for(lambda: answers_with(after.url + "health", "ok\n"))
    assert (after.url, state.read().worker) == (before.gallery.url, before.worker)
    up.send_signal(signal.SIGTERM)
    up.communicate(timeout=90)
    assert (up.returncode, alive(after.process)) == (0, False)


def answers_with(url: str, text: str) -> bool:
    try:
        return httpx.get(url).text == text
    except httpx.HTTPError:
        return False


@pytest.mark.server
def test_up_stops_a_run_under_way(state: StateDirectory, program: Program, tmp_path: Path) -> None:
    """SIGTERM ends a run that is rendering, and Prefect knows: it is Crashed, not Running for ever."""
    up = program(UP)
    assert up.stdout
    assert "".join(iter(up.stdout.readline, "Everything runs. Ctrl-C stops it.\n"))
    run_id = start_run(find(settings(state)).api_url, long_voice(tmp_path / "voice.wav"))
    worker = state.read().worker
    assert worker
    (run,) = wait_for(lambda: children(worker.process))
    wait_for(lambda: rows(state, "select id from task_run where flow_run_id = ?", run_id))
    up.send_signal(signal.SIGTERM)
    up.communicate(timeout=90)
    assert (up.returncode, alive(run)) == (0, False)
    ended = "select s.type, s.message from flow_run_state s where flow_run_id = ? order by timestamp"
    assert rows(state, ended, run_id)[-1][0] == "CRASHED", rows(state, ended, run_id)


def long_voice(path: Path) -> Path:
    """The example six times over: long enough to be caught while it renders."""
    with wave.open(str(EXAMPLES / "speech.wav")) as example, wave.open(str(path), "wb") as voice:
        voice.setparams(example.getparams())
        voice.writeframes(example.readframes(example.getnframes()) * 6)
    return path


def start_run(api_url: str, voice: Path) -> str:
    job = {"portrait": str(EXAMPLES / "portrait.png"), "voice": str(voice)}
    return start_deployment(api_url, "generate-avatar", {"job": job})


def start_deployment(api_url: str, name: str, parameters: dict[str, Any]) -> str:
    found = prefect_client.read(api_url, f"/deployments/name/{name}/{name}")
    assert found
    asked = httpx.post(
        f"{api_url}/deployments/{found['id']}/create_flow_run", json={"parameters": parameters}, timeout=30
    )
    return str(asked.raise_for_status().json()["id"])


def rows(state: StateDirectory, query: str, run_id: str) -> list[Any]:
    """From the server's database, which can be read when the server is gone."""
    database = f"file:{state.prefect_home / 'prefect.db'}?mode=ro"
    with closing(sqlite3.connect(database, uri=True, timeout=10)) as connection:
        return connection.execute(query, (run_id,)).fetchall()


@pytest.mark.server
def test_up_revives_a_dead_worker(state: StateDirectory, program: Program) -> None:
    """A worker that is killed is started again, and the API sees the new one."""
    up = program(UP)
    assert up.stdout
    assert "".join(iter(up.stdout.readline, "Everything runs. Ctrl-C stops it.\n"))
    before = state.read().worker
    assert before
    os.kill(before.process.pid, signal.SIGKILL)
    assert up.stdout.readline() == "The worker died; starting it again.\n"
    after = wait_for(lambda: (now := state.read().worker) and now.process != before.process and now)
    wait_for(lambda: after.name in prefect_client.online_workers(find(settings(state)).api_url, POOL))
    up.send_signal(signal.SIGINT)
    up.communicate(timeout=90)
    assert not alive(after.process)


def wait_for(condition: Callable[[], Any], seconds: float = 60) -> Any:
    """Poll until `condition` is truthy; a bound, so that a failing test ends."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.1)
    raise AssertionError("it did not happen")


@pytest.mark.server
def test_upkeep_has_a_worker_of_its_own(state: StateDirectory, program: Program) -> None:
    """With the first worker at a standstill `reconcile` completes all the same; killed, the upkeep worker is revived."""
    up = program(UP)
    assert up.stdout
    assert "".join(iter(up.stdout.readline, "Everything runs. Ctrl-C stops it.\n"))
    record, api_url = state.read(), find(settings(state)).api_url
    assert record.worker
    assert record.upkeep
    queue = prefect_client.read(api_url, f"/work_pools/{POOL}/queues/upkeep")
    assert queue
    assert queue["priority"] == 1, "a worker that takes all queues begins with it"
    os.kill(record.worker.process.pid, signal.SIGSTOP)
    run_id = start_deployment(api_url, "reconcile", {})
    ended = "select type from flow_run_state where flow_run_id = ? order by timestamp"
    wait_for(lambda: rows(state, ended, run_id)[-1] == ("COMPLETED",))
    os.kill(record.worker.process.pid, signal.SIGCONT)
    os.kill(record.upkeep.process.pid, signal.SIGKILL)
    assert up.stdout.readline() == "The upkeep worker died; starting it again.\n"
    before = record.upkeep.process
    after = wait_for(lambda: (now := state.read().upkeep) and now.process != before and now)
    wait_for(lambda: after.name in prefect_client.online_workers(api_url, POOL))
    assert state.read().worker == record.worker
    up.send_signal(signal.SIGTERM)
    up.communicate(timeout=90)
    assert (up.returncode, alive(after.process)) == (0, False)


def test_stopping_a_worker_stops_its_runs(state: StateDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that would wait for its run, and the run in a session of its own, are both gone."""
    monkeypatch.setattr("avatar.local.start_programs.STOP_SECONDS", 10)
    log = state.log("worker")
    worker = spawn(python("-c", DRAINING), dict(os.environ), log)
    wait_for(lambda: "ready" in log.read_text())
    (run,) = children(worker)
    stop_workers(StartedProgram(process=worker, name="w"))
    assert (alive(run), alive(worker)) == (False, False)


def test_a_stranger_with_a_recorded_pid_is_left_alone() -> None:
    """A pid that was given to another process since is neither alive as ours nor stopped."""
    recorded_before = identify(os.getpid()).model_copy(update={"born": "long ago"})
    stop(recorded_before, grace=0)
    assert not alive(recorded_before)
    assert alive(identify(os.getpid()))


def test_a_started_process_takes_signals_its_starter_ignores(state: StateDirectory) -> None:
    """From a shell job that ignores SIGINT, a service still gets it: Prefect's worker stops by it."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process = spawn(python("-c", "import time; time.sleep(600)"), dict(os.environ), state.log("sleeper"))
    finally:
        signal.signal(signal.SIGINT, before)
    os.kill(process.pid, signal.SIGINT)
    wait_for(lambda: not alive(process), 10)


def test_of_two_that_leave_one_is_last(tmp_path: Path) -> None:
    """Whoever shares a lock cannot have it alone; the last one can, and exactly one is the last."""
    lock = tmp_path / "lock"
    with locks.shared_lock(lock) as one, locks.shared_lock(lock) as other:
        assert not locks.becomes_exclusive(one)
        assert locks.becomes_exclusive(other)


def test_the_record_is_private_and_survives_nonsense(state: StateDirectory) -> None:
    """services.json is for its owner only, and a file nobody can read counts as empty."""
    entry = StartedProgram(process=identify(os.getpid()), port=4200)
    state.change(api=entry)
    assert state.read().api == entry
    assert state.services.stat().st_mode & 0o777 == 0o600
    state.services.write_text("{")
    assert state.read().api is None


def test_a_taken_port_is_avoided() -> None:
    """The preferred port if it is free, another one if it is not."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert free_port(port) not in {0, port}
    assert free_port(port) == port


class _Healthy(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


def test_another_server_on_the_port_is_not_taken_for_ours(
    state: StateDirectory, make_settings: Callable[..., AvatarSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody was faster to it, and answers: the gallery is started again, on another."""
    given = make_settings(state_dir=state.path)
    with ThreadingHTTPServer(("127.0.0.1", 0), _Healthy) as faster:
        Thread(target=faster.serve_forever, daemon=True).start()
        ports = iter([faster.server_port])
        monkeypatch.setattr(start_programs, "free_port", lambda port: next(ports, None) or free_port(port))
        variables = environment(given, Services(None, "", "", False))
        entry = ensure_program(
            state, site_program(state, "gallery", GallerySettings(port=0), variables), lambda: True
        )
        assert entry.port != faster.server_port
        assert alive(entry.process)
        faster.shutdown()


def test_the_environment_carries_every_setting(
    state: StateDirectory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A flow's process reads the very settings of this one, secrets and embedded store included."""
    monkeypatch.chdir(tmp_path)
    given = settings(state, provider="fal", fal={"key": "k-1"}, store={"public_endpoint": "store.example"})
    store = given.store.model_copy(update={"endpoint": "127.0.0.1:9000", "secure": False})
    running = Services(store=store, api_url="http://127.0.0.1:4200/api", ui_url="", started_api=True)
    for name, value in environment(given, running).items():
        monkeypatch.setenv(name, value)
    there = AvatarSettings(_env_file=None)
    assert there == running.applied_to(given)
    assert (there.fal, there.store.public_endpoint) == (FalSettings(key="k-1"), "store.example")
    assert os.environ["PREFECT_API_URL"] == running.api_url


def test_settings_flatten_to_the_names_they_are_read_from() -> None:
    """Nested values become nested names; what is not set is left out."""
    assert flatten("AVATAR_", {"a": {"b": 1, "c": None}, "d": True}) == {
        "AVATAR_A__B": "1",
        "AVATAR_D": "True",
    }


def test_a_workers_fingerprint_follows_its_settings() -> None:
    """The same settings in any order are the same; another value is not, and none can be read back."""
    assert fingerprint({"A": "1", "B": "2"}) == fingerprint({"B": "2", "A": "1"}) != fingerprint({"A": "1"})
    assert "secret" not in fingerprint({"KEY": "secret"})

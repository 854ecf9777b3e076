"""Runs of deployments under `avatar up`: what each costs, by process, and how soon it begins; and what idling costs."""

import os
import signal
import statistics
import subprocess
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx

from avatar.local import find
from avatar.local.processes import command_line
from avatar.local.state_directory import StateDirectory
from avatar.settings import AvatarSettings
from benchmarks.driven import interpreter_beside
from benchmarks.rows import Row
from benchmarks.stage import PORTRAIT, VOICE, Stage, clean_environment
from tests.up import until_ready

BENCH = "runs"
SINGLES, AT_ONCE, ROUNDS = 5, 20, 3
RENDER_SECONDS = 1.0
#: Seconds in which everybody comes to rest, and for which idling is measured: in short, and with --full.
SETTLE, IDLE, IDLE_FULL = 20.0, 60.0, 300.0
TICK = os.sysconf("SC_CLK_TCK")
#: Seconds between two looks at memory, which take some milliseconds for each process.
MEMORY_EVERY = 1.0


@dataclass
class Spent:
    """CPU seconds of every process below `avatar up`, by what it is.

    Looked at ten times a second, since a process that has ended tells nothing any more: of each, the last tenth may lack.
    """

    state: StateDirectory
    seconds: dict[tuple[int, str], float] = field(default_factory=dict)
    kinds: dict[tuple[int, str], str] = field(default_factory=dict)
    most_memory: int = 0
    _done: threading.Event = field(default_factory=threading.Event)

    def watch(self) -> None:
        while not self._done.wait(0.1):
            self.look()

    def watch_memory(self) -> None:
        while not self._done.wait(MEMORY_EVERY):
            self.most_memory = max(self.most_memory, self.memory())

    def memory(self) -> int:
        """Bytes that all of them take now; what several share is counted once (PSS)."""
        return sum(_shared_out(pid) for (pid, _), kind in tuple(self.kinds.items()) if kind)

    def stop(self) -> None:
        self._done.set()

    def look(self) -> None:
        """Every process that has the state directory in its environment, or was started by one that has."""
        known = {pid for pid, _ in self.seconds}
        for entry in Path("/proc").iterdir():
            fields = _fields(entry) if entry.name.isdigit() else []
            if not fields:
                continue
            key = int(entry.name), fields[19]
            if key not in self.kinds and not (self._is_ours(entry) or int(fields[1]) in known):
                self.kinds[key] = ""
            if self.kinds.get(key) != "":
                self.kinds[key] = self._kind(key[0], int(fields[1]))
                self.seconds[key] = (int(fields[11]) + int(fields[12])) / TICK

    def _is_ours(self, entry: Path) -> bool:
        try:
            return f"={self.state.path}".encode() in entry.joinpath("environ").read_bytes()
        except OSError:
            return False

    def _kind(self, pid: int, parent: int) -> str:
        words = " ".join(command_line(pid))
        if not words:  # it has just ended
            return next((kind for key, kind in self.kinds.items() if key[0] == pid and kind), "other")
        if "fork_server" in words:
            return "run" if "fork_server" in " ".join(command_line(parent)) else "fork server"
        names = {
            "flows.api_server": "API",
            "worker start": "worker",
            "flows/launch.py": "worker",
            "media.decoder": "decoder",
            "prefect.engine": "run",
            "_workspace_supervisor": "run",
            "avatar bridge": "bridge",
            "avatar gallery": "gallery",
            "weed": "store",
        }
        return next((kind for word, kind in names.items() if word in words), "other")

    def by_kind(self) -> Counter[str]:
        self.look()
        found = Counter[str]()
        for key, seconds in self.seconds.items():
            found[self.kinds[key]] += seconds
        return found


def _shared_out(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:  # it has ended
        return 0
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def _fields(entry: Path) -> list[str]:
    try:
        return entry.joinpath("stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


@dataclass
class Up:
    """`avatar up`, and the API of its Prefect server."""

    api: httpx.Client
    spent: Spent

    def start(self, deployment: str, parameters: Mapping[str, Any]) -> str:
        """Id of a run that is to begin at once."""
        found = self.api.get(f"/deployments/name/{deployment}").raise_for_status().json()
        body = {"parameters": dict(parameters)}
        for _ in range(30):
            made = self.api.post(f"/deployments/{found['id']}/create_flow_run", json=body)
            if made.is_success:
                return str(made.json()["id"])
            time.sleep(0.2)
        raise RuntimeError(f"no run could be created: {made.text[:300]}")

    def ended(self, run_id: str, seconds: float = 300.0) -> dict[str, Any]:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            run: dict[str, Any] = self.api.get(f"/flow_runs/{run_id}").raise_for_status().json()
            if run["state_type"] in {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}:
                return run
            time.sleep(0.2)
        raise RuntimeError(f"run {run_id} does not end")

    def runs(self) -> int:
        """How many there were and are, but those that are planned."""
        wanted = {"flow_runs": {"state": {"type": {"not_any_": ["SCHEDULED"]}}}}
        return int(self.api.post("/flow_runs/count", json=wanted).raise_for_status().json())


@contextmanager
def running(stage: Stage, variables: Mapping[str, str]) -> Iterator[Up]:
    """`avatar up` in a state directory of its own."""
    state = StateDirectory(stage.folder / f"up-{uuid.uuid4().hex[:6]}")
    environment = clean_environment() | dict(variables) | {"AVATAR_STATE_DIR": str(state.path)}
    command = [interpreter_beside("avatar"), "up"]
    process = subprocess.Popen(command, cwd=stage.folder, env=environment, text=True, stdout=subprocess.PIPE)
    spent = Spent(state)
    watches = [threading.Thread(target=each, daemon=True) for each in (spent.watch, spent.watch_memory)]
    try:
        until_ready(process)
        for watch in watches:
            watch.start()
        api_url = find(AvatarSettings(_env_file=None, state_dir=state.path)).api_url
        with httpx.Client(base_url=api_url, timeout=60) as api:
            yield Up(api, spent)
    finally:
        spent.stop()
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=120)


def measure(stage: Stage) -> list[Row]:
    sandbox = stage.sandbox(render_seconds=RENDER_SECONDS)
    with running(stage, sandbox.fal_env()) as up:
        _job(up)  # after which everybody is warm
        return [*_singles(up), *_idle(up, IDLE_FULL if stage.full else IDLE), *_crowds(up)]


def _job(up: Up) -> str:
    job = {"portrait": str(PORTRAIT), "voice": str(VOICE), "prompt": f"bench {uuid.uuid4()}"}
    return up.start("generate-avatar/generate-avatar", {"job": job})


def _singles(up: Up) -> list[Row]:
    """One job after the other."""
    time.sleep(SETTLE)
    waits, walls, used = [], [], Counter[str]()
    for _ in range(SINGLES):
        before = up.spent.by_kind()
        run = up.ended(_job(up))
        time.sleep(2)  # what it told the server is written down
        used.update(up.spent.by_kind() - before)
        began = _time(run["start_time"])
        waits.append((began - _time(run["expected_start_time"])).total_seconds())
        walls.append(run["total_run_time"] - RENDER_SECONDS)
    spent = {kind: seconds / SINGLES for kind, seconds in used.items()}
    ours = sum(spent.get(kind, 0.0) for kind in ("worker", "run", "fork server", "decoder"))
    what = "single job of a deployment: "
    return [
        Row(BENCH, what + "CPU of worker and run", "s", ours, None, "≤ 1.5 s"),
        *(Row(BENCH, f"{what}CPU of {kind}", "s", seconds) for kind, seconds in sorted(spent.items())),
        Row(BENCH, what + "scheduled → Running", "s", statistics.median(waits), None, "≤ 1.5 s", samples=tuple(waits)),
        Row(BENCH, what + "wall of the run minus render", "s", statistics.median(walls), samples=tuple(walls)),
    ]  # fmt: skip


def _crowds(up: Up) -> list[Row]:
    rows = []
    up.spent.most_memory = 0
    for number in range(1, ROUNDS + 1):
        before, began = up.spent.by_kind(), time.monotonic()
        ids = [_job(up) for _ in range(AT_ONCE)]
        ended = [up.ended(each) for each in ids]
        wall = time.monotonic() - began
        used = up.spent.by_kind() - before
        done = sum(run["state_type"] == "COMPLETED" for run in ended)
        what = f"{AT_ONCE} single jobs at once, time {number}: "
        rows += [
            Row(BENCH, what + "wall", "s", wall, None, "≤ 35 s"),
            Row(BENCH, what + "completed", "", done, None, f"{AT_ONCE}"),
            Row(BENCH, what + "CPU of all but the API", "s", sum(used.values()) - used["API"]),
            Row(BENCH, what + "CPU of the API", "s", used["API"]),
        ]
    most = up.spent.most_memory / 2**20
    return [*rows, Row(BENCH, f"{AT_ONCE} single jobs at once: most memory of all together", "MiB", most)]


def _idle(up: Up, seconds: float) -> list[Row]:
    """With nothing to do."""
    time.sleep(SETTLE)
    before, runs = up.spent.by_kind(), up.runs()
    time.sleep(seconds)
    used = {kind: 60 * spent / seconds for kind, spent in (up.spent.by_kind() - before).items()}
    beyond = sum(spent for kind, spent in used.items() if kind != "API")
    what = f"idle for {seconds:.0f} s: "
    return [
        Row(BENCH, what + "CPU a minute of all but the API", "s", beyond, None, "≤ 0.8 s"),
        *(Row(BENCH, f"{what}CPU a minute of {kind}", "s", spent) for kind, spent in sorted(used.items())),
        Row(BENCH, what + "memory of all together", "MiB", up.spent.memory() / 2**20),
        Row(BENCH, what + "runs started", "", up.runs() - runs, None, "0"),
    ]


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)

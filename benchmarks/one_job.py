"""One job of 8 s while the server is up: how much longer it takes than the render, and the work it takes."""

import json
import subprocess
import time
import uuid
from dataclasses import dataclass

from benchmarks import driven
from benchmarks.driven import OURS, PEER, cpu_seconds, interpreter_beside
from benchmarks.rows import Row, median
from benchmarks.stage import PORTRAIT, VOICE, Stage, peer_environment
from tests.sandbox.running import Sandbox

BENCH = "one-job"
RENDER_SECONDS = 3.0
WARM_JOBS, COLD_RUNS = 5, 3


@dataclass(frozen=True)
class _Needed:
    """By one job: seconds beyond its render, CPU seconds of all its processes but services."""

    beyond: float
    cpu: float


def measure(stage: Stage) -> list[Row]:
    sandbox = stage.sandbox(render_seconds=RENDER_SECONDS)
    ours = driven.run(OURS, stage.order(WARM_JOBS), stage.connected(sandbox.fal_env()))
    peer = driven.run(PEER, stage.peer_order(WARM_JOBS), peer_environment(sandbox))
    warm = [
        [_Needed(each, side.cpu / WARM_JOBS) for each in driven.overheads(side, sandbox)]
        for side in (ours, peer)
    ]
    cold = [[one(stage, sandbox) for _ in range(COLD_RUNS)] for one in (_our_command, _peer_script)]
    return [
        *_rows("in a warm process", *warm, goal="≤ 0.3 s"),
        *_rows("as a command, cold", *cold, goal="≤ 2.0 s"),
    ]


def _rows(how: str, ours: list[_Needed], peer: list[_Needed], *, goal: str) -> list[Row]:
    what = "one 8 s job, {}: " + how
    walls, cpus = [each.beyond for each in ours], [each.cpu for each in ours]
    peers = median([each.beyond for each in peer]), median([each.cpu for each in peer])
    return [
        Row(
            BENCH, what.format("wall minus render"), "s", median(walls), peers[0], goal, samples=tuple(walls)
        ),
        Row(
            BENCH, what.format("CPU of client and decoders"), "s", median(cpus), peers[1], samples=tuple(cpus)
        ),
    ]


def _our_command(stage: Stage, sandbox: Sandbox) -> _Needed:
    prompt = ["--prompt", f"bench {uuid.uuid4()}"]
    command = [interpreter_beside("avatar"), "generate", str(PORTRAIT), str(VOICE), "--json", *prompt]
    began, before = time.monotonic(), cpu_seconds()
    done = subprocess.run(
        command, env=stage.environment(sandbox.fal_env()), cwd=stage.folder, capture_output=True, text=True, check=False
    )  # fmt: skip
    wall, cpu = time.monotonic() - began, cpu_seconds() - before
    if done.returncode:
        raise RuntimeError(f"avatar generate failed ({done.returncode}): {done.stderr[-4000:]}")
    (render,) = json.loads(done.stdout)["renders"]
    return _Needed(wall - _rendering(sandbox, render["request_id"]), cpu)


def _peer_script(stage: Stage, sandbox: Sandbox) -> _Needed:
    began, before = time.monotonic(), cpu_seconds()
    report = driven.run(PEER, stage.peer_order(1, warm=False), peer_environment(sandbox))
    wall, cpu = time.monotonic() - began, cpu_seconds() - before
    return _Needed(wall - _rendering(sandbox, report.jobs[0].request_id), cpu)


def _rendering(sandbox: Sandbox, request_id: str) -> float:
    """Seconds for which the provider had the request."""
    job = driven.rendered(sandbox)[request_id]
    return float(job["ended"] - job["accepted"])

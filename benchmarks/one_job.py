"""One job of 8 s while the server is up: how much longer it takes than the render."""

import json
import subprocess
import time
import uuid

from benchmarks import driven
from benchmarks.driven import OURS, PEER, interpreter_beside
from benchmarks.rows import Row, median
from benchmarks.stage import PORTRAIT, VOICE, Stage, peer_environment
from tests.sandbox.running import Sandbox

BENCH = "one-job"
RENDER_SECONDS = 3.0
WARM_JOBS, COLD_RUNS = 5, 3


def measure(stage: Stage) -> list[Row]:
    sandbox = stage.sandbox(render_seconds=RENDER_SECONDS)
    ours = driven.run(OURS, stage.order(WARM_JOBS), stage.connected(sandbox.fal_env()))
    peer = driven.run(PEER, stage.peer_order(WARM_JOBS), peer_environment(sandbox))
    warm = driven.overheads(ours, sandbox), driven.overheads(peer, sandbox)
    commands = [_our_command(stage, sandbox) for _ in range(COLD_RUNS)]
    scripts = [_peer_script(stage, sandbox) for _ in range(COLD_RUNS)]
    what = "one 8 s job, wall minus render: "
    return [
        _row(what + "in a warm process", *warm, goal="≤ 1.0 s"),
        _row(what + "as a command, cold", tuple(commands), tuple(scripts), goal="≤ 3.5 s"),
    ]


def _row(what: str, ours: tuple[float, ...], peer: tuple[float, ...], *, goal: str) -> Row:
    return Row(BENCH, what, "s", median(ours), median(peer), goal, samples=ours)


def _our_command(stage: Stage, sandbox: Sandbox) -> float:
    prompt = ["--prompt", f"bench {uuid.uuid4()}"]
    command = [interpreter_beside("avatar"), "generate", str(PORTRAIT), str(VOICE), "--json", *prompt]
    began = time.monotonic()
    done = subprocess.run(
        command, env=stage.environment(sandbox.fal_env()), cwd=stage.folder, capture_output=True, text=True, check=False
    )  # fmt: skip
    wall = time.monotonic() - began
    if done.returncode:
        raise RuntimeError(f"avatar generate failed ({done.returncode}): {done.stderr[-4000:]}")
    (render,) = json.loads(done.stdout)["renders"]
    return wall - _rendering(sandbox, render["request_id"])


def _peer_script(stage: Stage, sandbox: Sandbox) -> float:
    began = time.monotonic()
    report = driven.run(PEER, stage.peer_order(1, warm=False), peer_environment(sandbox))
    return time.monotonic() - began - _rendering(sandbox, report.jobs[0].request_id)


def _rendering(sandbox: Sandbox, request_id: str) -> float:
    """Seconds for which the provider had the request."""
    job = driven.rendered(sandbox)[request_id]
    return float(job["ended"] - job["accepted"])

"""Batches: how much longer than the renders they take, and whether work and memory stay flat as they grow."""

import json
import shutil
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

from benchmarks import batched, driven
from benchmarks.batched import Needed
from benchmarks.driven import PEER
from benchmarks.rows import Row
from benchmarks.stage import PORTRAIT, VOICE, Stage, peer_environment
from tests.sandbox.running import Sandbox

BENCH = "batch"
#: Seconds in which the Prefect server writes down what it was told.
AFTERMATH = 3.0


@dataclass(frozen=True)
class Size:
    jobs: int
    at_once: int
    render_seconds: float
    most: float = 1.05  #: of wall ÷ ideal that is to be reached

    @property
    def ideal(self) -> float:
        """Seconds if nothing but rendering took time."""
        return -(-self.jobs // self.at_once) * self.render_seconds

    def __str__(self) -> str:
        return f"{self.jobs} jobs, {self.at_once} at once, {self.render_seconds:g} s renders"


#: As the goals have it; and so that all benchmarks together end in minutes.
PACE_FULL = (Size(200, 50, 3.0, 2.5), Size(200, 50, 30.0), Size(1_000, 50, 5.0))
PACE = (Size(40, 10, 6.0), Size(200, 50, 3.0, 2.5))
GROWTH_FULL = (Size(10, 50, 1.0), Size(1_000, 50, 1.0), Size(10_000, 50, 1.0))
GROWTH = (Size(10, 20, 1.0), Size(100, 20, 1.0))


def measure(stage: Stage) -> list[Row]:
    sizes = GROWTH_FULL if stage.full else GROWTH
    grown = [row for size in sizes for row in _growth(stage, size)]
    paced = [row for size in (PACE_FULL if stage.full else PACE) for row in _pace(stage, size)]
    return [*paced, *grown]


def _pace(stage: Stage, size: Size) -> list[Row]:
    sandbox = stage.sandbox(render_seconds=size.render_seconds)
    ours = _run(stage, sandbox, size)
    peer = driven.run(PEER, stage.peer_order(size.jobs, at_a_time=size.at_once), peer_environment(sandbox))
    peers = max(job.ended for job in peer.jobs) - min(job.began for job in peer.jobs)
    return [
        Row(
            BENCH, f"wall ÷ ideal, {size}", "×", ours.wall / size.ideal, peers / size.ideal, f"≤ {size.most}"
        ),
        Row(BENCH, f"CPU per job, {size}: client alone", "s", ours.cpu / size.jobs, peer.cpu / size.jobs),
        Row(BENCH, f"largest size of the process, {size}", "MiB", ours.peak / 2**20, None, "≤ 400 MiB"),
    ]


def _growth(stage: Stage, size: Size) -> list[Row]:
    sandbox = stage.sandbox(render_seconds=size.render_seconds)
    _ = stage.services
    before = stage.cpu()
    needed = _run(stage, sandbox, size)
    time.sleep(AFTERMATH)
    used = {name: (seconds - before[name]) / size.jobs for name, seconds in stage.cpu().items()}
    client, what = needed.cpu / size.jobs, f"{size.jobs} jobs, {size.at_once} at once: "
    return [
        Row(BENCH, f"CPU per job, {what}client + Prefect server", "s", client + used["server"], None, "≤ 0.3 s"),
        Row(BENCH, f"CPU per job, {what}client alone", "s", client),
        Row(BENCH, f"CPU per job, {what}embedded store", "s", used["store"]),
        Row(BENCH, f"largest size of the process, {what.rstrip(': ')}", "MiB", needed.peak / 2**20, None, "≤ 400 MiB"),
    ]  # fmt: skip


def _run(stage: Stage, sandbox: Sandbox, size: Size) -> Needed:
    folder = Path(stage.folder, f"batch-{uuid.uuid4().hex[:8]}")
    folder.mkdir()
    for source in (PORTRAIT, VOICE):
        shutil.copy(source, folder)
    names = {"portrait": PORTRAIT.name, "voice": VOICE.name}
    # Every row has a prompt of its own, so that none is the same as another.
    rows = (json.dumps({**names, "prompt": f"{folder.name} {number}"}) for number in range(size.jobs))
    (folder / "jobs.jsonl").write_text("\n".join(rows), encoding="utf-8")
    # One process, however large: it is what is measured.
    environment = stage.connected(sandbox.fal_env()) | {
        "AVATAR_BATCH__SHARDS": "1",
        "AVATAR_FAL__AT_ONCE": str(size.at_once),
    }
    needed = batched.run(str(folder / "jobs.jsonl"), size.at_once, environment)
    if needed.published != size.jobs:
        raise RuntimeError(f"{needed.published} of {size.jobs} were published")
    return needed

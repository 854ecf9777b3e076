"""Jobs run by one of the two sides in a process of its own, and what the provider saw of them."""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.sandbox.running import Sandbox

ROOT = Path(__file__).parents[1]
OURS, PEER = "benchmarks.ours", "benchmarks.peer"


@dataclass(frozen=True)
class Order:
    """How many jobs to run, and how.

    Attributes:
        jobs: how many are timed; one more is run before, to be warm.
        at_a_time: how many at once.
        portrait: a path for ours, a URL for the peer.
        voice: likewise.
        gap: seconds between the starts of two jobs, so that their ends do not meet.
        warm: whether to run that one job before.
    """

    jobs: int
    portrait: str
    voice: str
    at_a_time: int = 1
    gap: float = 0.0
    warm: bool = True


@dataclass(frozen=True)
class Job:
    """One job as its side saw it: moments in seconds since the epoch."""

    request_id: str
    began: float
    noticed: float  #: when it learned that the render had ended
    ended: float


@dataclass(frozen=True)
class Report:
    """What a side tells: its timed jobs, and the CPU seconds that these took in its process."""

    jobs: tuple[Job, ...]
    cpu: float

    def tell(self) -> None:
        print(json.dumps(asdict(self)))

    @classmethod
    def read(cls, text: str) -> "Report":
        """From the last line of what a side printed."""
        told = json.loads(text.strip().splitlines()[-1])
        return cls(tuple(Job(**job) for job in told["jobs"]), told["cpu"])


def cpu_seconds() -> float:
    """CPU time of this process and of its children that have ended."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def order_given() -> Order:
    """The order in a side's only argument."""
    return Order(**json.loads(sys.argv[1]))


def start(side: str, order: Order, environment: Mapping[str, str]) -> subprocess.Popen[str]:
    """Have `OURS` or `PEER` carry out `order`, beside whatever else runs."""
    command = [sys.executable, "-m", side, json.dumps(asdict(order))]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, env=dict(environment), stdout=pipe, stderr=pipe, text=True)


def finish(process: subprocess.Popen[str]) -> Report:
    """Wait for the report. Raises `RuntimeError` with the side's last words if it failed."""
    said, complained = process.communicate()
    if process.returncode:
        raise RuntimeError(f"{process.args!r} failed:\n{complained[-4000:]}")
    return Report.read(said)


def run(side: str, order: Order, environment: Mapping[str, str]) -> Report:
    return finish(start(side, order, environment))


def rendered(sandbox: Sandbox) -> dict[str, dict[str, Any]]:
    """The provider's record of each request: `accepted` and `ended` on the clock that `Job` uses."""
    return {job["request_id"]: job for job in sandbox.state()["accepted"]}


def overheads(report: Report, sandbox: Sandbox) -> tuple[float, ...]:
    """Of each job, the seconds during which the provider did not have it."""
    known = rendered(sandbox)
    return tuple(
        job.ended - job.began - (known[job.request_id]["ended"] - known[job.request_id]["accepted"])
        for job in report.jobs
    )


def delays(report: Report, sandbox: Sandbox) -> tuple[float, ...]:
    """Of each job, the seconds from its end at the provider to our knowing of it."""
    known = rendered(sandbox)
    return tuple(job.noticed - known[job.request_id]["ended"] for job in report.jobs)


def interpreter_beside(name: str) -> str:
    """A command installed with this interpreter."""
    return os.fspath(Path(sys.executable).with_name(name))

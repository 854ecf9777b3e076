"""Our side of a batch: `generate_batch` called in one warm process, and what that process needed."""

import asyncio
import json
import resource
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from benchmarks.driven import ROOT, cpu_seconds


@dataclass(frozen=True)
class Needed:
    """Seconds from the call to its end, CPU seconds in between, the process's largest size in bytes."""

    wall: float
    cpu: float
    peak: int
    published: int


def run(manifest: str, at_once: int, environment: Mapping[str, str]) -> Needed:
    """Have a process of its own carry out a manifest."""
    order = json.dumps({"manifest": manifest, "at_once": at_once})
    command = [sys.executable, "-m", "benchmarks.batched", order]
    done = subprocess.run(
        command, cwd=ROOT, env=dict(environment), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"the batch failed:\n{done.stderr[-4000:]}")
    return Needed(**json.loads(done.stdout.strip().splitlines()[-1]))


async def measured(order: Mapping[str, object]) -> Needed:
    from avatar.batch.models import Batch, RowState
    from avatar.media import confined
    from flows.batch import generate_batch

    before, began = cpu_seconds(), time.monotonic()
    summary = await generate_batch(Batch.model_validate(order))
    confined.close()  # what the decoding processes used counts once they have ended
    wall, cpu = time.monotonic() - began, cpu_seconds() - before
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return Needed(wall, cpu, peak, summary.count(RowState.PUBLISHED))


if __name__ == "__main__":
    print(json.dumps(asdict(asyncio.run(measured(json.loads(sys.argv[1]))))))

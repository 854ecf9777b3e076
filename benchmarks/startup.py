"""`avatar --help`: what every use of the command waits for first."""

import subprocess
import sys
import time

from benchmarks.driven import interpreter_beside
from benchmarks.rows import Row, median
from benchmarks.stage import Stage, clean_environment

BENCH = "help"
RUNS = 15


def measure(stage: Stage) -> list[Row]:
    times = tuple(_wall(stage, interpreter_beside("avatar"), "--help") for _ in range(RUNS))
    bare = tuple(_wall(stage, sys.executable, "-c", "pass") for _ in range(RUNS))
    return [
        Row(BENCH, "avatar --help", "s", median(times), None, "≤ 0.3 s", samples=times),
        Row(BENCH, "python -c pass, for comparison", "s", median(bare), None, samples=bare),
    ]


def _wall(stage: Stage, *command: str) -> float:
    began = time.monotonic()
    subprocess.run(command, env=clean_environment(), cwd=stage.folder, capture_output=True, check=True)
    return time.monotonic() - began

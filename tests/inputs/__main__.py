"""`python -m tests.inputs [--seed N] [--cases N] [--minutes N] [--only pictures|sounds]`; exit 1 if anything was not right."""

import argparse
import os
import random
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.inputs import pictures, sounds

KINDS: dict[str, Any] = {"pictures": pictures, "sounds": sounds}
#: Bounds of one input: seconds of processor time, and MiB.
MOST_SECONDS, MOST_MEMORY = 10.0, 1024


def cases(seed: int, count: int, only: str | None = None) -> Iterator[tuple[str, Any]]:
    """Half pictures and half sounds, the same for the same seed."""
    rng = random.Random(seed)
    for number in range(count):
        name = only or sorted(KINDS)[number % len(KINDS)]
        yield name, KINDS[name].draw(rng)


def carry_out(name: str, case: Any) -> str:
    with tempfile.TemporaryDirectory() as folder:
        return KINDS[name].carry_out(case, Path(folder))


def used() -> tuple[float, int]:
    """Seconds of processor time of this process and its children so far, and the most MiB one of them held."""
    seconds, most = sum(os.times()[:4]), 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[1]) == os.getpid():
                seconds += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
                held = (stat.parent / "status").read_text().partition("VmHWM:")[2].split()
                most = max(most, int(held[0]) // 1024 if held else 0)
        except OSError:
            continue
    return seconds, most


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.inputs", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after so many")
    parser.add_argument("--only", choices=sorted(KINDS))
    arguments = parser.parse_args()
    done: Counter[str] = Counter()
    wrong: Counter[str] = Counter()
    slowest: dict[str, float] = defaultdict(float)
    memory = 0
    stopped = time.monotonic() + 60 * arguments.minutes
    for name, case in cases(arguments.seed, arguments.cases, arguments.only):
        if time.monotonic() > stopped:
            break
        before, _ = used()
        fault = carry_out(name, case)
        after, held = used()
        form = f"{name:9} {case.form}"
        done[form] += 1
        slowest[form], memory = max(slowest[form], after - before), max(memory, held)
        if after - before > MOST_SECONDS:
            fault += f" took {after - before:.1f} s"
        if fault:
            wrong[form] += 1
            print(f"{name} | {case} | seed {case.seed} | {fault}", flush=True)
    print(f"{'form':30} {'inputs':>6} {'wrong':>6} {'most CPU-s':>10}")
    for form, count in sorted(done.items()):
        print(f"{form:30} {count:6} {wrong[form]:6} {slowest[form]:10.1f}")
    print(f"{done.total()} inputs, {wrong.total()} not right, the most memory {memory} MiB")
    return 1 if wrong or memory > MOST_MEMORY else 0


if __name__ == "__main__":
    sys.exit(main())

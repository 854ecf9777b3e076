"""`python -m tests.inputs [--seed N] [--cases N] [--only pictures|sounds]`; exit 1 if anything was not right."""

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.inputs import pictures, sounds

KINDS: dict[str, Any] = {"pictures": pictures, "sounds": sounds}


def cases(seed: int, count: int, only: str | None = None) -> Iterator[tuple[str, Any]]:
    """Half pictures and half sounds, the same for the same seed."""
    rng = random.Random(seed)
    for number in range(count):
        name = only or sorted(KINDS)[number % len(KINDS)]
        yield name, KINDS[name].draw(rng)


def carry_out(name: str, case: Any) -> str:
    with tempfile.TemporaryDirectory() as folder:
        return KINDS[name].carry_out(case, Path(folder))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.inputs", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--only", choices=sorted(KINDS))
    arguments = parser.parse_args()
    done: Counter[str] = Counter()
    wrong: list[str] = []
    slowest = 0.0
    for name, case in cases(arguments.seed, arguments.cases, arguments.only):
        began = time.monotonic()
        fault = carry_out(name, case)
        slowest = max(slowest, time.monotonic() - began)
        form = case.container if name == "pictures" else case.form
        done[f"{name:9} {form}"] += 1
        if fault:
            wrong.append(f"{name} | {case} | seed {case.seed} | {fault}")
            print(wrong[-1], flush=True)
    for form, count in sorted(done.items()):
        print(f"{form:22} {count:6}")
    print(f"{sum(done.values())} inputs, {len(wrong)} not right, the slowest took {slowest:.1f} s")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

"""`python -m tests.simulation [--seed N] [--schedules N] [--abreast N] [--tell]`; exit 1 if anything was violated."""

import argparse
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from itertools import count, islice

if os.environ.get("PYTHONHASHSEED") != "0":  # the order of sets is a part of a schedule
    os.environ["PYTHONHASHSEED"] = "0"
    os.execv(sys.executable, [sys.executable, "-m", "tests.simulation", *sys.argv[1:]])

from tests.simulation.run import Outcome, carry_out, prepare, tell

#: Schedules that one process takes at a time.
CHUNK = 250


def main() -> int:
    arguments = parse()
    prepare()
    began, schedules, steps, violated = time.monotonic(), 0, 0, 0
    with suppress(KeyboardInterrupt):
        for outcome in outcomes(arguments):
            schedules, steps = schedules + 1, steps + outcome.steps
            if outcome.violations:
                violated += 1
                print(f"seed {outcome.seed}: {outcome.violations[0]}", flush=True)
                if arguments.tell:
                    print(f"  {tell(outcome.seed)}", flush=True)
    seconds = time.monotonic() - began
    print(
        f"seed {arguments.seed}: {schedules} schedules, {steps} steps, {violated} violations, {seconds:.0f} s "
        f"({schedules / seconds:.0f} schedules a second)"
    )
    return 1 if violated else 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="of the first schedule; the others follow it")
    parser.add_argument("--schedules", type=int, default=2000, help="0: until Ctrl-C")
    parser.add_argument("--abreast", type=int, default=1, help="processes")
    parser.add_argument("--tell", action="store_true", help="tell the story of each violation")
    return parser.parse_args()


def outcomes(arguments: argparse.Namespace) -> Iterator[Outcome]:
    """What came of each schedule, in the order of the seeds."""
    seeds: Iterator[int] = count(arguments.seed)
    if arguments.schedules:
        seeds = islice(seeds, arguments.schedules)
    if arguments.abreast == 1:
        yield from carry_out(seeds)
        return
    with ProcessPoolExecutor(arguments.abreast) as pool:
        while chunks := [list(islice(seeds, CHUNK)) for _ in range(4 * arguments.abreast)]:
            for found in pool.map(_chunk, [chunk for chunk in chunks if chunk]):
                yield from found
            if not chunks[-1]:
                return


def _chunk(seeds: list[int]) -> list[Outcome]:
    return list(carry_out(seeds))


if __name__ == "__main__":
    sys.exit(main())

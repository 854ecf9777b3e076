"""`python -m tests.simulation [--seed N] [--schedules N] [--abreast N] [--tell]`; exit 1 if anything was violated.

With `--mutations`: exit 1 if a defect went unnoticed.
"""

import argparse
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from functools import partial
from itertools import count, islice
from typing import TYPE_CHECKING

if os.environ.get("PYTHONHASHSEED") != "0":  # the order of sets is a part of a schedule
    os.environ["PYTHONHASHSEED"] = "0"
    os.execv(sys.executable, [sys.executable, "-m", "tests.simulation", *sys.argv[1:]])

from tests.simulation import mutations

if TYPE_CHECKING:
    from tests.simulation.run import Outcome

#: Schedules that one process takes at a time.
CHUNK = 250


def main() -> int:
    arguments = parse()
    if arguments.mutations:
        return try_mutations(arguments)
    if arguments.mutate:
        mutations.install(mutations.by_name(arguments.mutate))
    from tests.simulation.run import prepare, tell

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
                if arguments.mutate:
                    break
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
    parser.add_argument("--mutations", action="store_true", help="see that each known defect is noticed")
    parser.add_argument("--mutate", metavar="NAME", help="one defect, until it is noticed")
    parser.add_argument("--tell", action="store_true", help="tell the story of each violation")
    return parser.parse_args()


def try_mutations(arguments: argparse.Namespace) -> int:
    """Carry out schedules with each defect in turn, in a process of its own."""
    from tests.simulation import run  # noqa: F401 - what the product needs is imported once, before the others are made

    mutations.forget_product()
    context = multiprocessing.get_context("fork")
    with context.Pool(arguments.abreast, maxtasksperchild=1) as pool:
        noticed = list(pool.imap(partial(_notice, arguments), range(len(mutations.MUTATIONS)), chunksize=1))
    caught = len(noticed) - noticed.count(None)
    print(f"seed {arguments.seed}: {caught} of {len(noticed)} mutations caught")
    return 0 if None not in noticed else 1


def _notice(arguments: argparse.Namespace, number: int) -> str | None:
    """What the first schedule with a defect tells of it; None if none did."""
    mutation = mutations.MUTATIONS[number]
    arguments.mutate, arguments.abreast, noticed = mutation.name, 1, None
    try:
        mutations.install(mutation)
        from tests.simulation.run import prepare

        prepare()
        bad = (outcome for outcome in outcomes(arguments) if outcome.violations)
        if (first := next(bad, None)) is not None:
            noticed = f"seed {first.seed}: {first.violations[0]}"[:150]
    except Exception as error:  # noqa: BLE001 - told: its text has gone from the code, or it ends the schedules
        print(f"{mutation.name}: {error!r}", flush=True)
    print(f"{mutation.kind:>3}  {mutation.name}: {noticed or 'NOT NOTICED'}", flush=True)
    return noticed


def outcomes(arguments: argparse.Namespace) -> "Iterator[Outcome]":
    """What came of each schedule, in the order of the seeds."""
    from tests.simulation.run import carry_out
    from tests.simulation.scenario import flavour_of

    seeds: Iterator[int] = count(arguments.seed)
    if arguments.mutate and (flavour := mutations.by_name(arguments.mutate).flavour):
        seeds = (seed for seed in seeds if flavour_of(seed).__name__ == flavour)
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


def _chunk(seeds: list[int]) -> "list[Outcome]":
    from tests.simulation.run import carry_out

    return list(carry_out(seeds))


if __name__ == "__main__":
    sys.exit(main())

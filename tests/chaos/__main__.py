"""`python -m tests.chaos [--seed N] [--kills N] [--only ROW...] [--mutate plain-put]`; exit 1 if anything was lost."""

import argparse
import os
import random
import signal
import sys
import time
from collections.abc import Iterator

from tests.chaos import alone, clocks, kills, peer, providers, races, servers, stores, webhooks
from tests.chaos.case import Case, carry_out_all
from tests.chaos.disguises import MUTATIONS
from tests.chaos.ground import OURSELVES, Ground, staged
from tests.chaos.report import Row, faults, settled, table
from tests.chaos.witness import Verdict

#: Names for `--only`.
KINDS = {
    "writes": kills.cases,
    "random": lambda: kills.random_cases(100_000),
    "provider": providers.cases,
    "store": stores.cases,
    "races": races.cases,
    "clock": clocks.cases,
    "prefect": servers.cases,
    "webhooks": webhooks.cases,
    "alone": alone.cases,
}


def main() -> int:
    arguments = parse()
    for name in [name for name in os.environ if name.startswith(OURSELVES)]:
        del os.environ[name]
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    print(f"seed {arguments.seed}", flush=True)
    began = time.monotonic()
    with staged(seed=arguments.seed, mutate=arguments.mutate, abreast=arguments.abreast) as ground:
        verdicts = list(carry_out(ground, arguments))
        compared = [] if arguments.only else [peer.carry_out(ground)]
    print(table(rows(verdicts, compared)))
    print(settled([verdict for _, verdict in verdicts]))
    if found := faults([verdict for _, verdict in verdicts] + [each for each in compared if each.faults]):
        print(found)
    dirty = [verdict for _, verdict in verdicts if not verdict.clean] + [
        each for each in compared if each.faults
    ]
    print(f"seed {arguments.seed}: {len(dirty)} trials with faults, {time.monotonic() - began:.0f} s")
    return 1 if dirty else 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--kills", type=int, default=1200, help="how many at random moments")
    parser.add_argument("--only", nargs="+", choices=KINDS, metavar="KIND", help=", ".join(KINDS))
    parser.add_argument(
        "--match", nargs="+", default=[""], help="only cases whose row or name holds one of these"
    )
    parser.add_argument("--mutate", choices=MUTATIONS, default="", help="a defect that must be noticed")
    parser.add_argument("--abreast", type=int, default=3, help="trials at a time")
    return parser.parse_args()


def carry_out(ground: Ground, arguments: argparse.Namespace) -> Iterator[tuple[Case, Verdict]]:
    for kind in arguments.only or KINDS:
        began, killed = time.monotonic(), 0
        cases = (
            case
            for case in KINDS[kind]()
            if any(words in f"{case.row}: {case.name}" for words in arguments.match)
        )
        for case, verdict in carry_out_all(
            ground, cases, until=arguments.kills if kind == "random" else None
        ):
            killed += verdict.kills
            if not verdict.clean:
                print(faults([verdict]), file=sys.stderr, flush=True)
            yield case, verdict
        print(f"{kind}: {time.monotonic() - began:.0f} s, {killed} kills", file=sys.stderr, flush=True)


def rows(verdicts: list[tuple[Case, Verdict]], compared: list[Verdict]) -> list[Row]:
    names = dict.fromkeys(case.row for case, _ in verdicts)
    found = [Row(name, [verdict for case, verdict in verdicts if case.row == name]) for name in names]
    found.append(Row("all of ours", [verdict for _, verdict in verdicts]))
    return found + [Row(verdict.name, [verdict]) for verdict in compared]


if __name__ == "__main__":
    sys.exit(main())

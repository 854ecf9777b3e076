"""`python -m benchmarks [NAME ...] [--full]`."""

import argparse
import json
import sys
import time
from pathlib import Path

from benchmarks import batch, gallery, growth, one_job, requests, startup, up, voice, waiting, work
from benchmarks.driven import ROOT
from benchmarks.rows import Row, machine, table
from benchmarks.stage import staged

#: In the order they run: the short ones first.
BENCHES = {
    bench.BENCH: bench
    for bench in (startup, voice, gallery, growth, requests, one_job, up, work, batch, waiting)
}
RESULT = ROOT / "out" / "bench.json"


def main() -> int:
    arguments = _parse()
    facts = machine()
    rows: list[Row] = []
    with staged(full=arguments.full) as stage:
        for name in arguments.names or BENCHES:
            began = time.monotonic()
            rows += BENCHES[name].measure(stage)
            print(f"{name}: measured in {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    facts["load_after"] = machine()["load"]
    _print(rows, facts)
    _keep(rows, facts, arguments.out)
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHES))
    parser.add_argument("--full", action="store_true", help="renders of 5 minutes instead of a projection")
    parser.add_argument("--out", type=Path, default=RESULT, metavar="FILE", help="where the numbers are kept")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(BENCHES):
        parser.error(f"there is no {', '.join(sorted(unknown))}; one of {', '.join(BENCHES)}")
    return arguments


def _print(rows: list[Row], facts: dict[str, object]) -> None:
    about = {name: value for name, value in facts.items() if name != "versions"}
    print(", ".join(f"{name} {value}" for name, value in about.items()))
    print(table(rows))


def _keep(rows: list[Row], facts: dict[str, object], target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    found = {"at": at, "machine": facts, "rows": [row.as_json() for row in rows]}
    target.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(f"Kept in {target}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())

"""Whether a known vulnerability is in what requirements.txt pins: one question to the OSV database for all of it.

    python deploy/pins/audit.py

Ends with 1 if there is one that `accepted.txt` does not name. Where the database cannot be reached it says that nothing
was checked, and ends with 0: a network that is down is no vulnerability.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import httpx

HERE = Path(__file__).parent
PINNED = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)==([^\s;\\]+)", re.MULTILINE)
#: The database's own batch endpoint (google.github.io/osv.dev, page post-v1-querybatch); at most 1,000 questions.
OSV = "https://api.osv.dev/v1/querybatch"
PATIENCE = httpx.Timeout(30, connect=10)


def pins(text: str) -> list[tuple[str, str]]:
    """Name and version of every requirement."""
    return PINNED.findall(text)


def accepted(text: str) -> set[str]:
    """The ids of vulnerabilities that somebody looked at; each line has its reason after the id."""
    return {line.split()[0] for line in text.splitlines() if line.strip() and not line.startswith("#")}


def ask(url: str, pinned: Sequence[tuple[str, str]]) -> dict[str, list[str]]:
    """The ids of known vulnerabilities by requirement, of those that have any.

    Raises:
        httpx.HTTPError: the database was not reached, or answered with a failure.
        ValueError: it answered something else.
    """
    questions = [
        {"package": {"name": name, "ecosystem": "PyPI"}, "version": version} for name, version in pinned
    ]
    answer = httpx.post(url, json={"queries": questions}, timeout=PATIENCE).raise_for_status().json()
    if not isinstance(answer, dict) or len(answer.get("results", ())) != len(pinned):
        raise ValueError("an answer that does not fit the question")
    told = zip(pinned, answer["results"], strict=True)
    return {
        f"{name} {version}": [each["id"] for each in found["vulns"]]
        for (name, version), found in told
        if found.get("vulns")
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requirements", type=Path, default=HERE.parents[1] / "requirements.txt")
    parser.add_argument("--accepted", type=Path, default=HERE / "accepted.txt")
    parser.add_argument("--url", default=OSV)
    given = parser.parse_args(argv)
    pinned, known = pins(given.requirements.read_text()), accepted(given.accepted.read_text())
    try:
        found = ask(given.url, pinned)
    except (httpx.HTTPError, ValueError, KeyError, TypeError, AttributeError) as error:
        print(
            f"not checked: {len(pinned)} pinned requirements against known vulnerabilities ({type(error).__name__}: {error})"
        )
        return 0
    new = {name: sorted(set(ids) - known) for name, ids in found.items() if set(ids) - known}
    for name, ids in new.items():
        print(f"vulnerable: {name}: {', '.join(ids)}")
    print(
        f"checked: {len(pinned)} pinned requirements; {len(new)} with vulnerabilities that are not accepted"
    )
    return 1 if new else 0


if __name__ == "__main__":
    sys.exit(main())

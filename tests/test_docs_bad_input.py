"""docs/bad-input.md shows the cases that the tests carry out. `UPDATE_DOCS=1` writes it anew."""

import importlib
import os
import re
import textwrap
from collections import defaultdict
from pathlib import Path
from types import ModuleType

import pytest

from avatar.media.kinds import KINDS
from tests.cases import ACCEPTED

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "bad-input.md"
#: The tables, what people meet first.
NAMES = ("portraits", "voices", "urls", "manifests", "videos", "answers", "webhooks")
#: Tables whose causes are told: the others' texts say it themselves.
WITH_CAUSES = ("portraits", "voices")
#: Examples that are named of what is seen.
EXAMPLES = 2
HEAD = """# Bad input, and what its user sees

Everything that comes in is untrusted. What is refused is refused before money is spent, in one paragraph that names the
file as its user does, says what it is, and what to do. What is taken with a change is told beside the result; what may
be regretted is warned of before it is paid for ([the quote](../README.md) shows it too), and `AVATAR_WARNINGS=refuse`
makes refusals of the warnings.

Pictures, sounds and videos are decoded by a child process without network, other programs or our environment (so no
secrets), with at most 1 GiB of memory, 8 s of processor time and 6 s more for each megabyte of the file. A decoder that
crashes, hangs or asks for more is an error message like the others. On Linux the system enforces all of it; on macOS
it limits time, files and the environment.

<!-- generated from avatar/media/kinds.py and tests/cases by tests/test_docs_bad_input.py -->
"""
KINDS_HEAD = """## Kinds of files

Told by their first bytes, never by their names: "FILE is *kind*, which is not read as a portrait."

"""
#: What the table of kinds says already.
BY_KIND = re.compile(r"is (.*), which is (not read as a (portrait|voice)|no (picture|sound))")
FILE = re.compile(r"^(portrait|voice|video)(\.\w+)?(?= |:)")
#: Alike but for their numbers: the same is seen.
NUMBER = re.compile(r"\d[\d,.:×]*")
DAMAGED = re.compile(r"FILE is an? [^,]*, but damaged")


def tables() -> list[ModuleType]:
    return [importlib.import_module(f"tests.cases.{name}") for name in NAMES]


def section(module: ModuleType) -> str:
    """Cases in which the same is seen are one row, of which a few are named; those the table of kinds tells are none."""
    title, _, about = (module.__doc__ or "").strip().partition("\n")
    taken: list[str] = []
    told: dict[str, tuple[str, list[str]]] = {}
    for name, seen, *_ in module.CASES:
        if seen == ACCEPTED:
            taken.append(name)
        elif not BY_KIND.search(seen):
            for part in _parts(seen):
                told.setdefault(NUMBER.sub("0", part), (part, []))[1].append(name)
    as_it_is = f"Taken as it is: {cell('; '.join(taken))}." if taken else ""
    if module.__name__.rpartition(".")[2] in WITH_CAUSES:
        rows = "".join(f"| {cell(seen)} | {_some(names)} |\n" for seen, names in told.values())
        table = f"| What is seen | When |\n| --- | --- |\n{rows}"
    else:
        table = (
            "\n".join(textwrap.wrap(cell(f"Told: {' · '.join(seen for seen, _ in told.values())}"), 120))
            + "\n"
        )
    return "\n\n".join(part for part in (f"## {title.rstrip('.')}", about.strip(), as_it_is, table) if part)


def _some(names: list[str]) -> str:
    more = len(names) - EXAMPLES
    return cell("; ".join(names[:EXAMPLES])) + (f"; {more} more" if more > 0 else "")


def _parts(seen: str) -> list[str]:
    """What is seen, without the file's name; each note by itself."""
    seen = DAMAGED.sub("FILE is *kind*, but damaged", FILE.sub("FILE", seen))
    if not seen.startswith(f"{ACCEPTED}: "):
        return [seen]
    return [f"{ACCEPTED}: {note}" for note in seen.removeprefix(f"{ACCEPTED}: ").split("; ")]


def cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def kinds() -> str:
    """The table of kinds, as the product has it: what is read, and what to do with what is not."""
    read = {
        what: ", ".join(kind.name for kind in KINDS if what in kind.taken) for what in ("portrait", "voice")
    }
    names = defaultdict(list)
    for kind in KINDS:
        if not kind.taken:
            names[kind.advice].append(kind.name)
    rows = "".join(f"| {cell(', '.join(each))} | {cell(advice)} |\n" for advice, each in names.items())
    return (
        f"{KINDS_HEAD}Read as a portrait: {read['portrait']}.\n\nRead as a voice: {read['voice']}.\n\n"
        f"| Not read | What to do |\n| --- | --- |\n{rows}"
    )


def page() -> str:
    return "\n".join([HEAD, kinds(), *(section(module) for module in tables())])


def test_the_page_shows_the_cases() -> None:
    """docs/bad-input.md is up to date; if not: `UPDATE_DOCS=1 python -m pytest tests/test_docs_bad_input.py`."""
    if os.environ.get("UPDATE_DOCS"):
        PAGE.write_text(page())
    assert PAGE.read_text() == page()


def test_no_table_is_left_out() -> None:
    """Each module of tests/cases has its section."""
    assert {path.stem for path in (HERE / "cases").glob("*.py")} == {"__init__", *NAMES}


@pytest.mark.parametrize("module", tables(), ids=NAMES)
def test_every_case_is_told_once(module: ModuleType) -> None:
    """Each table names its cases apart, and says of each what is seen."""
    names = [name for name, *_ in module.CASES]
    assert len(names) == len(set(names))
    assert all(seen.strip() for _, seen, *_ in module.CASES)

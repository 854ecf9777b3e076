"""docs/bad-input.md shows the cases that the tests carry out. `UPDATE_DOCS=1` writes it anew."""

import importlib
import os
import re
import textwrap
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

import pytest

from avatar.media.kinds import KINDS, Kind
from tests.cases import ACCEPTED

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "bad-input.md"
#: The tables, what people meet first.
NAMES = ("portraits", "voices", "urls", "manifests", "videos", "answers", "webhooks")
#: Tables whose causes are told: the others' texts say it themselves.
WITH_CAUSES = ("portraits", "voices")
#: What only those meet who run the bridge or write an adapter: the text above tells it.
UNTOLD = ("answers", "webhooks")
HEAD = """# Bad input, and what its user sees

What is refused is refused before money is spent, with the file's name, what it is, and what to do. What is taken with a
change is told beside the result. What may be regretted is warned of before it is paid for (see the quote in the
[README](../README.md)); `AVATAR_WARNINGS=refuse` makes refusals of the warnings.

Media are decoded by a child process without network, other programs or secrets, with 1 GiB of memory, 8 s of processor
time and 6 s more for each megabyte of the file (on macOS memory and network are not limited). A decoder that crashes,
hangs or asks for more is an error message like the others.

<!-- generated from avatar/media/kinds.py and tests/cases by tests/test_docs_bad_input.py -->
"""
KINDS_HEAD = """## Kinds of files

Told by their first bytes, never by their names.

"""
#: What the table of kinds says already.
BY_KIND = re.compile(r"is (.*), which is (not read as a (portrait|voice)|no (picture|sound))")
FILE = re.compile(r"^(portrait|voice|video)(\.\w+)?(?= |:)")
ARTICLE = re.compile(r"^an? ")
#: Alike but for their numbers, their parts or what the decoder says: the same is seen.
ALIKE = re.compile(
    r"\(image file.*\)|a (ZIP|PDF|web page)[\w ]*(?= in one)|\S+(?= by its name).*|(?<=converted from )\w+|\d[\d,.:×]*"
)
DAMAGED = re.compile(r"FILE is an? [^,]*, but damaged")


def tables() -> list[ModuleType]:
    return [importlib.import_module(f"tests.cases.{name}") for name in NAMES]


def section(module: ModuleType) -> str:
    """What is taken, with which notes, and what is refused, each once; what the table of kinds tells is left out."""
    title, _, about = (module.__doc__ or "").strip().partition("\n")
    taken: list[str] = []
    told: dict[str, tuple[str, str]] = {}
    for name, seen, *_ in module.CASES:
        if seen == ACCEPTED:
            taken.append(name)
        elif not BY_KIND.search(seen):
            for part in _parts(seen):
                told.setdefault(ALIKE.sub("0", part), (part, name))
    parts = [f"## {title.rstrip('.')}", about.strip()]
    kind = module.__name__.rpartition(".")[2]
    if taken and kind in WITH_CAUSES:
        parts.append(f"Taken as it is: {cell('; '.join(taken))}.")
    if kind in WITH_CAUSES:
        notes = [seen.removeprefix(f"{ACCEPTED}: ") for seen, _ in told.values() if seen.startswith(ACCEPTED)]
        refused = [f"| {cell(seen)} | {cell(name)} |" for seen, name in told.values() if ACCEPTED not in seen]
        parts.append(f"Taken, and told: {cell(' · '.join(notes))}.")
        parts.append("\n".join(["| Refused | For example |", "| --- | --- |", *refused]))
    elif kind not in UNTOLD:
        texts = (seen.removeprefix("could not be fetched: ").rstrip(".") for seen, _ in told.values())
        parts.append(f"Told: {cell(' · '.join(texts))}.")
    return "\n\n".join(_wrapped(part) for part in parts if part) + "\n"


def _wrapped(text: str) -> str:
    return text if text.startswith("|") else textwrap.fill(text, 120)


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
    read = {what: _names(kind for kind in KINDS if what in kind.taken) for what in ("portrait", "voice")}
    others = defaultdict(list)
    for kind in KINDS:
        if not kind.taken:
            others[kind.advice].append(kind)
    rows = "".join(f"| {cell(_names(each))} | {cell(advice)} |\n" for advice, each in others.items())
    lines = (_wrapped(f"Read as a {what}: {names}.") for what, names in read.items())
    return KINDS_HEAD + "\n\n".join(lines) + f"\n\n| Not read | What to do |\n| --- | --- |\n{rows}"


def _names(kinds: Iterable[Kind]) -> str:
    return ", ".join(ARTICLE.sub("", kind.name) for kind in kinds)


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

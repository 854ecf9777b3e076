"""What comes in and should not, and what its user sees: one table a module, shown together in docs/bad-input.md.

A module's docstring is the heading and the text under it. Its `CASES` are tuples that begin with what is given and
what its user is told (the text, or what it is sure to contain). Tests carry the cases out and compare;
`tests/test_docs_bad_input.py` writes the page.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

#: How what is seen begins when the input is taken.
ACCEPTED = "accepted"


class FileCase(NamedTuple):
    """A case that is a file.

    Attributes:
        name: what is given, in a few words.
        seen: the error's text and hint, or `accepted` with the notes shown beside the result.
        file: what it is called.
        write: writes it.
    """

    name: str
    seen: str
    file: str
    write: Callable[[Path], object]

    @property
    def is_refused(self) -> bool:
        return not self.seen.startswith(ACCEPTED)

    def make(self, folder: Path) -> Path:
        path = folder / self.file
        self.write(path)
        return path


def accepted(*notes: str) -> str:
    """What is seen of an input that is taken with these notes."""
    return f"{ACCEPTED}: {'; '.join(notes)}" if notes else ACCEPTED

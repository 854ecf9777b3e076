"""docs/money.md shows the state machine as it is in the code."""

import os
from pathlib import Path

from avatar.money.entries import RenderState, transitions_table

PAGE = Path(__file__).parent.parent / "docs" / "money.md"
END = "<!-- /transitions -->"


def test_the_transitions_in_the_docs_are_those_of_the_code():
    """`REWRITE_DOCS=1 pytest tests/test_docs_money.py` writes the table anew."""
    text = PAGE.read_text()
    head, rest = text.split("tests/test_docs_money.py -->\n", 1)
    table, tail = rest.split(END, 1)
    if os.environ.get("REWRITE_DOCS"):
        PAGE.write_text(f"{head}tests/test_docs_money.py -->\n{transitions_table()}\n{END}{tail}")
        table = f"{transitions_table()}\n"
    assert table.strip() == transitions_table()


def test_every_state_is_explained():
    """No state of the journal is missing from the page."""
    assert [state for state in RenderState if f"| {state} |" not in PAGE.read_text()] == []

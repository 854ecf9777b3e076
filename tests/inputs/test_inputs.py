"""A few of the random inputs; `python -m tests.inputs --cases 10000` carries out more."""

import pytest

from tests.inputs.__main__ import carry_out, cases


@pytest.mark.parametrize(("name", "case"), [pytest.param(*each, id=str(each[1])) for each in cases(7, 16)])
def test_what_is_sent_is_right(name, case):
    """Length to 20 ms and the voice's correlation in mono, colours to 3 of 255, or a refusal that is deserved."""
    assert carry_out(name, case) == ""

"""The list of defects is about the code as it is."""

import pytest

from tests.simulation.mutations import MUTATIONS


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_its_text_is_there_and_what_stands_in_for_it_compiles(mutation):
    """A mutation whose text has gone would break nothing, and be taken for one that is not noticed."""
    compile(mutation.mutated(), mutation.module, "exec")

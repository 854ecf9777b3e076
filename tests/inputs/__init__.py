"""Random inputs of the kinds people have, with what must come of each: `python -m tests.inputs --seed N --cases N`."""

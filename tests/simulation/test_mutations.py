"""Every known defect is noticed."""

import subprocess
import sys

import pytest


@pytest.mark.parts
@pytest.mark.timeout(600)
def test_each_rule_has_a_defect_that_is_caught():
    """Each in a program of its own. A mutation whose text has gone from the code fails it too."""
    command = [
        sys.executable,
        "-m",
        "tests.simulation",
        "--mutations",
        "--schedules",
        "300",
        "--abreast",
        "2",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "NOT NOTICED" not in done.stdout

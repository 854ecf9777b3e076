"""The money rules under two thousand schedules. `make simulate` carries out more."""

import subprocess
import sys

import pytest


@pytest.mark.timeout(600)
def test_nothing_is_paid_twice_lost_or_left_in_silence():
    """Deaths, sleeps, faults of store and provider: no payment too many, none lost, no limit passed, books right."""
    command = [sys.executable, "-m", "tests.simulation", "--schedules", "2000", "--abreast", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "2000 schedules" in done.stdout

"""No secret leaves its place: whatever becomes of a job, nothing that is kept, shown or printed holds one."""

import json
import os
import re
import signal
import sqlite3
from contextlib import closing
from itertools import chain
from pathlib import Path

import pytest

from flows.local.processes import children
from tests.security import searching
from tests.security.conftest import PORTRAIT, House, encodings, until
from tests.security.searching import Places, traces

pytestmark = pytest.mark.server

#: Files that are there to hold secrets; test_file_modes.py sees to it that nobody else may read them.
HOLDERS = {"services.json", "bridge.token", "embedded.json", "s3.json"}


@pytest.fixture(scope="module")
def lived_in(house: House) -> House:
    """A good job, a failing one and a crash in mid-render at each provider, from the UI and from the terminal."""
    hooked = dict(house.secrets)
    echo = f"no: {hooked['fal\'s key']} {hooked['Pixazo\'s key']} http://h/p?X-Amz-Signature={'c0ffee' * 10}"
    for provider, seconds in (("fal", 3.0), ("pixazo", 4.0)):
        house.sandbox.behave("submit", "pace", render_seconds=10)
        crashed = house.start(voice=str(house.voice(seconds)), provider=provider)
        house.sandbox.wait_for("accepts", 1 if provider == "fal" else 4, seconds=90)
        for run in children(house.record.worker.process):
            os.kill(run.pid, signal.SIGKILL)
        house.sandbox.behave("submit", "fail", kind="x", message=echo, status=422)
        failed = house.avatar("--debug", "generate", str(PORTRAIT), str(house.voice(seconds + 2)), "--provider", provider)
        assert failed.returncode == 1
        assert "Traceback" in failed.stderr
        house.sandbox.behave("submit", "fail", kind="x", message=echo, status=422)
        on_worker = house.start(voice=str(house.voice(seconds + 4)), provider=provider)
        until(lambda run=on_worker: house.state_of(run) == "FAILED", 60)
        until(lambda run=crashed: house.state_of(run) == "COMPLETED", 90)
    return house

"""`avatar up` as a process of the tests: what it begins with, and waiting for it."""

import fcntl
import os
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from importlib.metadata import version
from pathlib import Path

#: Made once and kept, as pytest's own cache is; `make clean` removes it.
CACHE = Path(__file__).parents[1] / ".pytest_cache" / "prefect"


def with_database(home: Path) -> None:
    """Put the database of a new Prefect server into its `home`: making it takes five seconds of processor each time.

    Tests of the first start of all do without.
    """
    CACHE.mkdir(parents=True, exist_ok=True)
    made = CACHE / f"{version('prefect')}.db"
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            _make(made)
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    (home / "prefect.db").write_bytes(made.read_bytes())


def _make(target: Path) -> None:
    with tempfile.TemporaryDirectory() as home:
        command = [sys.executable, "-m", "prefect", "--no-prompt", "server", "database", "upgrade", "--yes"]
        subprocess.run(command, env=os.environ | {"PREFECT_HOME": home}, check=True, capture_output=True)
        unfinished = target.with_suffix(".unfinished")
        unfinished.unlink(missing_ok=True)
        with closing(sqlite3.connect(Path(home) / "prefect.db")) as database:
            database.execute("VACUUM INTO ?", (str(unfinished),))
        unfinished.replace(target)


def until_ready(process: "subprocess.Popen[str]") -> str:
    """What `avatar up` says until it is ready; it fails the test if it ends instead."""
    said = []
    for line in process.stdout or ():
        said.append(line)
        if line.startswith("Everything runs."):
            return "".join(said)
    process.communicate()  # so that its pipes are closed
    raise RuntimeError(f"`avatar up` ended with exit {process.returncode}; it said: {''.join(said)}")

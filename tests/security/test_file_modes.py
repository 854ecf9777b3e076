"""What is written on this machine is for its owner only, whatever the umask: it is 0 here."""

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from avatar.settings import AvatarSettings
from avatar.workspace import Workspace
from tests.security.conftest import House

ROOT = Path(__file__).parents[2]
#: Files that hold secrets by their purpose.
HOLDERS = ("services.json", "bridge.token", "store/embedded.json", "store/s3.json")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def no_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.server
def test_files_with_secrets_are_private(house: House) -> None:
    """The record of what runs, the bridge's token and the store's identities: 0600."""
    for name in HOLDERS:
        path = house.state.path / name
        assert any(secret in path.read_text() for secret in house.secrets.values()), name
        assert (name, oct(mode(path))) == (name, "0o600")


@pytest.mark.server
def test_nobody_else_gets_into_the_state_directory(house: House) -> None:
    """0700, and so are the places in it where programs write that we did not write: logs, Prefect, the store."""
    state = house.state.path
    for folder in (state, state / "logs", state / "store", state / "prefect"):
        assert (folder.name, oct(mode(folder))) == (folder.name, "0o700")


def test_a_worker_makes_its_folders_as_private(no_umask: None, tmp_path: Path) -> None:
    """A flow on a machine where nothing was set up makes the state directory for its owner only."""
    settings = AvatarSettings(_env_file=None, state_dir=tmp_path / "new" / "state", store={"endpoint": "x", "access_key": "a", "secret_key": "b"})  # fmt: skip
    scratch = Workspace(settings).scratch
    assert (oct(mode(scratch)), oct(mode(scratch.parent))) == ("0o700", "0o700")


def test_replacing_a_file_does_not_open_it(no_umask: None, tmp_path: Path) -> None:
    """A holder that somebody made readable is private again when it is next written."""
    code = (
        "from pathlib import Path; from avatar.local.state_directory import StateDirectory\n"
        "from avatar.local.processes import Process\n"
        "state = StateDirectory(Path('.')); state.services.touch(mode=0o666)\n"
        "state.change(up=Process(pid=1, born='1'))"
    )
    own = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=own, check=True)
    assert oct(mode(tmp_path / "services.json")) == "0o600"

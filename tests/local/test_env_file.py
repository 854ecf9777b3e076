"""Which file settings are read from: one rule for the command, `avatar up` and workers, told by `avatar doctor`."""

from pathlib import Path

import pytest

from avatar.commands.doctor import settings_file
from avatar.local import Services, environment
from avatar.settings import AvatarSettings


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A directory with a `.env`, and another one, which is entered."""
    started, run = tmp_path / "started", tmp_path / "run"
    started.mkdir()
    run.mkdir()
    (started / ".env").write_text("AVATAR_PROVIDER=fal\nAVATAR_FAL__KEY=k\n")
    monkeypatch.chdir(run)
    return started, run


def test_it_is_that_of_the_working_directory(
    places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a command; PWD may be of another shell."""
    monkeypatch.setenv("PWD", str(places[0]))
    assert AvatarSettings().provider == "preview"
    assert (settings_file().status, str(places[1] / ".env") in settings_file().detail) == ("ok", True)
    monkeypatch.chdir(places[0])
    assert AvatarSettings().provider == "fal"
    assert settings_file().detail == f"from the environment, then {places[0] / '.env'}"


def test_a_run_of_a_worker_reads_that_of_the_worker(
    places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which was started in the directory that PWD names; the run begins in an empty one."""
    monkeypatch.setenv("PWD", str(places[0]))
    monkeypatch.setenv("PREFECT__FLOW_RUN_ID", "a run of a worker")
    assert AvatarSettings().provider == "fal"


def test_another_can_be_named(places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """From anywhere; one that is not there is told, and the environment wins."""
    monkeypatch.setenv("AVATAR_ENV_FILE", str(places[0] / ".env"))
    assert AvatarSettings().provider == "fal"
    monkeypatch.setenv("AVATAR_PROVIDER", "pixazo")
    assert AvatarSettings().provider == "pixazo"
    monkeypatch.setenv("AVATAR_ENV_FILE", str(places[0] / "none"))
    assert settings_file().status == "fail"


def test_workers_of_up_are_told_where_it_was_started(
    places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In PWD, whatever shell started it."""
    monkeypatch.setenv("PWD", "/elsewhere")
    variables = environment(AvatarSettings(_env_file=None), Services(None, "", "", started_api=False))
    assert variables["PWD"] == str(places[1])

"""A setting that cannot be used is named; what was given for it is not told, since it may be a key."""

import json
import os
import subprocess
import sys
import traceback
from pathlib import Path

import pytest

from avatar.local.prefect_client import PrefectAccess
from avatar.settings import AvatarSettings

ROOT = Path(__file__).parents[2]
MARK = "M4RKED-s3cret"

#: Settings as people get them wrong, with a secret somewhere in them; and what is named instead.
BROKEN = {
    "a token that is too short": ({"AVATAR_BRIDGE__TOKEN": MARK}, "bridge.token"),
    "a secret that is too short": ({"AVATAR_BRIDGE__SECRET": MARK}, "bridge.secret"),
    "a key one level too deep": ({"AVATAR_FAL__KEY__VALUE": MARK}, "fal.key"),
    "a key for a whole group": ({"AVATAR_FAL": MARK}, '"fal"'),
    "a key as a list": ({"AVATAR_PIXAZO": json.dumps({"key": [MARK]})}, "pixazo.key"),
    "a misspelt name": ({"AVATAR_STORE__SECRETKEY": MARK}, "store.secretkey"),
    "a secret where a number goes": ({"AVATAR_GALLERY__PORT": MARK}, "gallery.port"),
    "a secret in an address that is none": ({"AVATAR_FAL__QUEUE_URL": f"user:{MARK}@fal"}, "fal.queue_url"),
    "a secret where a choice goes": ({"AVATAR_PROVIDER": MARK}, "provider"),
}
BAD = pytest.mark.parametrize(("variables", "named"), BROKEN.values(), ids=BROKEN)


@BAD
def test_what_was_given_is_in_no_error(
    variables: dict[str, str], named: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Neither the text nor the traceback of the error holds the value: Prefect logs both on a worker."""
    monkeypatch.chdir(tmp_path)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=named) as caught:
        AvatarSettings()
    told = "".join(traceback.format_exception(caught.value)) + repr(caught.value)
    assert MARK not in told
    assert named in told


def test_prefects_own_credentials_are_not_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What is read of Prefect's settings is shown by no repr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", f"admin:{MARK}")
    monkeypatch.setenv("PREFECT_API_KEY", MARK)
    access = PrefectAccess()
    assert MARK in access.headers()["Authorization"]
    assert MARK not in f"{access!r} {access} {access.model_dump_json()}"


def test_settings_that_are_shown_hide_their_secrets() -> None:
    """repr, str and JSON of the settings have asterisks where keys are."""
    secret = {"key": MARK}
    given = AvatarSettings(
        _env_file=None, fal=secret, pixazo=secret, store={"access_key": MARK, "secret_key": MARK},
        gallery={"password": MARK}, bridge={"token": MARK * 2, "secret": MARK * 2}, notify={"apprise_url": MARK},
    )  # fmt: skip
    shown = f"{given!r} {given} {given.model_dump()} {given.model_dump_json()}"
    assert MARK not in shown
    assert shown.count("**********") >= 8


@pytest.mark.parametrize("verb", [["doctor"], ["doctor", "--json"], ["status"], ["--debug", "status"]])
def test_a_command_with_a_broken_secret_names_the_setting(verb: list[str], tmp_path: Path) -> None:
    """One paragraph with the name of the setting, on every stream without its value; also with --debug."""
    own = {"AVATAR_STATE_DIR": str(tmp_path), "AVATAR_BRIDGE__TOKEN": MARK, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "avatar", *verb]
    ended = subprocess.run(
        command, cwd=tmp_path, env=os.environ | own, capture_output=True, text=True, check=False, timeout=60
    )
    assert "AVATAR_BRIDGE__TOKEN: " in ended.stderr
    assert MARK not in ended.stdout + ended.stderr
    assert ended.returncode == (1 if "--debug" in verb else 2)

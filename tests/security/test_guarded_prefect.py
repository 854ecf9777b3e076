"""A Prefect server that asks for a password and has CSRF protection is no obstacle to who has the password."""

import json

import httpx
import pytest

from tests.security.conftest import PORTRAIT, House, until

pytestmark = pytest.mark.server


def test_the_server_is_guarded(house: House) -> None:
    """Without the password it answers nothing but that it lives; without a CSRF token it changes nothing."""
    user, _, password = house.secrets["Prefect's auth string"].partition(":")
    with httpx.Client(base_url=house.api_url, timeout=20) as client:
        assert client.get("/health").status_code == 200
        assert client.get("/admin/version").status_code == 401
        assert client.get("/admin/version", auth=(user, "wrong")).status_code == 401
        assert client.post("/deployments/filter", json={}, auth=(user, password)).status_code == 403
        token = client.get("/csrf-token", params={"client": "x"}, auth=(user, password)).json()["token"]
        headers = {"Prefect-Csrf-Token": token, "Prefect-Csrf-Client": "x"}
        assert client.post("/deployments/filter", json={}, headers=headers).status_code == 401
        known = client.post("/deployments/filter", json={}, headers=headers, auth=(user, password))
        assert known.status_code == 200


def test_a_command_works(house: House) -> None:
    """`avatar generate` renders the free preview against it."""
    voice = str(house.voice(2.5))
    ended = house.avatar("generate", str(PORTRAIT), voice, "--provider", "preview", "--json")
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["state"] == "published"


def test_up_works(house: House) -> None:
    """Deployments, limits and automations are there, the worker is online, and takes a run that it completes."""
    run = house.start(voice=str(house.voice(2.7)), provider="preview")
    until(lambda: house.state_of(run) == "COMPLETED", 90)
    names = {each["name"] for each in house.ask("POST", "/automations/filter", json={})}
    assert {"avatar-crash-zombies", "avatar-resume-crashed", "avatar-notify"} <= names


def test_deploy_works(house: House) -> None:
    """`avatar deploy` again changes nothing and says what is there."""
    ended = house.avatar("deploy", "--json")
    assert ended.returncode == 0, ended.stderr
    assert "generate-avatar/generate-avatar" in json.loads(ended.stdout)["deployments"]


def test_doctor_is_content(house: House) -> None:
    """Store, API and worker are found usable, with nothing said against the API's access."""
    said = json.loads(house.avatar("doctor", "--json").stdout)["findings"]
    found = {finding["name"]: finding["status"] for finding in said}
    assert (found["store"], found["Prefect API"], found["worker"]) == ("ok", "ok", "ok")
    assert (found["bucket access"], found.get("Prefect access")) == ("ok", None)


def test_who_has_no_password_is_told_so(house: House) -> None:
    """The wrong password is named as the reason, and is not shown."""
    house.variables["PREFECT_API_AUTH_STRING"] = "admin:wr0ng-passw0rd"
    try:
        ended = house.avatar("doctor")
    finally:
        house.variables["PREFECT_API_AUTH_STRING"] = house.secrets["Prefect's auth string"]
    assert "check PREFECT_API_URL and PREFECT_API_AUTH_STRING" in ended.stdout
    assert "wr0ng-passw0rd" not in ended.stdout + ended.stderr

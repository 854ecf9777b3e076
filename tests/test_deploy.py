"""What lies under deploy/ holds together: names that refer to one another, pins, and what can be run without a cluster."""

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from avatar.settings import AvatarSettings

DEPLOY = Path(__file__).parents[1] / "deploy"
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
PINNED = re.compile(r"^([A-Za-z0-9_.-]+)==([^ ;\\]+)", re.MULTILINE)
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))


def versions(path: Path) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for name, version in PINNED.findall(path.read_text()):
        found.setdefault(name, set()).add(version)
    return found


@pytest.mark.parametrize("name", sorted(COMPOSE["services"]))
def test_a_service_refers_only_to_what_is_there(name):
    """Its secrets, named volumes, files and the services it waits for exist."""
    service = COMPOSE["services"][name]
    assert set(service.get("secrets", ())) <= set(COMPOSE["secrets"])
    assert set(service.get("depends_on", ())) <= set(COMPOSE["services"])
    for volume in service.get("volumes", ()):
        source = volume.split(":")[0]
        assert source in COMPOSE["volumes"] or source.startswith("./secrets/") or (DEPLOY / source).is_file()


def test_the_database_is_migrated_before_a_server_starts():
    """Two servers on an empty database would race to create its tables."""
    for name in ("api1", "api2", "services"):
        service = COMPOSE["services"][name]
        assert service["depends_on"]["migrate"]["condition"] == "service_completed_successfully"
        assert service["environment"]["PREFECT_API_DATABASE_MIGRATE_ON_START"] == "false"


def test_every_setting_of_the_workers_is_one(monkeypatch):
    """A misspelt AVATAR_ variable would be refused by the settings."""
    for name in ("worker1", "gallery", "bridge"):
        for variable, value in COMPOSE["services"][name]["environment"].items():
            if variable.startswith("AVATAR_"):
                monkeypatch.setenv(variable, value)
    settings = AvatarSettings(_env_file=None)
    assert settings.store.endpoint == "store:8333"


def test_secrets_reach_the_command_and_nothing_else_does(tmp_path):
    """The entry script exports what lies in files, and leaves out what does not."""
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "store_access_key").write_text("an-access-key\n")
    (secrets / "prefect_auth").write_text("user:pass word")
    script = (DEPLOY / "with-secrets.sh").read_text().replace("/run/secrets", str(secrets))
    done = subprocess.run(
        ["/bin/sh", "-c", script, "with-secrets", "env"],
        env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    given = dict(line.split("=", 1) for line in done.stdout.splitlines())
    assert given["AVATAR_STORE__ACCESS_KEY"] == "an-access-key"
    assert given["PREFECT_API_AUTH_STRING"] == given["PREFECT_SERVER_API_AUTH_STRING"] == "user:pass word"
    assert not any(name.startswith(("AVATAR_FAL", "AVATAR_STORE__SECRET")) for name in given)


@pytest.mark.parametrize("name", ["image.txt", "build.txt"])
def test_what_the_image_installs_is_what_was_tested(name):
    """Pins of the image are those of the tests, hashed; what only the image has is Redis for Prefect's servers."""
    tested, there = versions(DEPLOY.parent / "requirements.txt"), versions(DEPLOY / "pins" / name)
    only = {package for package in there if package not in tested}
    assert only <= {"prefect-redis"}
    assert {package: there[package] for package in there if package not in only} == {
        package: there[package] & tested[package] for package in there if package not in only
    }
    assert (DEPLOY / "pins" / name).read_text().count("--hash=sha256:") >= len(there)


def test_the_image_copies_what_there_is():
    copied = re.findall(r"^COPY (?!--from)(.+)$", (DEPLOY / "Containerfile").read_text(), re.MULTILINE)
    for line in copied:
        for source in line.split()[:-1]:
            assert (DEPLOY.parent / source).exists(), source


@pytest.mark.parametrize("unit", UNITS, ids=[unit.stem for unit in UNITS])
def test_a_unit_runs_as_nobody_in_particular(unit):
    """No unit runs as root, and each is started again when it ends."""
    text = unit.read_text()
    assert "DynamicUser=yes" in text
    assert "Restart=always" in text
    assert "ProtectSystem=strict" in text


def test_the_job_template_uses_only_its_own_variables():
    template = json.loads((DEPLOY / "kubernetes" / "job-template.json").read_text())
    used = set(re.findall(r"{{ (\w+) }}", json.dumps(template["job_configuration"])))
    assert used == set(template["variables"]["properties"])

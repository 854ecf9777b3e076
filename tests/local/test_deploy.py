"""What is deployed, for any work pool: no directory, and the image that was asked for."""

import json
import sys
from dataclasses import replace
from typing import Any

import httpx
import pytest

from avatar.errors import AvatarError
from avatar.local import environment
from avatar.local.deploy import (
    WorkPool,
    deploy,
    ensure_pool,
    run_command,
    shipped_file,
    unneeded_schedules,
    wanted_deployments,
)
from avatar.settings import AvatarSettings
from tests.flows.conftest import Local, local  # noqa: F401 - a fixture


@pytest.mark.parametrize("pool", [WorkPool(), WorkPool("cluster", "kubernetes", "registry/avatar:1")])
def test_deployments_name_their_pool_and_no_directory(pool: WorkPool) -> None:
    """Every one, upkeep's queue included; Python does not look into the working directory first."""
    found = wanted_deployments(pool)
    assert found["pull"] == []
    for deployment in found["deployments"]:
        place = deployment["work_pool"]
        assert place["name"] == pool.name
        assert place["job_variables"]["env"]["PYTHONSAFEPATH"] == "1"
        assert place["job_variables"].get("image", "") == pool.image
        assert ":" not in deployment["entrypoint"]
    queues = {deployment["work_pool"].get("work_queue_name") for deployment in found["deployments"]}
    assert queues == {None, "upkeep"}


def test_what_people_start_stands_out() -> None:
    """One tag shows these two, first in the list, and nothing else; each says what it is for."""
    found = wanted_deployments(WorkPool())["deployments"]
    assert [one["name"] for one in found if "by-hand" in one["tags"]] == ["generate-avatar", "generate-batch"]
    assert all(len(one["description"]) > 40 for one in found)


def test_where_something_looks_for_work_nothing_runs_by_the_clock() -> None:
    """On the server of `avatar up` no housekeeping is scheduled; with a rule to delete by, `expire` is."""

    def scheduled(**variables: str) -> set[str]:
        found = wanted_deployments(WorkPool(), idle=unneeded_schedules(variables))["deployments"]
        return {one["name"] for one in found for each in one.get("schedules", ()) if each.get("active", True)}

    assert scheduled() == {"sweep-inbox", "reconcile", "expire"}
    assert scheduled(PREFECT_HOME="/p") == set()
    assert scheduled(PREFECT_HOME="/p", AVATAR_RETENTION__UPLOADS_DAYS="30") == {"expire"}


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere Prefect starts runs")
@pytest.mark.parametrize(
    ("pool", "variables", "forked"),
    [
        (WorkPool(), {"PREFECT_HOME": "/state/prefect"}, True),
        (WorkPool(), {}, False),
        (WorkPool("containers", "docker"), {"PREFECT_HOME": "/state/prefect"}, False),
    ],
)
def test_only_runs_of_this_machines_workers_are_forked(
    pool: WorkPool, variables: dict[str, str], forked: bool
) -> None:
    """The launcher's path is this machine's: with a server of the user's, workers may be anywhere."""
    command = run_command(pool, variables)
    assert command.endswith("flows/launch.py") is forked
    assert bool(command) is forked
    for deployment in wanted_deployments(pool, command=command)["deployments"]:
        assert ("command" in deployment["work_pool"]["job_variables"]) is forked


def test_elsewhere_a_run_is_the_engine_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no fork server, at least one Python less than Prefect starts by itself."""
    monkeypatch.setattr(sys, "platform", "darwin")
    command = run_command(WorkPool(), {"PREFECT_HOME": "/state/prefect"})
    assert command.endswith("-m prefect.engine")
    assert "launch.py" not in command


@pytest.mark.parametrize("kind", ["docker", "kubernetes"])
def test_a_pool_that_runs_images_has_a_template(kind: str) -> None:
    """Every variable that the job names is described, and no default holds a secret."""
    template = json.loads(shipped_file(f"{kind}/job-template.json").read_text())
    named = set(template["variables"]["properties"])
    used = {word.split(" }}")[0] for word in json.dumps(template["job_configuration"]).split("{{ ")[1:]}
    assert used <= named


def deployments(api_url: str, pool: str) -> dict[str, dict[str, Any]]:
    query = {"work_pools": {"name": {"any_": [pool]}}}
    found = httpx.post(f"{api_url}/deployments/filter", json=query, timeout=60).raise_for_status().json()
    return {row["name"]: row for row in found}


@pytest.mark.server
def test_a_pool_of_containers_is_deployed_to_alike(local: Local) -> None:  # noqa: F811 - the fixture's value
    """Pool and deployments are made without the worker's package; repeating changes nothing, another type is refused."""
    running, pool = local.running, WorkPool("containers", "docker", "registry/avatar:1")
    variables = environment(AvatarSettings(_env_file=None, state_dir=local.state_dir), running)
    for _ in range(2):
        ensure_pool(variables, running.api_url, pool)
        names = deploy(variables, pool)
    found = deployments(running.api_url, "containers")
    assert {name.partition("/")[2] for name in names} == set(found)
    assert {row["job_variables"]["image"] for row in found.values()} == {"registry/avatar:1"}
    assert {(row["path"], tuple(row["pull_steps"] or ())) for row in found.values()} == {(None, ())}
    assert found["reconcile"]["work_queue_name"] == "upkeep"
    with pytest.raises(AvatarError, match="of type docker"):
        ensure_pool(variables, running.api_url, replace(pool, type="process"))


def create_run(api_url: str, deployment: str, parameters: dict[str, Any]) -> httpx.Response:
    """Ask for a run as Prefect's UI does."""
    body = {"parameters": parameters, "state": {"type": "SCHEDULED"}}
    return httpx.post(f"{api_url}/deployments/{deployment}/create_flow_run", json=body, timeout=60)


@pytest.mark.server
def test_a_parameter_that_a_flow_does_not_have_is_refused_by_name(local: Local) -> None:  # noqa: F811
    """Beside the job or within it, before there is a run; what stands in prefect.yaml is left as it is."""
    running, pool = local.running, WorkPool("strict", "docker")
    variables = environment(AvatarSettings(_env_file=None, state_dir=local.state_dir), running)
    ensure_pool(variables, running.api_url, pool)
    deploy(variables, pool)
    found = deployments(running.api_url, "strict")
    job = {"portrait": "s3://avatar/a.png", "voice": "s3://avatar/b.mp3"}
    for parameters in ({"job": job, "dry": True}, {"job": job | {"dry": True}}):
        answer = create_run(running.api_url, found["generate-avatar"]["id"], parameters)
        assert (answer.status_code, "'dry'" in answer.text) == (409, True), answer.text
    assert create_run(running.api_url, found["generate-avatar"]["id"], {"job": job}).status_code == 201
    assert found["nightly-batch"]["parameters"]["batch"]["name"] == "nightly"
    said = {each["name"]: each.get("schedules", ()) for each in wanted_deployments(pool)["deployments"]}
    for name, row in found.items():
        assert [each["slug"] for each in row["schedules"]] == [each["slug"] for each in said[name]]

"""What is deployed, for any work pool: no directory, and the image that was asked for."""

import json

import pytest

from avatar.local.deploy import WorkPool, shipped, wanted


@pytest.mark.parametrize("pool", [WorkPool(), WorkPool("cluster", "kubernetes", "registry/avatar:1")])
def test_deployments_name_their_pool_and_no_directory(pool: WorkPool) -> None:
    """Every one, upkeep's queue included; Python does not look into the working directory first."""
    found = wanted(pool)
    assert found["pull"] == []
    for deployment in found["deployments"]:
        place = deployment["work_pool"]
        assert place["name"] == pool.name
        assert place["job_variables"]["env"]["PYTHONSAFEPATH"] == "1"
        assert place["job_variables"].get("image", "") == pool.image
        assert ":" not in deployment["entrypoint"]
    queues = {deployment["work_pool"].get("work_queue_name") for deployment in found["deployments"]}
    assert queues == {None, "upkeep"}


@pytest.mark.parametrize("kind", ["docker", "kubernetes"])
def test_a_pool_that_runs_images_has_a_template(kind: str) -> None:
    """Every variable that the job names is described, and no default holds a secret."""
    template = json.loads(shipped(f"{kind}/job-template.json").read_text())
    named = set(template["variables"]["properties"])
    used = {word.split(" }}")[0] for word in json.dumps(template["job_configuration"]).split("{{ ")[1:]}
    assert used <= named

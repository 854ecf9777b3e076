"""Deployments, limits and automations on a Prefect server, by processes of their own: Prefect is not imported here."""

import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml  # type: ignore[import-untyped]

from avatar.errors import AvatarError
from avatar.local.prefect_client import ask, change, create, read
from avatar.local.processes import python
from avatar.local.start_programs import POOL, UPKEEP_QUEUE


@dataclass(frozen=True)
class WorkPool:
    """Where runs are to start. `image` is for types whose runs have one; empty means the pool's own."""

    name: str = POOL
    type: str = "process"
    image: str = ""


def deploy(variables: Mapping[str, str], pool: WorkPool | None = None) -> list[str]:
    """Create or update every deployment of prefect.yaml, the limits and the automations; repeating changes nothing.

    The work pool is there.

    Returns:
        The names of the deployments.

    Raises:
        AvatarError: Prefect refused; the text holds its last words.
    """
    pool = pool or WorkPool()
    _ensure_queue(variables["PREFECT_API_URL"], pool)
    # Wide, so that no name is broken over two lines.
    wide = {**os.environ, **variables, "COLUMNS": "400", "NO_COLOR": "1"}
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(1) as beside:
        # Its place is nobody's project, so that nothing is taken from there.
        written = Path(folder) / "prefect.yaml"
        idle = unneeded_schedules(variables)
        written.write_text(
            yaml.safe_dump(wanted_deployments(pool, command=run_command(pool, variables), idle=idle))
        )
        automations = beside.submit(_run, python("-m", "flows.automations"), wide, "automations and limits")
        command = python("-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(written))
        said = _run(command, wide, "deployments", folder)
        automations.result()
    _refuse_other_parameters(variables["PREFECT_API_URL"], pool)
    return re.findall(r"Deployment '(.+?)' successfully", said)


def run_command(pool: WorkPool, variables: Mapping[str, str]) -> str:
    """How the workers of `avatar up` start a run: in a fork of a process that has Prefect imported.

    On other platforms than Linux as the engine itself, without the process that Prefect would start before it. Empty where
    the workers may be on other machines: Prefect's own way.
    """
    if pool != WorkPool() or "PREFECT_HOME" not in variables:
        return ""
    if sys.platform != "linux":
        return shlex.join(python("-m", "prefect.engine"))
    return shlex.join(python("-I", "-S", str(Path(__file__).parents[2] / "flows" / "launch.py")))


def unneeded_schedules(variables: Mapping[str, str]) -> frozenset[str]:
    """Deployments whose schedules would start runs that find nothing to do.

    On the server of `avatar up` its bridge looks for work and starts them; elsewhere nobody may.
    """
    if "PREFECT_HOME" not in variables:
        return frozenset()
    rules = any(name.startswith("AVATAR_RETENTION__") for name in variables)
    return frozenset({"sweep-inbox", "reconcile"} | (set() if rules else {"expire"}))


def wanted_deployments(
    pool: WorkPool, *, command: str = "", idle: AbstractSet[str] = frozenset()
) -> dict[str, Any]:
    """What prefect.yaml says, for this pool. The schedules of the deployments `idle` are switched off."""
    found: dict[str, Any] = yaml.safe_load(shipped_file("prefect.yaml").read_text())
    del found["definitions"]  # its anchors are resolved
    for deployment in found["deployments"]:
        place = deployment["work_pool"]
        more = {"image": pool.image, "command": command}
        variables = place.get("job_variables", {}) | {name: value for name, value in more.items() if value}
        deployment["work_pool"] = place | {"name": pool.name, "job_variables": variables}
        if deployment["name"] in idle:
            deployment["schedules"] = [each | {"active": False} for each in deployment["schedules"]]
    return found


def ensure_pool(variables: Mapping[str, str], api_url: str, pool: WorkPool) -> None:
    """Create the work pool, unless it is there: `avatar up` leaves that to its worker.

    Raises:
        AvatarError: Prefect refused or did not answer, or there is one of another type.
    """
    try:
        found = read(api_url, f"/work_pools/{pool.name}")
    except httpx.HTTPError as error:
        raise AvatarError(f"The work pool could not be looked at. Nothing was changed. {error}") from error
    if found is None:
        template = (
            []
            if pool.type == "process"
            else ["--base-job-template", str(shipped_file(f"{pool.type}/job-template.json"))]
        )
        command = python(
            "-m", "prefect", "--no-prompt", "work-pool", "create", pool.name, "--type", pool.type, *template
        )
        _run(command, {**os.environ, **variables}, "work pool")
    elif found["type"] != pool.type:
        raise AvatarError(
            f"The work pool {pool.name!r} is of type {found['type']}, not {pool.type}. Nothing was changed.",
            hint="Give its type with --type, or another name with --pool.",
        )


def _ensure_queue(api_url: str, pool: WorkPool) -> None:
    """Before a deployment makes it and gives it the last place: a worker that takes all queues begins with this one."""
    queues = f"/work_pools/{pool.name}/queues"
    try:
        if read(api_url, f"{queues}/{UPKEEP_QUEUE}") is None:
            create(api_url, queues, {"name": UPKEEP_QUEUE, "priority": 1})
    except httpx.HTTPError as error:
        raise AvatarError(f"The work queue could not be created. Nothing was spent. {error}") from error


def _refuse_other_parameters(api_url: str, pool: WorkPool) -> None:
    """A run with a parameter that its flow does not have is refused when it is asked for, and the parameter named.

    Prefect's own schema lets it pass, and the run ends before the flow could say why.
    """
    try:
        for found in ask(api_url, "/deployments/filter", {"work_pools": {"name": {"any_": [pool.name]}}}):
            if "avatar" in found["tags"]:
                closed = (found["parameter_openapi_schema"] or {}) | {"additionalProperties": False}
                change(api_url, f"/deployments/{found['id']}", {"parameter_openapi_schema": closed})
    except httpx.HTTPError as error:
        raise AvatarError(
            f"The deployments were made, but not finished. Nothing was spent. {error}"
        ) from error


def _run(command: Sequence[str], environment: Mapping[str, str], what: str, folder: str | None = None) -> str:
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)  # noqa: S603 (fixed arguments)
    if done.returncode:
        words = "\n".join((done.stdout + done.stderr).strip().splitlines()[-12:])
        raise AvatarError(f"The {what} could not be created. Nothing was spent. Prefect said:\n{words}")
    return done.stdout


def shipped_file(name: str) -> Path:
    """prefect.yaml or a base job template: in a checkout, or inside the installed package."""
    package = Path(__file__).parents[1]
    for candidate in (
        package.parent / name,
        package.parent / "deploy" / name,
        package / name,
        package / "deploy" / name,
    ):
        if candidate.is_file():
            return candidate
    raise AvatarError(
        f"There is no {name} beside this installation, so there is nothing to deploy.",
        hint="install from a checkout with `pip install -e .`",
    )

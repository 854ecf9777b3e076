"""Deployments, limits and automations on a Prefect server, by processes of their own: Prefect is not imported here."""

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

import avatar
from avatar.errors import AvatarError
from avatar.local.prefect_api import create, read
from avatar.local.processes import python
from avatar.local.worker import POOL, UPKEEP


def deploy(variables: Mapping[str, str]) -> list[str]:
    """Create or update every deployment of prefect.yaml, the limits and the automations; repeating changes nothing.

    The work pool is there.

    Returns:
        The names of the deployments.

    Raises:
        AvatarError: Prefect refused; the text holds its last words.
    """
    _ensure_queue(variables["PREFECT_API_URL"])
    # Wide, so that no name is broken over two lines.
    wide = {**os.environ, **variables, "COLUMNS": "400", "NO_COLOR": "1"}
    with ThreadPoolExecutor(1) as beside:
        automations = beside.submit(_run, python("-m", "flows.automations"), wide, "automations and limits")
        said = _run(
            python("-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(prefect_file())),
            wide,
            "deployments",
        )
        automations.result()
    return re.findall(r"Deployment '(.+?)' successfully", said)


def ensure_pool(variables: Mapping[str, str], api_url: str) -> None:
    """Create the work pool, unless it is there: `avatar up` leaves that to its worker.

    Raises:
        AvatarError: Prefect refused.
        httpx.HTTPError: the API did not answer.
    """
    if read(api_url, f"/work_pools/{POOL}") is None:
        command = python("-m", "prefect", "--no-prompt", "work-pool", "create", POOL, "--type", "process")
        _run(command, {**os.environ, **variables}, "work pool")


def _ensure_queue(api_url: str) -> None:
    """Before a deployment makes it and gives it the last place: a worker that takes all queues begins with this one."""
    queues = f"/work_pools/{POOL}/queues"
    try:
        if read(api_url, f"{queues}/{UPKEEP.queue}") is None:
            create(api_url, queues, {"name": UPKEEP.queue, "priority": 1})
    except httpx.HTTPError as error:
        raise AvatarError(f"The work queue could not be created. Nothing was spent. {error}") from error


def _run(command: Sequence[str], environment: Mapping[str, str], what: str) -> str:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)  # noqa: S603 (fixed arguments)
    if done.returncode:
        words = "\n".join((done.stdout + done.stderr).strip().splitlines()[-12:])
        raise AvatarError(f"The {what} could not be created. Nothing was spent. Prefect said:\n{words}")
    return done.stdout


def prefect_file() -> Path:
    """prefect.yaml: at the root of a checkout, or inside the installed package."""
    package = Path(avatar.__file__).parent
    for candidate in (package.parent / "prefect.yaml", package / "prefect.yaml"):
        if candidate.is_file():
            return candidate
    raise AvatarError(
        "There is no prefect.yaml beside this installation, so there is nothing to deploy.",
        hint="install from a checkout with `pip install -e .`",
    )

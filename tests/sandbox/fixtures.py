"""pytest fixtures: one sandbox for the session, fresh for each test, and plain clients of its two wires."""

from collections.abc import Iterator

import httpx
import pytest

from tests.sandbox.running import Sandbox
from tests.sandbox.samples import served


@pytest.fixture(scope="session")
def sandbox_process() -> Iterator[Sandbox]:
    """A quick sandbox: renders take 0.2 s. Another pace is a `reset(render_seconds=…)` away."""
    with Sandbox.start(render_seconds=0.2) as running:
        yield running


@pytest.fixture
def sandbox(sandbox_process: Sandbox) -> Sandbox:
    sandbox_process.reset()
    return sandbox_process


@pytest.fixture(scope="session")
def sandbox_inputs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Base URL of the files of `samples`."""
    with served(tmp_path_factory.mktemp("samples")) as url:
        yield url


@pytest.fixture
def fal_wire(sandbox: Sandbox) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Key {sandbox.key}"}
    with httpx.Client(base_url=sandbox.url, headers=headers, timeout=20, trust_env=False) as client:
        yield client


@pytest.fixture
def pixazo_wire(sandbox: Sandbox) -> Iterator[httpx.Client]:
    headers = {"Ocp-Apim-Subscription-Key": sandbox.key, "Cache-Control": "no-cache"}
    with httpx.Client(base_url=sandbox.url, headers=headers, timeout=20, trust_env=False) as client:
        yield client

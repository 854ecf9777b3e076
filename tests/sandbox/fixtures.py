"""pytest fixtures: one sandbox for the session, fresh for each test."""

from collections.abc import Iterator

import pytest

from tests.sandbox.running import Sandbox


@pytest.fixture(scope="session")
def sandbox_process() -> Iterator[Sandbox]:
    """A quick sandbox: renders take 0.2 s. Another pace is a `reset(render_seconds=…)` away."""
    with Sandbox.start(render_seconds=0.2) as running:
        yield running


@pytest.fixture
def sandbox(sandbox_process: Sandbox) -> Sandbox:
    sandbox_process.reset()
    return sandbox_process

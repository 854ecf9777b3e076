"""A local Prefect server for the session, and flows run against it as from Python."""

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from avatar.local import Services, environment, services
from avatar.models import AvatarJob, Video
from avatar.settings import AvatarSettings
from tests.sandbox.fixtures import sandbox, sandbox_process  # noqa: F401 - fixtures
from tests.up import with_database

ROOT = Path(__file__).parents[2]
PORTRAIT = ROOT / "examples" / "portrait.png"
#: Prefect asks the server for its default result storage with a client that it never closes (prefect/results.py).
PREFECTS_SOCKETS = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
VOICE = ROOT / "examples" / "speech.mp3"


@dataclass(frozen=True)
class Local:
    """Services that run for the session, and the state directory every command finds them by."""

    state_dir: Path
    running: Services


@pytest.fixture(scope="session")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Local]:
    """The embedded store and a Prefect server, started once."""
    from avatar.commands.generate import drain_prefect

    state_dir = tmp_path_factory.mktemp("local")
    with_database(state_dir / "prefect")
    with services(AvatarSettings(_env_file=None, state_dir=state_dir)) as running:
        yield Local(state_dir, running)
        asyncio.run(drain_prefect())  # Prefect's threads would look for the server for a minute


@dataclass(frozen=True)
class Run:
    """One flow run, and what the Prefect API says about it."""

    api_url: str
    flow_run_id: str
    outcome: Any

    @property
    def video(self) -> Video:
        assert isinstance(self.outcome, Video), self.outcome
        return self.outcome

    def task_runs(self, at_least: int) -> list[dict[str, Any]]:
        """The task runs that have ended, once there are so many: the server records them with a delay."""
        return self._until("/task_runs/filter", "flow_runs", "id", lambda row: row["end_time"], at_least)

    def logs(self, last_words: str) -> list[str]:
        """The run's log, once it holds `last_words`."""
        rows = self._until("/logs/filter", "logs", "flow_run_id", lambda row: last_words in row["message"], 1)
        assert rows
        return [row["message"] for row in self._rows("/logs/filter", "logs", "flow_run_id")]

    def artifacts(self, kind: str) -> list[dict[str, Any]]:
        wanted = {"flow_run_id": {"any_": [self.flow_run_id]}, "type": {"any_": [kind]}}
        found: list[dict[str, Any]] = httpx.post(
            f"{self.api_url}/artifacts/filter", json={"artifacts": wanted}, timeout=20
        ).json()
        return found

    def _until(
        self, path: str, kind: str, field: str, wanted: Callable[[Any], Any], at_least: int
    ) -> list[Any]:
        deadline = time.monotonic() + 30
        while True:
            found = [row for row in self._rows(path, kind, field) if wanted(row)]
            if len(found) >= at_least or time.monotonic() > deadline:
                return found
            time.sleep(0.2)

    def _rows(self, path: str, kind: str, field: str) -> list[dict[str, Any]]:
        query = {kind: {field: {"any_": [self.flow_run_id]}}, "limit": 200}
        rows: list[dict[str, Any]] = (
            httpx.post(self.api_url + path, json=query, timeout=20).raise_for_status().json()
        )
        return rows


Produce = Callable[..., Awaitable[Run]]


@pytest.fixture
async def produce(
    local: Local,
    make_settings: Callable[..., AvatarSettings],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> AsyncIterator[Produce]:
    """Runs `generate_avatar` on this test's bucket; keywords are environment variables."""
    from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

    from flows.generate import generate_avatar

    monkeypatch.chdir(tmp_path)  # away from a developer's .env
    without_store = replace(local.running, store=None)  # the test has a bucket of its own
    for name, value in environment(make_settings(), without_store).items():
        monkeypatch.setenv(name, value)
    api_url = local.running.api_url

    async def run(job: AvatarJob, *, flow: Any = generate_avatar, **variables: str) -> Run:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        with temporary_settings({PREFECT_API_URL: api_url, PREFECT_HOME: local.state_dir / "prefect"}):
            state: Any = await flow(job, return_state=True)
            outcome = await state.aresult(raise_on_failure=False)
        return Run(api_url, str(state.state_details.flow_run_id), outcome)

    yield run
    gc.collect()  # see PREFECTS_SOCKETS: they are to be found here and not in a later test

import asyncio
import hashlib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from avatar import waiting
from avatar.models import Plan
from avatar.money.quote import quote_render
from avatar.settings_sections import StoreSettings
from avatar.stored_models import Asset
from avatar.workspace import Workspace
from tests.money.clock import QuickLoop
from tests.money.scripted import Scripted, make_plan
from tests.sandbox import samples
from tests.sandbox.renderer import Look, render
from tests.store.memory import MemoryStore

SECONDS = 8.0


def pytest_asyncio_loop_factories() -> dict[str, type[QuickLoop]]:
    """Leases run out and minutes of tries again pass at once."""
    return {"quick": QuickLoop}


@pytest.fixture(scope="session")
def inputs(tmp_path_factory) -> Path:
    """A folder with a portrait and a voice of eight seconds."""
    folder = tmp_path_factory.mktemp("inputs")
    samples.make_inputs(folder)
    samples.write_voice(folder / "eight.wav", SECONDS)
    return folder


@pytest.fixture(scope="session")
def footage(inputs) -> Path:
    """Those eight seconds as a talking picture, as a provider would return it."""
    target = inputs / "footage.mp4"
    voice = (inputs / "eight.wav").read_bytes()
    render((inputs / "portrait.png").read_bytes(), voice, target, Look(320, 25, 0.04))
    return target


@pytest.fixture
def store_settings() -> StoreSettings:
    """Settings of a store that nobody connects to: `make_workspace` puts the one in memory in its place."""
    return StoreSettings(endpoint="memory.invalid", access_key="test", secret_key="test")


@pytest.fixture
async def store(monkeypatch) -> MemoryStore:
    """A store in memory, which all workspaces of a test share; it and they go by the loop's clock."""
    store, loop = MemoryStore(), asyncio.get_running_loop()
    monkeypatch.setattr(waiting, "time", loop.clocks())
    store.server.machine = lambda: datetime.now(UTC) + timedelta(seconds=loop.clock.ahead)
    await store.ensure_bucket()
    return store


@pytest.fixture
async def plan(store, inputs) -> Plan:
    """A plan whose assets are in the store."""
    assets = []
    for name in ("portrait.png", "eight.wav"):
        data = (inputs / name).read_bytes()
        sha256 = hashlib.sha256(data).hexdigest()
        key = f"assets/{sha256}.{name.rsplit('.', 1)[-1]}"
        assets.append(Asset(key=key, sha256=sha256, size=len(data), content_type="application/octet-stream"))
        await store.put(key, data, content_type="application/octet-stream", metadata={"sha256": sha256})
    return make_plan(*assets, seconds=SECONDS)


@pytest.fixture
async def make_workspace(make_settings, store):
    """Workspaces on this test's store, each like a process of its own, with a scripted provider."""
    opened = []

    def make(provider: Scripted, **overrides) -> Workspace:
        workspace = Workspace(make_settings(**overrides))
        workspace.store = workspace.journal.store = workspace.budget.store = store
        workspace._providers[provider.name, provider.model] = provider
        opened.append(workspace)
        return workspace

    yield make
    for workspace in opened:
        await workspace.aclose()


@pytest.fixture
def render_id(make_workspace, plan):
    return quote_render(make_workspace(Scripted()), plan, plan.segments[0]).render_id

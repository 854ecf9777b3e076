import hashlib

import pytest

from tasks.models import Asset, Plan
from tasks.workspace import Workspace
from tests.renders.scripted import Scripted, make_plan


def asset(name: str, extension: str) -> Asset:
    sha256 = hashlib.sha256(name.encode()).hexdigest()
    return Asset(key=f"assets/{sha256}.{extension}", sha256=sha256, size=len(name), content_type="application/octet-stream")


@pytest.fixture
async def plan(store) -> Plan:
    """A plan whose assets are in the store."""
    assets = [asset("portrait", "png"), asset("voice", "mp3")]
    for each, data in zip(assets, (b"portrait", b"voice"), strict=True):
        await store.put(each.key, data, content_type=each.content_type, metadata={"sha256": each.sha256})
    return make_plan(*assets)


@pytest.fixture
async def make_workspace(make_settings):
    """Workspaces on this test's bucket, each like a process of its own, with a scripted provider."""
    opened = []

    def make(provider: Scripted, **overrides) -> Workspace:
        workspace = Workspace(make_settings(**overrides))
        workspace._providers[provider.name] = provider
        opened.append(workspace)
        return workspace

    yield make
    for workspace in opened:
        await workspace.aclose()

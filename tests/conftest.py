"""What every test may ask for: the embedded store, a store of its own, settings that touch nothing else."""

import asyncio
import os
import secrets

# Prefect reads these when it is imported.
for name in [name for name in os.environ if name.startswith("AVATAR_")]:
    del os.environ[name]
os.environ["PREFECT_SERVER_EPHEMERAL_ENABLED"] = "false"
os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"
os.environ["DO_NOT_TRACK"] = "1"

import pytest

from tasks.settings import AvatarSettings, StoreSettings
from tasks.storage import embedded
from tasks.storage.embedded import EmbeddedStore
from tasks.storage.store import Store


@pytest.fixture(scope="session")
def seaweed(tmp_path_factory):
    """The embedded store, started once for all tests."""
    running = embedded.start(tmp_path_factory.mktemp("seaweed"))
    yield running
    embedded.stop(running.pid)


@pytest.fixture
def store_settings(seaweed: EmbeddedStore) -> StoreSettings:
    """Settings of a bucket that no other test uses; the bucket is made."""
    settings = embedded.settings_for(seaweed, f"test-{secrets.token_hex(6)}")

    async def make_bucket() -> None:
        maker = Store(settings)
        await maker.ensure_bucket()
        await maker.aclose()

    asyncio.run(make_bucket())
    return settings


@pytest.fixture
async def store(store_settings: StoreSettings):
    """A store on a bucket that no other test uses."""
    opened = Store(store_settings)
    yield opened
    await opened.aclose()


@pytest.fixture
def make_settings(store_settings: StoreSettings, tmp_path):
    """Settings for this test's bucket and directory; overrides by section name, as dicts or models."""

    def make(**overrides) -> AvatarSettings:
        given = {
            "state_dir": tmp_path / "state",
            "store": store_settings,
            "download": {"allow_private_hosts": True},
        }
        return AvatarSettings(_env_file=None, **(given | overrides))

    return make

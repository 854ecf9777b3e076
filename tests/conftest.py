"""What every test may ask for: the embedded store, a store of its own, settings that touch nothing else."""

import asyncio
import os
import secrets
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from avatar.local import embedded_store
from avatar.local.embedded_store import EmbeddedStore
from avatar.settings import AvatarSettings
from avatar.settings_sections import StoreSettings
from avatar.store.store import Store

pytest_plugins = ["tests.sandbox.fixtures"]

# Nothing imported above reads the environment. Prefect does when it is imported, which test modules do later.
for name in [name for name in os.environ if name.startswith("AVATAR_")]:
    del os.environ[name]
for name in ("PREFECT_API_URL", "PREFECT_API_KEY"):
    os.environ.pop(name, None)
os.environ["PREFECT_SERVER_EPHEMERAL_ENABLED"] = "false"
os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"
os.environ["DO_NOT_TRACK"] = "1"
# A shell starts its background jobs deaf to Ctrl-C, and whatever they start; some tests press it.
signal.signal(signal.SIGINT, signal.default_int_handler)
# A property does not fail because the machine has much else to do.
hypothesis.settings.register_profile("suite", hypothesis.settings(), deadline=None)
hypothesis.settings.load_profile("suite")


@pytest.fixture(scope="session")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedStore]:
    """The embedded store, started once for all tests."""
    running = embedded_store.start(tmp_path_factory.mktemp("seaweed"))
    yield running
    embedded_store.stop(running, wait_seconds=0)


@pytest.fixture(scope="session")
def fresh_buckets(seaweed: EmbeddedStore) -> Iterator[Callable[[], StoreSettings]]:
    """Gives settings of buckets that nobody has used, made ahead: SeaweedFS takes 0.2 s for a first write."""

    async def make_bucket() -> StoreSettings:
        settings = embedded_store.settings_for(seaweed, f"test-{secrets.token_hex(6)}")
        maker = Store(settings)
        await maker.ensure_bucket()
        await maker.put("first", b"1", content_type="text/plain")
        await maker.remove("first")
        await maker.aclose()
        return settings

    with ThreadPoolExecutor(1) as thread:
        ahead = [thread.submit(asyncio.run, make_bucket()) for _ in range(3)]

        def take() -> StoreSettings:
            ahead.append(thread.submit(asyncio.run, make_bucket()))
            return ahead.pop(0).result()

        yield take


@pytest.fixture
def store_settings(fresh_buckets: Callable[[], StoreSettings]) -> StoreSettings:
    """Settings of a bucket that no other test uses; the bucket is made."""
    return fresh_buckets()


@pytest.fixture
async def store(store_settings: StoreSettings) -> AsyncIterator[Store]:
    """A store on a bucket that no other test uses."""
    opened = Store(store_settings)
    yield opened
    await opened.aclose()


@pytest.fixture
def make_settings(store_settings: StoreSettings, tmp_path: Path) -> Callable[..., AvatarSettings]:
    """Settings with this test's bucket and directory; overrides by section name, as dicts or models."""

    def make(**overrides: Any) -> AvatarSettings:
        given = {
            "state_dir": tmp_path / "state",
            "store": store_settings,
            "download": {"allow_private_hosts": True},
        }
        return AvatarSettings(_env_file=None, **(given | overrides))

    return make


#: Fixtures that start a process (a store, the sandbox, a Prefect server) or encode a video.
PARTS = {"seaweed", "sandbox_process", "local", "program", "relay", "footage"}
#: Test files that start processes by themselves, ask for such fixtures by name, encode or decode many files, make up
#: hundreds of inputs, serve HTTP to themselves, or import Prefect, which takes longer than all the rest.
PLACES = (
    "store/test_contract", "local/test_embedded", "store/test_conditional", "store/test_failures", "media/", "inputs/",
    "providers/test_contract", "providers/test_preview", "sandbox/", "test_sandbox", "chaos/",
    "simulation/test_schedules", "simulation/test_loop", "web/gallery/", "web/bridge/test_store_events",
    "security/test_tls", "security/test_settings_errors", "flows/test_cancelling", "flows/test_generate",
    "flows/test_batch", "flows/test_inbox", "flows/test_limits", "flows/test_fork_server", "flows/test_shown",
    "flows/test_asking", "browser/", "providers/test_any_answer", "batch/test_any_manifest", "security/test_file_modes",
    "security/test_supply_chain", "test_architecture", "money/test_inspect_render", "job/test_growth", "job/test_month_index",
    "batch/test_hostile_manifests", "providers/test_proxies", "providers/test_hostile_answers", "test_readme",
    "providers/test_fal_stream", "providers/test_download", "providers/test_fal_webhooks", "job/test_fetching",
)  # fmt: skip


def place(path: Path) -> str:
    return path.relative_to(Path(__file__).parent).as_posix()


def is_quick(config: pytest.Config) -> bool:
    """Whether this is `make unit`."""
    return "not parts" in config.option.markexpr


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """What `make unit` does not run it does not import either."""
    here = f"{place(collection_path)}/" if collection_path.is_dir() else place(collection_path)
    return True if is_quick(config) and here.startswith(PLACES) else None


#: Files whose tests share what takes long to start, by the name of their group: one process runs all of a group.
TOGETHER = {
    "security/test_file_modes.py": "house", "security/test_guarded_prefect.py": "house",
    "security/test_least_power.py": "house", "security/test_listening.py": "house", "security/test_secrets.py": "house",
    "browser/test_gallery.py": "up", "browser/test_ui.py": "up",
}  # fmt: skip


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """`--dist loadfile`, with the files of `TOGETHER` as if they were one."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return TOGETHER.get(file.removeprefix("tests/"), file)

    return Scheduling(config, log) if config.option.dist == "loadfile" else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what runs on real parts, so that the rest can be run between two thoughts (`make unit`).

    What waits longest comes first: else one process of `make test` would end minutes after the other.
    """
    for item in items:
        if PARTS & set(getattr(item, "fixturenames", ())) or place(item.path).startswith(PLACES):
            item.add_marker("parts")
    items.sort(key=lambda item: item.get_closest_marker("server") is None)

"""Where Prefect keeps cached results: our own bucket, so that any worker finds them.

The cache saves time, never money: Prefect takes a read error for a miss and runs the task again, which the journal
makes harmless.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from prefect.cache_policies import CacheKeyFnPolicy
from prefect.client.schemas.objects import State, TaskRun
from prefect.exceptions import ObjectNotFound as BlockNotFound
from prefect.filesystems import WritableFileSystem
from prefect.tasks import Task

from tasks.errors import Transient
from tasks.settings import AvatarSettings
from tasks.storage.store import Store
from tasks.workspace import workspace

BLOCK_NAME = "results"
#: How decorators name the storage; resolved when a task runs.
RESULT_STORAGE = f"avatar-store/{BLOCK_NAME}"


class AvatarStore(WritableFileSystem):
    """Prefect result storage in the bucket of the AVATAR_STORE settings. Holds no credentials itself."""

    _block_type_name = "Avatar store"
    _block_type_slug = "avatar-store"

    prefix: str = "results/"

    async def aread_path(self, path: str) -> bytes:
        return (await workspace().store.get(self.prefix + path)).data

    async def awrite_path(self, path: str, content: bytes) -> None:
        await workspace().store.put(self.prefix + path, content, content_type="application/json")

    # Prefect passes `_sync` and takes a TypeError for a cache miss, so it must be accepted.
    def read_path(self, path: str, **_: Any) -> bytes:  # type: ignore[override]
        async def read(store: Store) -> bytes:
            return (await store.get(self.prefix + path)).data

        content: bytes = _outside_the_loop(read)
        return content

    def write_path(self, path: str, content: bytes, **_: Any) -> None:  # type: ignore[override]
        async def write(store: Store) -> None:
            await store.put(self.prefix + path, content, content_type="application/json")

        _outside_the_loop(write)


def _outside_the_loop(use: Any) -> Any:
    """Run an async use of the store from synchronous code, whether or not a loop runs in this thread."""

    async def run() -> Any:
        store = Store(AvatarSettings().store)
        try:
            return await use(store)
        finally:
            await store.aclose()

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(lambda: asyncio.run(run())).result()


_registered: set[str] = set()


async def register_result_storage() -> None:
    """Make sure the Prefect server knows the storage block, once per process and server."""
    from prefect.settings import PREFECT_API_URL

    url = str(PREFECT_API_URL.value())
    if url in _registered:
        return
    try:
        await AvatarStore.aload(BLOCK_NAME)
    except (BlockNotFound, ValueError):
        await AvatarStore().asave(BLOCK_NAME, overwrite=True)
    _registered.add(url)


def content_key(*names: str) -> CacheKeyFnPolicy:
    """A cache policy whose key is the `cache_key` of the named parameters: content, never code or run ids."""

    def key(_: Any, parameters: dict[str, Any]) -> str:
        return "/".join(str(getattr(parameters[name], "cache_key", parameters[name])) for name in names)

    return CacheKeyFnPolicy(cache_key_fn=key)


async def passes_by_itself(_task: Task[Any, Any], _run: TaskRun, state: State) -> bool:
    """Whether to retry: the error's type decides, and only `Transient` says yes."""
    return isinstance(await state.aresult(raise_on_failure=False), Transient)

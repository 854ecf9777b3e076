"""Where Prefect keeps cached results: our own bucket, so that any worker finds them.

The cache saves time, never money: Prefect takes a read error for a miss and runs the task again, which the journal
makes harmless.
"""

import asyncio
import contextlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

from prefect.client.schemas.objects import State, TaskRun
from prefect.exceptions import ObjectAlreadyExists
from prefect.exceptions import ObjectNotFound as BlockNotFound
from prefect.filesystems import WritableFileSystem
from prefect.settings import PREFECT_API_URL
from prefect.tasks import Task

from avatar.errors import Transient
from avatar.settings import AvatarSettings
from avatar.store.store import Store
from avatar.workspace import workspace

P = ParamSpec("P")
R = TypeVar("R")

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


_saved: dict[str, AvatarStore] = {}


async def register_result_storage() -> None:
    """Make sure the Prefect server knows the storage block, once per process and server."""
    url = str(PREFECT_API_URL.value())
    if url not in _saved:
        _saved[url] = await _load_or_save()


async def _load_or_save() -> AvatarStore:
    """The block, saved if it is not there. Runs that start together on a new server all try to be the first."""
    for pause in (0.1, 0.3, 1.0, 3.0):
        with contextlib.suppress(BlockNotFound, ValueError):
            return await AvatarStore.aload(BLOCK_NAME)
        with contextlib.suppress(ObjectAlreadyExists):
            block = AvatarStore()
            await block.asave(BLOCK_NAME, overwrite=True)
            return block
        await asyncio.sleep(pause)
    return await AvatarStore.aload(BLOCK_NAME)


def cached(step: Task[P, R]) -> Task[P, R]:
    """A task with the registered storage at hand: by its name alone Prefect would ask the server at every run."""
    block = _saved.get(str(PREFECT_API_URL.value()))
    return step.with_options(result_storage=block) if block is not None else step


async def passes_by_itself(_task: Task[Any, Any], _run: TaskRun, state: State) -> bool:
    """Whether to retry: the error's type decides, and only `Transient` says yes."""
    return isinstance(await state.aresult(raise_on_failure=False), Transient)

"""Where Prefect keeps cached results: our own bucket, so that any worker finds them.

The cache saves time, never money: Prefect takes a read error for a miss and runs the task again, which the journal
makes harmless.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, ParamSpec, Self, TypeVar

from prefect.client.schemas.objects import State, TaskRun
from prefect.exceptions import ObjectAlreadyExists
from prefect.exceptions import ObjectNotFound as BlockNotFound
from prefect.filesystems import WritableFileSystem
from prefect.tasks import Task
from pydantic import PrivateAttr

from avatar.errors import Transient
from avatar.settings import AvatarSettings
from avatar.store.by_day import RESULTS, note_day
from avatar.store.store import Store
from avatar.workspace import Workspace

P = ParamSpec("P")
R = TypeVar("R")

BLOCK_NAME = "results"
#: Seconds between tries to load or save the block.
PAUSES = (0.1, 0.3, 1.0, 3.0)


class AvatarStore(WritableFileSystem):
    """Prefect result storage in the bucket of the AVATAR_STORE settings. Holds no credentials itself."""

    _block_type_name = "Avatar store"
    _block_type_slug = "avatar-store"

    prefix: str = "results/"
    #: The store of the run that uses it. Whoever else loads it opens the one of the settings.
    _store: Store | None = PrivateAttr(None)

    def on(self, store: Store) -> Self:
        self._store = store
        return self

    async def aread_path(self, path: str) -> bytes:
        async with self._opened() as store:
            return (await store.get(self.prefix + path)).data

    async def awrite_path(self, path: str, content: bytes) -> None:
        async with self._opened() as store:
            await note_day(store, RESULTS, self.prefix + path)
            await store.put(self.prefix + path, content, content_type="application/json")

    @asynccontextmanager
    async def _opened(self) -> AsyncIterator[Store]:
        if self._store is not None:
            yield self._store
            return
        store = Store(AvatarSettings().store)
        try:
            yield store
        finally:
            await store.aclose()

    # Prefect passes `_sync` and takes a TypeError for a cache miss, so it must be accepted.
    def read_path(self, path: str, **_: Any) -> bytes:  # type: ignore[override]
        return _outside_the_loop(self.aread_path(path))

    def write_path(self, path: str, content: bytes, **_: Any) -> None:  # type: ignore[override]
        _outside_the_loop(self.awrite_path(path, content))


def _outside_the_loop(use: Coroutine[Any, Any, R]) -> R:
    """Run an async use of the store from synchronous code, whether or not a loop runs in this thread."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, use).result()


async def cached_task(step: Task[P, R], workspace: Workspace) -> Task[P, R]:
    """A task whose results are kept in the workspace's store."""
    return step.with_options(persist_result=True, result_storage=(await _block()).on(workspace.store))


async def _block() -> AvatarStore:
    """The storage block, saved if it is not there. Runs that start together on a new server all try to be the first."""
    for pause in PAUSES:
        with contextlib.suppress(BlockNotFound, ValueError):
            return await AvatarStore.aload(BLOCK_NAME)
        with contextlib.suppress(ObjectAlreadyExists):
            block = AvatarStore()
            await block.asave(BLOCK_NAME, overwrite=True)
            return block
        await asyncio.sleep(pause)
    return await AvatarStore.aload(BLOCK_NAME)


async def passes_by_itself(_task: Task[Any, Any], _run: TaskRun, state: State) -> bool:
    """Whether to retry: the error's type decides, and only `Transient` says yes."""
    return isinstance(await state.aresult(raise_on_failure=False), Transient)

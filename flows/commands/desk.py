"""A workspace for commands that need the store and nothing else."""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from typing import TypeVar

from tasks.settings import AvatarSettings
from tasks.workspace import Workspace

T = TypeVar("T")


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def at_the_desk(work: Callable[[Workspace], Awaitable[T]]) -> T:
    """Run `work` with a workspace on the configured store, or on the embedded one, started if need be."""
    from flows.local import environment, services

    async def run() -> T:
        workspace = Workspace(AvatarSettings())
        try:
            await workspace.store.ensure_bucket()
            return await work(workspace)
        finally:
            await workspace.aclose()

    with services(AvatarSettings(), api=False, say=_say) as running:
        os.environ.update(environment(AvatarSettings(), running))
        return asyncio.run(run())

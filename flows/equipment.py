"""What a flow needs around it before its first step: a store that answers, and a place for Prefect's results."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from prefect import get_run_logger

from flows.local import environment, services
from tasks.results import register_result_storage
from tasks.settings import AvatarSettings
from tasks.workspace import close_workspace, workspace


@asynccontextmanager
async def equipment() -> AsyncIterator[None]:
    """Hold the store for as long as a flow runs; without AVATAR_STORE__ENDPOINT, the embedded one.

    A flow called from Python, or run by a worker that was started by hand, finds the embedded store through the
    state directory as the `avatar` command does, or starts it.
    """
    settings = AvatarSettings()
    async with AsyncExitStack() as stack:
        if settings.store.endpoint is None:
            local = services(settings, api=False, say=get_run_logger().info)
            running = await asyncio.to_thread(local.__enter__)
            stack.push_async_callback(asyncio.to_thread, local.__exit__, None, None, None)
            os.environ.update(environment(settings, running))
            stack.push_async_callback(close_workspace)
        await workspace().store.ensure_bucket()
        await register_result_storage()
        yield

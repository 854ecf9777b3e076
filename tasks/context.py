"""What a flow needs around it before its first step: a store that answers, and a place for Prefect's results."""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from uuid import UUID

from prefect import get_run_logger
from prefect.runtime import flow_run

from avatar.errors import StillRendering
from avatar.local import environment, services
from avatar.settings import AvatarSettings
from avatar.workspace import close_workspace, workspace
from tasks.events import announced
from tasks.results import register_result_storage
from tasks.runs import check_resumes
from tasks.turns import counted_turns

#: Flows of this process that use the embedded store they found or started here; the last one lets go of it.
_borrowers = 0


@asynccontextmanager
async def equipment() -> AsyncIterator[None]:
    """Hold the store for as long as a flow runs; without AVATAR_STORE__ENDPOINT, the embedded one.

    A flow called from Python, or run by a worker that was started by hand, finds the embedded store through the
    state directory as the `avatar` command does, or starts it.
    """
    await check_resumes(AvatarSettings().recovery)
    async with AsyncExitStack() as stack:
        if _borrowers or AvatarSettings().store.endpoint is None:
            await stack.enter_async_context(_embedded_store())
        await workspace().store.ensure_bucket()
        await register_result_storage()
        stack.enter_context(_without_alarm())
        stack.enter_context(announced())
        await stack.enter_async_context(counted_turns(workspace().settings, get_run_logger(), run_id()))
        yield


def run_id() -> UUID | None:
    """This flow run's, by which the Prefect server knows who holds a turn."""
    return UUID(flow_run.id) if flow_run.id else None


@contextmanager
def _without_alarm() -> Iterator[None]:
    """Keep Prefect from logging every closed polling window as a failure: the render's own lines tell the story."""

    def is_news(record: logging.LogRecord) -> bool:
        arguments = record.args if isinstance(record.args, tuple) else ()
        return not any(isinstance(argument, StillRendering) for argument in arguments)

    logger = logging.getLogger("prefect.task_runs")
    logger.addFilter(is_news)
    try:
        yield
    finally:
        logger.removeFilter(is_news)


@asynccontextmanager
async def _embedded_store() -> AsyncIterator[None]:
    global _borrowers  # noqa: PLW0603 - one embedded store a process, however many flows run in it
    local = services(AvatarSettings(), api=False, say=get_run_logger().info)
    running = await asyncio.to_thread(local.__enter__)
    before = dict(os.environ)
    os.environ.update(environment(AvatarSettings(), running))
    _borrowers += 1
    try:
        yield
    finally:
        _borrowers -= 1
        if not _borrowers:
            await close_workspace()
            os.environ.clear()
            os.environ.update(before)
        await asyncio.to_thread(local.__exit__, None, None, None)

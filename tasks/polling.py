"""Polling: wait for a render, in attempts that Prefect retries until it is done."""

from typing import Any

from prefect import get_run_logger, task
from prefect.cache_policies import CacheKeyFnPolicy

from tasks.artifacts import RenderProgress
from tasks.models import Snapshot, Submission
from tasks.progress import Step, announce
from tasks.renders.follow import follow_render
from tasks.results import RESULT_STORAGE, passes_by_itself
from tasks.workspace import workspace

#: The polling deadline ends the wait, not the number of attempts.
MANY = 100_000


def _poll_key(_: Any, parameters: dict[str, Any]) -> str:
    submission: Submission = parameters["submission"]
    return f"polls/{submission.render_id}/{submission.submitted_at:%Y%m%dT%H%M%S%f}"


@task(
    task_run_name="wait for {submission.provider} request",
    retries=MANY,
    retry_delay_seconds=1,
    retry_condition_fn=passes_by_itself,
    cache_policy=CacheKeyFnPolicy(cache_key_fn=_poll_key),
    persist_result=True,
    result_storage=RESULT_STORAGE,
    result_serializer="json",
)
async def poll_render(submission: Submission) -> Snapshot:
    """Wait one polling window for the render. Raises `StillRendering`, which is retried, until it is done."""
    progress = RenderProgress(submission.render_id, get_run_logger())

    async def on_snapshot(snapshot: Snapshot, age: float) -> None:
        announce(Step("render", snapshot.state, submission.render_id, snapshot, age))
        await progress.show(snapshot, age)

    return await follow_render(workspace(), submission.render_id, on_snapshot)

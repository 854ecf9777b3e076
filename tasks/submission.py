"""Submission: the one paid request of a render. No retries here; see `tasks.renders.submit`."""

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from tasks.models import Plan, Segment, Submission
from tasks.progress import Step, announce
from tasks.providers.answers import clean
from tasks.renders.submit import submit_render as submit_once
from tasks.workspace import workspace


@task(task_run_name="submit segment {segment.index} to {plan.provider}", retries=0, cache_policy=NO_CACHE)
async def submit_render(plan: Plan, segment: Segment, claimed_on: str | None = None) -> Submission:
    """Have the provider accept this render exactly once, and return its receipt."""
    announce(Step("submit", f"asking {plan.provider} for {segment.seconds:.1f} s of video"))
    record = await submit_once(workspace(), plan, segment, claimed_on=claimed_on)
    if record.entry.submission is None:
        raise RuntimeError(f"render {record.entry.render_id} is {record.state} without a submission")
    get_run_logger().info(
        "Render %s is request %s at %s, quoted at $%s.",
        record.entry.render_id,
        clean(record.entry.submission.request_id),
        record.entry.submission.provider,
        record.entry.quoted,
    )
    return record.entry.submission

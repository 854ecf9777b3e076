"""Commit to a job's price before its first paid request, and put the books straight afterwards.

A job is open from before its first claim until its record is written, as `open/jobs/<job_id>.json`: whoever finds it
there and nobody at work on it does what is left (`avatar.job.reconcile`).
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal

from pydantic import ValidationError

from avatar.errors import ObjectNotFound, StoreUnavailable
from avatar.models import Continuity, Plan, chained
from avatar.money.entries import Record, RenderState
from avatar.money.quote import QuotedRender, quote_render
from avatar.stored_models import Stored
from avatar.workspace import Workspace

#: Sets money aside, in US dollars by render id; the keys of the claims, by render id.
Claim = Callable[[Mapping[str, Decimal]], Awaitable[dict[str, str]]]

OPEN_JOBS = "open/jobs/"
_NOT_CHARGED = {RenderState.NOT_SENT, RenderState.REFUSED, RenderState.RESOLVED}


def plan_key(job_id: str) -> str:
    return f"jobs/{job_id}.json"


async def load_plan(workspace: Workspace, job_id: str) -> Plan:
    """The plan a job was committed with, so that anybody can finish it. Raises `ObjectNotFound`."""
    blob = await workspace.store.get(plan_key(job_id))
    try:
        return Plan.model_validate_json(blob.data)
    except ValidationError as error:
        raise StoreUnavailable(
            f"The plan of job {job_id} cannot be read: run the job again to plan it anew."
        ) from error


class OpenJob(Stored):
    """A job that may have cost money and has no record yet."""

    format: int = 1
    job_id: str
    since: datetime
    tries: int = 0  #: how often `reconcile` could not do what is left


@dataclass(frozen=True)
class OpenStatus:
    """An open job, and for how many seconds nobody gave a sign of working on it, by the store's clock."""

    job: OpenJob
    idle: float


def open_key(job_id: str) -> str:
    return f"{OPEN_JOBS}{job_id}.json"


async def open_job(
    workspace: Workspace, job_id: str, *, since: datetime | None = None, tries: int = 0
) -> None:
    """Note that a job has to be brought to its end; again, as its run's sign of life."""
    job = OpenJob(job_id=job_id, since=since or datetime.now(UTC), tries=tries)
    await workspace.store.put(
        open_key(job_id), job.model_dump_json().encode(), content_type="application/json"
    )


async def find_open(workspace: Workspace, job_id: str) -> OpenStatus | None:
    """The job if it is open. One whose note cannot be read is open all the same."""
    try:
        blob = await workspace.store.get(open_key(job_id))
    except ObjectNotFound:
        return None
    try:
        job = OpenJob.model_validate_json(blob.data)
    except ValidationError:
        job = OpenJob(job_id=job_id, since=blob.stat.modified)
    return OpenStatus(job, blob.stat.age or 0.0)


async def open_jobs(workspace: Workspace) -> list[str]:
    """Ids of the jobs that have no record yet."""
    stats = await workspace.store.list(OPEN_JOBS)
    return [stat.key.removeprefix(OPEN_JOBS).removesuffix(".json") for stat in stats]


async def close_job(workspace: Workspace, job_id: str) -> None:
    """It has its record, or nothing was bought for it."""
    await workspace.store.remove(open_key(job_id))


async def commit_job(workspace: Workspace, plan: Plan, *, claim: Claim | None = None) -> dict[str, str]:
    """Write the plan down, note the job as open, and claim the day's budget for every render that is not bought yet.

    Args:
        workspace: settings, store and journal.
        plan: the job's plan.
        claim: claims in place of `Budget.claim`, perhaps for other jobs too.

    Returns:
        The keys of the claims, by render id; empty when there is nothing to claim.

    Raises:
        BudgetRefused: the day's limit would be passed. Nothing was sent.
        StoreUnavailable: it cannot be counted. Nothing was sent.
    """
    await workspace.store.put(
        plan_key(plan.job_id), plan.model_dump_json().encode(), content_type="application/json"
    )
    await open_job(workspace, plan.job_id)
    amounts = await still_to_buy(workspace, plan)
    return await (claim or workspace.budget.claim)(amounts) if amounts else {}


async def still_to_buy(workspace: Workspace, plan: Plan) -> dict[str, Decimal]:
    """US dollars by render id for what the job has yet to pay; empty for a free provider."""
    if not workspace.provider(plan.provider, plan.model).capabilities.paid:
        return {}
    orders = await quoted_renders(workspace, plan)
    return {order.render_id: order.quoted for order, head in orders if is_unpaid(head)}


async def release_unspent(workspace: Workspace, claims: Mapping[str, str]) -> None:
    """Give back those of a run's claims that nothing was bought on."""
    for render_id, key in claims.items():
        head = await workspace.journal.head(render_id)
        if is_unpaid(head) or (head is not None and head.entry.claim not in {None, key}):
            await workspace.budget.release(key)


async def quoted_renders(workspace: Workspace, plan: Plan) -> Sequence[tuple[QuotedRender, Record | None]]:
    """Every render of a job with where it stands.

    In a chain, what follows a render that is not in the store yet has no name of its own: it goes by the one that it
    would have if it began from the portrait, and stands nowhere.
    """
    found: list[tuple[QuotedRender, Record | None]] = []
    following: Plan | None = plan
    for segment in plan.segments:
        order = quote_render(workspace, following or plan, segment)
        new = following is None or workspace.journal.seemed_new(order.render_id)
        head = None if new else await workspace.journal.head(order.render_id)
        found.append((order, head))
        if plan.continuity is Continuity.CHAIN:
            render = head.entry.render if head else None
            following = chained(plan, render) if render else None
    return found


def is_unpaid(head: Record | None) -> bool:
    """Whether no money was, or may have been, spent for it so far."""
    if head is None or head.state in _NOT_CHARGED:
        return True
    failure = head.entry.failure
    return head.state is RenderState.FAILED and failure is not None and failure.billed is False

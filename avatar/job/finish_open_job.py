"""The end of a job that nobody is at work on: published where that costs nothing, else told of."""

from avatar.errors import ObjectNotFound
from avatar.events import about_unfinished
from avatar.job.publish import find_video, publish_video
from avatar.money.commit import close_job, is_unpaid, load_plan, quoted_renders
from avatar.money.entries import RenderState
from avatar.workspace import Workspace


async def finish_job(workspace: Workspace, job_id: str) -> bool:
    """Do what is left of a job without spending: publish it if all its renders are in the store.

    Returns:
        Whether it was published just now. A job that has its record already is closed.
    """
    try:
        plan = await load_plan(workspace, job_id)
    except ObjectNotFound:
        await close_job(workspace, job_id)
        return False
    if await find_video(workspace, job_id):
        await close_job(workspace, job_id)
        return False
    orders = await quoted_renders(workspace, plan)
    renders = [head.entry.render for _, head in orders if head is not None and head.entry.render is not None]
    if len(renders) < len(orders):
        return False
    await publish_video(workspace, plan, renders)
    return True


async def is_unbought(workspace: Workspace, job_id: str) -> bool:
    """Whether nothing was paid for any of its renders."""
    orders = await quoted_renders(workspace, await load_plan(workspace, job_id))
    return all(is_unpaid(head) for _, head in orders)


async def tell_unfinished(workspace: Workspace, job_id: str, trouble: Exception | None) -> bool:
    """Tell, once, of a job of which something is bought, and which nobody goes on with."""
    orders = await quoted_renders(workspace, await load_plan(workspace, job_id))
    bought = [head for _, head in orders if head is not None and not is_unpaid(head)]
    failed = [head.entry for head in bought if head.state is RenderState.FAILED]
    if not bought or not (trouble or failed or len(bought) < len(orders)):
        return False
    why = f"{len(bought)} of its {len(orders)} renders are bought, and no run goes on."
    if trouble:
        why = str(trouble)
    elif failed and failed[0].failure is not None:
        why = f"Its render {failed[0].render_id} failed: {failed[0].failure.message}"
    workspace.notify(about_unfinished(job_id, [head.entry for head in bought], why))
    return True

"""Our side: `generate_avatar` called in one warm process, as often as ordered (`driven.Order`)."""

import asyncio
import time
import uuid
from dataclasses import replace

from avatar.media import confined
from avatar.models import AvatarJob, RemoteState
from avatar.settings import AvatarSettings
from avatar.workspace import Step, Workspace
from benchmarks.driven import Job, Order, Report, cpu_seconds, order_given
from flows.generate import generate_avatar
from tasks.context import in_workspace


async def run(order: Order) -> Report:
    """Run the jobs, each with a prompt of its own so that none is the same as another."""
    if order.warm:
        await run(replace(order, jobs=1, warm=False))
    noticed: dict[str, float] = {}

    def note(step: Step) -> None:
        if step.render_id and step.snapshot and step.snapshot.state is RemoteState.DONE:
            noticed.setdefault(step.render_id, time.time())

    # What decoding processes used counts once they have ended; the next job starts one.
    confined.close()
    turns, before = asyncio.Semaphore(order.at_a_time), cpu_seconds()
    async with Workspace(AvatarSettings(), listener=note) as workspace:
        work = (one(workspace, order, turns, noticed, number) for number in range(order.jobs))
        jobs = await asyncio.gather(*work)
    confined.close()
    return Report(tuple(jobs), cpu_seconds() - before)


async def one(
    workspace: Workspace, order: Order, turns: asyncio.Semaphore, noticed: dict[str, float], number: int
) -> Job:
    job = AvatarJob(portrait=order.portrait, voice=order.voice, prompt=f"bench {uuid.uuid4()}")
    await asyncio.sleep(number * order.gap)
    async with turns:
        began = time.time()
        video = await in_workspace(generate_avatar, workspace)(job)
        (render,) = video.renders
        return Job(render.request_id, began, noticed[render.render_id], time.time())


async def main() -> None:
    (await run(order_given())).tell()


if __name__ == "__main__":
    asyncio.run(main())

"""A job from its plan to its video, in plain calls. Who carries out one render is left to the caller."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from tasks.errors import AvatarError, RenderFailed, StillRendering, StoreUnavailable, SubmitRefused, Transient
from tasks.jobs.chain import continue_from, hand_on_claim
from tasks.jobs.commit import Claim, commit_job, release_unspent
from tasks.jobs.failover import explain, stand_in
from tasks.jobs.publish import accept_video, find_video, require_published
from tasks.models import AvatarJob, Continuity, Plan, Render, Segment, Snapshot, Video, VideoState
from tasks.renders.follow import follow_render
from tasks.workspace import Workspace

log = logging.getLogger("avatar.produce")

T = TypeVar("T")
#: Submits, waits for and collects one render; the string is the day its price is claimed on.
RenderOne = Callable[[Plan, Segment, str | None], Awaitable[Render]]

#: Seconds between the tries of a free step. No paid request is ever sent through them.
SHORT = (1.0, 3.0, 10.0)
LONG = (1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 60.0, 60.0, 60.0)


async def made_already(workspace: Workspace, job: AvatarJob, job_id: str) -> Video | None:
    """The job's video if there is one; a rejected one is published on request, and never made anew by itself.

    Raises:
        VideoRejected: there is one that did not pass, and the job does not accept it.
    """
    video = await find_video(workspace, job_id)
    if video is None:
        return None
    if job.accept and video.state is VideoState.REJECTED:
        video = await accept_video(workspace, video)
    return require_published(video)


@dataclass(frozen=True)
class _Work:
    """What stays the same for all renders of one job."""

    workspace: Workspace
    job: AvatarJob
    claimed_on: str | None
    render: RenderOne


async def render_all(
    workspace: Workspace, job: AvatarJob, plan: Plan, render: RenderOne, *, claim: Claim | None = None
) -> Sequence[Render]:
    """Render every segment, at once or one after another. What is claimed and not spent is given back."""
    work = _Work(workspace, job, await commit_job(workspace, plan, claim=claim), render)
    try:
        return await (_chain if plan.continuity is Continuity.CHAIN else _abreast)(work, plan)
    except AvatarError:
        with contextlib.suppress(StoreUnavailable):  # `reconcile` gives it back then
            await release_unspent(workspace, plan, work.claimed_on)
        raise


async def _abreast(work: _Work, plan: Plan) -> Sequence[Render]:
    """All are waited for, even when one fails: each is paid for by itself, and kept."""
    renders = [_or_fail_over(work, plan, segment) for segment in plan.segments]
    ended = await asyncio.gather(*renders, return_exceptions=True)
    for failure in ended:
        if isinstance(failure, BaseException):
            raise failure
    return [each for each in ended if isinstance(each, Render)]


async def _chain(work: _Work, plan: Plan) -> Sequence[Render]:
    renders: list[Render] = []
    for segment in plan.segments:
        following = await continue_from(work.workspace, plan, renders[-1]) if renders else plan
        if renders:
            await hand_on_claim(work.workspace, plan, following, segment, work.claimed_on)
        renders.append(await _or_fail_over(work, following, segment))
    return renders


async def _or_fail_over(work: _Work, plan: Plan, segment: Segment) -> Render:
    try:
        return await work.render(plan, segment, work.claimed_on)
    except (SubmitRefused, RenderFailed) as error:
        other = await stand_in(work.workspace, work.job, plan, segment, error)
        if other is None:
            raise
        log.warning(explain(error, other[0].provider))
        return await work.render(other[0], segment, other[1])


async def wait_until_done(workspace: Workspace, render_id: str) -> None:
    """Follow a render window by window until the provider is done with it.

    Raises:
        RenderFailed, RenderLost, ProviderFailure: as `follow_render`.
        Transient: the store or the provider did not answer for some minutes. The request id is kept.
    """

    async def is_done() -> bool:
        try:
            await follow_render(workspace, render_id, _unseen)
        except StillRendering:
            return False
        return True

    while not await patiently(is_done, LONG):
        continue


async def _unseen(_: Snapshot, __: float) -> None:
    """Nobody looks at the single looks of a batch."""


async def patiently(step: Callable[[], Awaitable[T]], pauses: Sequence[float]) -> T:
    """Try a step that may be repeated again after each of `pauses` (seconds). Only `Transient` failures count."""
    for pause in pauses:
        try:
            return await step()
        except Transient as error:
            log.warning("%s Trying again in %.0f s.", error, pause)
            await asyncio.sleep(pause)
    return await step()

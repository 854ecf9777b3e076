"""A job from its plan to its video, in plain calls. Who carries out one render is left to the caller."""

import asyncio
import contextlib
import logging
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from avatar.errors import (
    AvatarError,
    NotConfigured,
    ObjectNotFound,
    RenderFailed,
    StillRendering,
    StoreUnavailable,
    SubmitRefused,
)
from avatar.job.captions import caption_video
from avatar.job.consent import needs_consent, with_consent
from avatar.job.formats import add_forms
from avatar.job.plan import identify
from avatar.job.publish import accept_video, find_video, name_video, require_published
from avatar.media.decoder_calls import last_frame
from avatar.models import (
    CHAIN_SPEC,
    AvatarJob,
    Continuity,
    Limits,
    Plan,
    Snapshot,
    Video,
    VideoState,
    chained,
)
from avatar.money.collect import read_expired
from avatar.money.commit import Claim, commit_job, load_plan, open_job, quoted_renders, release_unspent
from avatar.money.entries import Record, RenderState
from avatar.money.follow import OnSnapshot, follow_render
from avatar.money.inspect_render import Beside, Look
from avatar.money.journal import SIGN_SECONDS
from avatar.money.quote import check_price, quote_render, quote_segments
from avatar.store.by_day import RENDERS
from avatar.store.objects import hash_file
from avatar.stored_models import Asset, Render, Segment
from avatar.waiting import LONG, Moment, patiently
from avatar.workspace import Workspace


async def next_take(workspace: Workspace, job: AvatarJob, portrait: Asset, voice: Asset) -> AvatarJob:
    """The lowest take that has no video and can still get one: one that was cut short is continued, not bought again."""
    provider = workspace.provider(job.provider, job.model)
    while await _is_over(workspace, identify(job, portrait, voice, provider)):
        job = job.model_copy(update={"take": job.take + 1})
    return job


async def _is_over(workspace: Workspace, job_id: str) -> bool:
    """Whether a take has its video, or a render of it failed, stalled, or was deleted by a rule."""
    if await find_video(workspace, job_id) is not None:
        return True
    try:
        plan = await load_plan(workspace, job_id)
    except ObjectNotFound:
        return False
    heads = [head for _, head in await quoted_renders(workspace, plan) if head is not None]
    return any([await _is_spent(workspace, head) for head in heads])


async def _is_spent(workspace: Workspace, head: Record) -> bool:
    if head.state in {RenderState.FAILED, RenderState.STALLED}:
        return True
    render = head.entry.render
    gone = render is not None and await workspace.store.exists(render.key) is None
    return gone and await read_expired(workspace.store, RENDERS, head.entry.render_id) is not None


# `continuity=chain`: every segment starts from the last frame of the one before it.
async def continue_plan(workspace: Workspace, plan: Plan, render: Render) -> Plan:
    """The plan with the last frame of `render` as its portrait.

    The frame is named by the render it was taken from, and taken once: another library version may decode it a
    little differently, which must not make the next render look new.
    """
    key = f"assets/{render.sha256}.{CHAIN_SPEC}.png"
    kept = await workspace.store.exists(key)
    if kept is None or kept.sha256 is None:
        with tempfile.TemporaryDirectory(dir=workspace.scratch) as folder:
            video, frame = Path(folder) / "video.mp4", Path(folder) / "frame.png"
            await workspace.store.download(render.key, video)
            await asyncio.to_thread(last_frame, video, frame)
            digest = await asyncio.to_thread(hash_file, frame)
            kept = await workspace.store.put_file(key, frame, content_type="image/png", sha256=digest)
    asset = Asset(key=key, sha256=kept.sha256 or "", size=kept.size, content_type="image/png")
    following = chained(plan, render)
    return following.model_copy(update={"portrait": following.portrait.model_copy(update={"asset": asset})})


async def move_claim(
    workspace: Workspace, first: Plan, now: Plan, segment: Segment, claims: dict[str, str]
) -> None:
    """The price was claimed under the id the segment has with the first portrait; move it to its real id."""
    order = quote_render(workspace, now, segment)
    placeholder = quote_render(workspace, first, segment)
    key = claims.pop(placeholder.render_id, None)
    if key is not None:
        claims[order.render_id] = await workspace.budget.move(key, order.render_id, order.quoted)


# Ask another provider, and only after the first one surely neither made nor charged the render.
def surely_unbilled(error: BaseException) -> bool:
    """Whether nothing was charged, for certain. An unknown outcome is not: it may be rendering right now."""
    return isinstance(error, SubmitRefused) or (isinstance(error, RenderFailed) and error.billed is False)


def fits_limits(segment: Segment, limits: Limits) -> bool:
    """Whether a segment as it was made for one provider is also within another's limits."""
    return (
        limits.min_seconds <= segment.seconds <= limits.max_seconds
        and segment.asset.size <= limits.max_audio_bytes
        and segment.asset.key.rsplit(".", 1)[-1] in limits.audio_containers
    )


async def plan_failover(
    workspace: Workspace, job: AvatarJob, plan: Plan, segment: Segment, error: BaseException
) -> tuple[Plan, str] | None:
    """The plan by which AVATAR_FAILOVER renders `segment`, and the claim for its price.

    Returns:
        None if there is no other provider, it does not have the model or would not take the segment, or the failure
        is not surely unbilled.

    Raises:
        BudgetRefused: the other's price passes a limit.
        NotConfigured: the other has no key.
    """
    name = workspace.settings.failover
    if name is None or name == plan.provider or not surely_unbilled(error):
        return None
    provider = workspace.provider(name, plan.model)
    if provider.model != plan.model or not fits_limits(segment, provider.limits):
        return None
    try:
        provider.check_offered()
    except NotConfigured:
        return None
    provider.check_configured()
    quote = quote_segments(plan.segments, provider=name, price_per_second=provider.price_per_second)
    check_price(quote, job, workspace.settings.budget)
    other = plan.model_copy(update={"provider": name, "quote": quote})
    order = quote_render(workspace, other, segment)
    claims = await workspace.budget.claim({order.render_id: order.quoted})
    return other, claims[order.render_id]


def explain(error: AvatarError, name: str) -> str:
    return f"{error} Asking {name} instead (AVATAR_FAILOVER): nothing was charged for the first attempt."


log = logging.getLogger("avatar.produce")

#: Submits, waits for and collects one render; the string is the key of its claim.
RenderOne = Callable[[Plan, Segment, str | None], Awaitable[Render]]


async def find_made(workspace: Workspace, job: AvatarJob, job_id: str) -> Video | None:
    """The job's video if there is one; a rejected one is published on request, and never made anew by itself.

    Raises:
        VideoRejected: there is one that did not pass, and the job does not accept it.
    """
    video = await find_video(workspace, job_id)
    if video is None:
        return None
    if job.accept and video.state is VideoState.REJECTED:
        video = await accept_video(workspace, video)
    video = await name_video(
        workspace, video, title=job.title or None, language=job.language or None, labels=job.labels
    )
    if job.captions:
        video = await caption_video(workspace, video, job.captions)
    return await add_forms(workspace, require_published(video), job.formats)


@dataclass(frozen=True)
class _Work:
    """What stays the same for all renders of one job."""

    workspace: Workspace
    job: AvatarJob
    claims: dict[str, str]
    render: RenderOne

    async def carry_out(self, plan: Plan, segment: Segment) -> Render:
        order = quote_render(self.workspace, plan, segment)
        looks, beside = self.workspace.looks, Beside.of(plan, segment)
        looks.setdefault(order.render_id, Look(self.workspace.store, self.workspace.scratch, beside))
        try:
            return await self.render(plan, segment, self.claims.get(order.render_id))
        except BaseException:
            looks.pop(order.render_id, None)
            raise


async def render_all(
    workspace: Workspace, job: AvatarJob, plan: Plan, render: RenderOne, *, claim: Claim | None = None
) -> Sequence[Render]:
    """Render every segment, at once or one after another. What is claimed and not spent is given back."""
    if needs_consent(
        workspace, plan
    ):  # it may have been revoked while the job waited for a person, or for its row
        plan = await with_consent(workspace, plan)
    claims = await patiently(lambda: commit_job(workspace, plan, claim=claim))
    committed = Moment.now()
    work = _Work(workspace, job, claims, render)
    try:
        renders = await (_chain if plan.continuity is Continuity.CHAIN else _abreast)(work, plan)
    except AvatarError:
        with contextlib.suppress(StoreUnavailable):  # `reconcile` gives it back then
            await release_unspent(workspace, work.claims)
        raise
    if committed.passed > SIGN_SECONDS:
        with contextlib.suppress(StoreUnavailable):
            await open_job(workspace, plan.job_id)  # a sign of life, before it is put together
    return renders


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
        following = await continue_plan(work.workspace, plan, renders[-1]) if renders else plan
        if renders:
            await move_claim(work.workspace, plan, following, segment, work.claims)
        renders.append(await _or_fail_over(work, following, segment))
    return renders


async def _or_fail_over(work: _Work, plan: Plan, segment: Segment) -> Render:
    try:
        return await work.carry_out(plan, segment)
    except (SubmitRefused, RenderFailed) as error:
        other = await plan_failover(work.workspace, work.job, plan, segment, error)
        if other is None:
            raise
        log.warning(explain(error, other[0].provider))
        await _take_over(work, other[0], segment, other[1])
        return await work.carry_out(other[0], segment)


async def _take_over(work: _Work, plan: Plan, segment: Segment, key: str) -> None:
    """The other provider's claim in place of the first one's, which goes after it."""
    render_id = quote_render(work.workspace, plan, segment).render_id
    before, work.claims[render_id] = work.claims.get(render_id), key
    await work.workspace.budget.release(before)


async def _unseen(_: Snapshot, __: float) -> None:
    """Nobody looks at the single looks of a batch."""


async def wait_until_done(workspace: Workspace, render_id: str, on_snapshot: OnSnapshot = _unseen) -> None:
    """Follow a render window by window until the provider is done with it.

    Raises:
        RenderFailed, RenderLost, ProviderFailure: as `follow_render`.
        Transient: the store or the provider did not answer for some minutes. The request id is kept.
    """

    async def is_done() -> bool:
        try:
            await follow_render(workspace, render_id, on_snapshot)
        except StillRendering:
            return False
        return True

    while not await patiently(is_done, LONG):
        continue

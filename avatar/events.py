"""What is worth telling the outside: each kind of notice with its payload. How it is delivered is left to the caller.

A notice never fails the job it tells of, and never holds a key, a presigned link or a path of the store's machine.
"""

import uuid
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from avatar import errors
from avatar.models import Video, VideoState, shown
from avatar.option_names import named
from avatar.settings import AvatarSettings
from avatar.stored_models import Model, ProviderName

if TYPE_CHECKING:
    from collections.abc import Sequence

    from avatar.money.entries import Entry, Record, Stray


# Links to videos that stay valid: those of the gallery, unlike presigned ones.
def player_url(settings: AvatarSettings, job_id: str) -> str | None:
    """The page on which a job's video plays; None unless AVATAR_GALLERY__PUBLIC_URL says where the gallery is."""
    base = settings.gallery.public_url
    return f"{str(base).rstrip('/')}/videos/{job_id}" if base else None


def batch_url(settings: AvatarSettings, batch_id: str) -> str | None:
    """The page of a batch's videos and its report; None unless AVATAR_GALLERY__PUBLIC_URL says where the gallery is."""
    base = settings.gallery.public_url
    return f"{str(base).rstrip('/')}/batches/{batch_id}" if base else None


#: Event ids are derived in it, so that the same thing told twice has the same id.
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "https://avatar-flows/notices")


class Notice(Model):
    """Something happened. Amounts are US dollars, and strings in JSON."""

    EVENT: ClassVar[str]

    key: str = Field(exclude=True, description="tells this happening from others of the same kind")

    @property
    def id(self) -> uuid.UUID:
        return uuid.uuid5(_NAMESPACE, f"{self.EVENT}:{self.key}")

    @property
    def resource(self) -> str:
        """What it is about, as Prefect names resources."""
        raise NotImplementedError


class _OfVideo(Notice):
    job_id: str = Field(description="the job; the same inputs have the same one")
    provider: ProviderName = Field(description="who rendered; `preview` is free")
    model: str = Field(description="the model that rendered")
    uri: str = Field(description="where the video is kept, `s3://bucket/key`")
    link: str | None = Field(description="the page it plays on, if AVATAR_GALLERY__PUBLIC_URL is set")
    seconds: float = Field(description="length of the video")
    width: int = Field(description="pixels")
    height: int = Field(description="pixels")
    quoted: Decimal = Field(description="price before it ran")
    billed: Decimal = Field(description="what was charged")
    renders: tuple[str, ...] = Field(description="ids of its renders")
    disclosure: str = Field("", description="that it is AI-made, in its language, for whoever shows it")

    @property
    def resource(self) -> str:
        return f"avatar.video.{self.job_id}"


class VideoPublished(_OfVideo):
    """A video passed its checks, or was accepted by a person, and is in place."""

    EVENT: ClassVar[str] = "avatar.video.published"


class VideoRejected(_OfVideo):
    """A video arrived, did not pass its checks, and is kept unpublished."""

    EVENT: ClassVar[str] = "avatar.video.rejected"

    reason: str = Field(description="the checks that failed")
    hint: str = Field(description="the next step")


class VideoFailed(Notice):
    """A job ended without a video, for certain."""

    EVENT: ClassVar[str] = "avatar.video.failed"

    job_id: str | None = Field(description="the job; none if its inputs could not be read")
    portrait: str = Field("", description="the image, as it was asked for")
    voice: str = Field("", description="the speech, as it was asked for")
    provider: str | None = Field(None, description="who was asked")
    error: str = Field(description="the kind of failure, as `--json` names it")
    reason: str = Field(description="what happened, what it cost, what was kept")
    hint: str | None = Field(None, description="the next step")
    render_id: str | None = Field(None, description="the render that failed")
    request_id: str | None = Field(None, description="the provider's name for it")
    at_risk: Decimal | None = Field(None, description="what may have been charged without a video")

    @property
    def resource(self) -> str:
        return f"avatar.video.{self.job_id or 'unidentified'}"


class SubmissionUnknown(Notice):
    """The answer to a paid request was lost. A person must settle it; it is never sent again by itself."""

    EVENT: ClassVar[str] = "avatar.submission.unknown"

    render_id: str = Field(description="the render, to be given to `avatar resolve`")
    job_id: str = Field(description="the job it was for")
    provider: ProviderName = Field(description="who may have accepted it")
    request_id: str | None = Field(description="seen in an answer that could not be trusted")
    at_risk: Decimal = Field(description="what may have been charged")
    reason: str = Field(description="how the answer was lost")
    hint: str = Field(description="the command that settles it")

    @property
    def resource(self) -> str:
        return f"avatar.submission.{self.render_id}"


class RenderStalled(Notice):
    """An accepted render is not to be had by itself: a person must look. It is paid for, or may be."""

    EVENT: ClassVar[str] = "avatar.render.stalled"

    render_id: str = Field(description="the render, to be given to `avatar resolve`")
    job_id: str = Field(description="the job it was for")
    provider: ProviderName = Field(description="who accepted it")
    request_id: str | None = Field(description="the provider's name for it")
    at_risk: Decimal = Field(description="what was or may have been charged")
    kind: str = Field(
        description="`lost`, `overdue`, `unreadable` (its result), `unplayable` (its video), or `stray` (accepted "
        "for an attempt that had been given up, beside the request that is followed)"
    )
    reason: str = Field(description="what was seen")
    hint: str = Field(description="the next step")

    @property
    def resource(self) -> str:
        return f"avatar.render.{self.render_id}"


class BillDiffers(Notice):
    """What was charged for a render is not what it was quoted at."""

    EVENT: ClassVar[str] = "avatar.bill.differs"

    render_id: str = Field(description="the render")
    job_id: str = Field(description="the job it was for")
    provider: ProviderName = Field(description="who charged it")
    request_id: str | None = Field(description="the provider's name for it")
    quoted: Decimal = Field(description="price before it ran")
    billed: Decimal = Field(description="what was charged")
    reason: str = Field("", description="both, in a sentence")

    @property
    def resource(self) -> str:
        return f"avatar.bill.{self.render_id}"


class JobUnfinished(Notice):
    """Something of a job is bought, it has no video, and nobody goes on with it."""

    EVENT: ClassVar[str] = "avatar.job.unfinished"

    job_id: str = Field(description="the job")
    renders: tuple[str, ...] = Field(description="ids of the renders that are bought")
    at_risk: Decimal = Field(description="what they were quoted at")
    reason: str = Field(description="what is missing, or what stood in the way")
    hint: str = Field(description="the next step")

    @property
    def resource(self) -> str:
        return f"avatar.video.{self.job_id}"


class ApprovalWanted(Notice):
    """A run waits for a person to approve its price, or to refuse it. Nothing has been sent yet."""

    EVENT: ClassVar[str] = "avatar.approval.wanted"

    run: str = Field(description="id of the flow run that waits")
    what: str = Field(description="`job` or `batch`")
    amount: Decimal = Field(description="the price that is asked about")
    until: datetime = Field(description="when the run ends by itself if nobody answers, and nothing is spent")
    reason: str = Field(description="for how much and how long it waits")
    hint: str = Field(description="how to answer")

    @property
    def resource(self) -> str:
        return f"avatar.approval.{self.run}"


class BudgetRefusal(Notice):
    """A limit that the user set stood against a job or a batch. Nothing was spent. Told once for a run of a batch."""

    EVENT: ClassVar[str] = "avatar.budget.refused"

    job_id: str | None = Field(None, description="the job, if it is one by itself")
    batch_id: str | None = Field(None, description="the batch, if it is one, or a row of one")
    reason: str = Field(description="the sum, the limit and its setting")
    hint: str | None = Field(None, description="the next step")

    @property
    def resource(self) -> str:
        return f"avatar.budget.{self.batch_id or self.job_id or 'unidentified'}"


#: Every kind, for the documentation.
NOTICES: tuple[type[Notice], ...] = (
    VideoPublished,
    VideoRejected,
    VideoFailed,
    SubmissionUnknown,
    RenderStalled,
    BillDiffers,
    JobUnfinished,
    ApprovalWanted,
    BudgetRefusal,
)

#: Ends of a job that are no news: a person's word, or told when the journal was written.
_TOLD = (errors.ApprovalDenied, errors.Cancelled, errors.OutcomeUnknown)


def about_video(settings: AvatarSettings, video: Video) -> Notice:
    """What is told of a video that was put in place."""
    facts = {
        "key": f"{video.job_id}:{video.published_at.isoformat()}",
        "job_id": video.job_id,
        "provider": video.provider,
        "model": video.model,
        "uri": video.uri,
        "link": player_url(settings, video.job_id),
        "seconds": video.seconds,
        "width": video.width,
        "height": video.height,
        "quoted": video.cost.quoted,
        "billed": video.cost.billed,
        "renders": tuple(render.render_id for render in video.renders),
        "disclosure": video.disclosure,
    }
    if video.state is VideoState.PUBLISHED:
        return VideoPublished.model_validate(facts)
    failed = [check for check in video.checks if not check.passed]
    reason = "; ".join(f"{check.name} is {check.value}, should be {check.bound}" for check in failed)
    hint = f"Look at it; {named('accept')} publishes it anyway, another take buys it anew."
    return VideoRejected.model_validate(facts | {"reason": reason, "hint": hint})


def about_unknown(record: "Record") -> SubmissionUnknown:
    """What is told of a render whose journal was just found to end in `unknown`."""
    entry, failure = record.entry, record.entry.failure
    seen = failure.request_id if failure else None
    return SubmissionUnknown(
        key=f"{entry.render_id}:{entry.attempt}",
        render_id=entry.render_id,
        job_id=entry.job_id,
        provider=entry.provider,
        request_id=seen,
        at_risk=entry.quoted,
        reason=failure.message if failure else "The answer was lost.",
        hint=f"avatar resolve {entry.render_id} --request-id {seen or 'ID'}; --not-charged only if the provider shows no "
        "such request.",
    )


def next_step(render_id: str) -> str:
    """What a person can do about a render that stalled."""
    return (
        f"`avatar resolve {render_id}` with --video-url URL (the video, as the provider's pages have it), --request-id ID, "
        "or --not-charged."
    )


def about_stalled(record: "Record") -> RenderStalled:
    """What is told of a render that was just given up on."""
    entry, failure = record.entry, record.entry.failure
    return RenderStalled(
        key=f"{entry.render_id}:{entry.seq}",
        render_id=entry.render_id,
        job_id=entry.job_id,
        provider=entry.provider,
        request_id=entry.submission.request_id if entry.submission else None,
        at_risk=entry.quoted,
        kind=failure.kind if failure else "stalled",
        reason=failure.message if failure else "",
        hint=next_step(entry.render_id),
    )


def about_stray(stray: "Stray") -> RenderStalled:
    """What is told of a request that was accepted beside the one that is followed."""
    request_id = stray.submission.request_id
    return RenderStalled(
        key=f"{stray.render_id}:{request_id}",
        render_id=stray.render_id,
        job_id=stray.job_id,
        provider=stray.submission.provider,
        request_id=request_id,
        at_risk=stray.quoted,
        kind="stray",
        reason=f"Attempt {stray.attempt} had been given up when {stray.submission.provider} accepted it as request "
        f"{request_id}; the journal follows another. Both may be charged.",
        hint=f"Ask the provider for a refund, then: avatar resolve {stray.render_id} --not-charged --request-id {request_id}",
    )


def about_bill(entry: "Entry", quoted: Decimal, billed: Decimal) -> BillDiffers:
    """What is told of a bill that is not the quote."""
    return BillDiffers(
        key=f"{entry.render_id}:{entry.attempt}:{billed}",
        render_id=entry.render_id,
        job_id=entry.job_id,
        provider=entry.provider,
        request_id=entry.submission.request_id if entry.submission else None,
        quoted=quoted,
        billed=billed,
        reason=f"{entry.provider} charged ${billed} for a render that was quoted at ${quoted}.",
    )


def about_unfinished(job_id: str, bought: "Sequence[Entry]", reason: str) -> JobUnfinished:
    """What is told of a job of which something is bought, and which nobody goes on with."""
    return JobUnfinished(
        key=f"{job_id}:{':'.join(f'{entry.render_id}.{entry.seq}' for entry in bought)}",
        job_id=job_id,
        renders=tuple(entry.render_id for entry in bought),
        at_risk=sum((entry.quoted for entry in bought), Decimal(0)),
        reason=reason,
        hint="Run the job again: it goes on, and nothing is paid for twice.",
    )


def about_error(
    error: Exception,
    *,
    run: str,
    job_id: str | None = None,
    batch_id: str | None = None,
    portrait: str = "",
    voice: str = "",
) -> Notice | None:
    """What is told of the error that ended a job.

    Args:
        error: what stood against the job.
        run: tells this end of it from others, which are told by themselves.
        job_id: the job, if it is known.
        batch_id: the batch that it is a row of.
        portrait: the image, as it was asked for.
        voice: the speech, as it was asked for.

    Returns:
        None where there is nothing to tell: a person stopped it, or it was told when it was written down.
    """
    if isinstance(error, errors.BudgetRefused):
        of = {"batch_id": batch_id} if batch_id else {"job_id": job_id}
        return BudgetRefusal(key=f"{batch_id or job_id}:{run}", reason=str(error), hint=error.hint, **of)
    if isinstance(error, _TOLD) or (isinstance(error, errors.VideoRejected) and error.in_place):
        return None
    described = error.describe() if isinstance(error, errors.AvatarError) else {}
    return VideoFailed(
        key=f"{job_id or f'{portrait} {voice}'}:{run}",
        job_id=job_id,
        portrait=shown(portrait),
        voice=shown(voice),
        error=type(error).__name__,
        reason=described.get("message") or f"{type(error).__name__}: {error}",
        at_risk=getattr(error, "cost_at_risk", None),
        **{name: described.get(name) for name in ("hint", "provider", "render_id", "request_id")},
    )

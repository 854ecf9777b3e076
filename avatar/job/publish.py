"""Put a job's video in place: inspected, with poster, contact strip and manifest. The manifest is written last.

A video that does not pass is kept in the same place and marked `rejected`: shown with the reason, not bought again.
"""

import asyncio
import importlib.metadata
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from avatar.errors import ObjectNotFound, StoreUnavailable, VideoRejected
from avatar.events import about_video
from avatar.job.formats import add_forms_or_note
from avatar.job.record import (
    caption_files,
    file_marks,
    place_captions,
    place_video,
    video_prefix,
    write_record,
)
from avatar.media.decoder_calls import inspect_video, stitch, write_marked
from avatar.media.disclosure import CaptionTrack, MarkedFile, Marks, disclosure_for
from avatar.media.facts import Part, Stills, VideoFacts
from avatar.models import Plan, Video, VideoState
from avatar.money.commit import close_job
from avatar.money.entries import Record, RenderState
from avatar.money.inspect_render import Seen, take_seen
from avatar.money.quote import bill_differs
from avatar.option_names import named
from avatar.store.objects import hash_file
from avatar.stored_models import Check, Cost, Render
from avatar.workspace import Workspace

# How long the stages of a job took, by the journal.
#: Stage, and the states between which it lies.
_STAGES = (
    ("submit", RenderState.INTENT, RenderState.SUBMITTED),
    ("render", RenderState.SUBMITTED, RenderState.RENDERED),
    ("collect", RenderState.RENDERED, RenderState.COLLECTED),
)


async def time_stages(workspace: Workspace, renders: Sequence[Render]) -> dict[str, float]:
    """Seconds by stage, over all renders together: from the first that entered it to the last that left it."""
    histories = [await workspace.journal.history(render.render_id) for render in renders]
    timings = {name: _span(histories, start, end) for name, start, end in _STAGES}
    collected = max(render.collected_at for render in renders)
    timings["publish"] = _seconds(datetime.now(UTC) - collected)
    return {name: seconds for name, seconds in timings.items() if seconds is not None}


def _span(histories: Sequence[tuple[Record, ...]], start: RenderState, end: RenderState) -> float | None:
    began = [record.entry.at for history in histories for record in history if record.state is start]
    ended = [record.entry.at for history in histories for record in history if record.state is end]
    return _seconds(max(ended) - min(began)) if began and ended else None


def _seconds(span: timedelta) -> float:
    """Never negative: entries may come from machines whose clocks differ."""
    return round(max(0.0, span.total_seconds()), 3)


# From the renders of a job to one file: each render inspected, put together under the original voice, inspected.
#: A render whose length is within this of its voice, in seconds, is published as the provider made it.
CLOSE_ENOUGH = 0.1


@dataclass(frozen=True)
class Assembled:
    """A job's video before it is put in place, and all that was found out about it."""

    path: Path
    facts: VideoFacts
    checks: tuple[Check, ...]
    stills: Stills
    notes: tuple[str, ...] = ()
    provider_marks: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Finishing:
    """What goes into the published file beside picture and sound."""

    marks: Marks
    captions: tuple[CaptionTrack, ...]
    made_of: tuple[Path, ...]

    def apply(self, source: Path, target: Path) -> MarkedFile:
        return write_marked(source, target, self.marks, self.captions, self.made_of)


async def assemble(workspace: Workspace, plan: Plan, renders: Sequence[Render], folder: Path) -> Assembled:
    """Fetch, inspect and join the renders in `folder`. A failed check does not raise: it is in the result."""
    voice = folder / f"voice.{plan.voice.heard.key.rsplit('.', 1)[-1]}"
    await workspace.download(plan.voice.heard.key, voice)
    pieces = []
    for number, render in enumerate(renders):
        pieces.append(folder / f"part-{number:04d}.mp4")
        await workspace.download(render.key, pieces[-1])
    captions = await caption_files(workspace, plan.captions, folder)
    finishing = _Finishing(file_marks(plan), captions, tuple(pieces))
    seen = [take_seen(workspace.looks, plan, *pair) for pair in zip(plan.segments, renders, strict=True)]
    if len(pieces) == 1:
        return await asyncio.to_thread(_single, plan, voice, folder, finishing, seen[0])
    heard = []
    for segment in plan.segments:
        heard.append(folder / f"segment-{segment.index:04d}.{segment.asset.key.rsplit('.', 1)[-1]}")
        await workspace.download(segment.asset.key, heard[-1])
    beside = [*zip(heard, seen, strict=True)]
    return await asyncio.to_thread(_several, plan, beside, voice, folder, finishing)


def _single(plan: Plan, voice: Path, folder: Path, finishing: _Finishing, seen: Seen | None) -> Assembled:
    """Picture and sound as the provider made them, unless their length or layout needs mending."""
    stills, (piece,), target = _stills(folder), finishing.made_of, folder / "finished.mp4"
    try:
        finished = finishing.apply(piece, target)
    except VideoRejected as error:
        target, finished = piece, MarkedFile((f"it is not marked as AI-made: {error}",), copied=False)
    if seen and (finished.is_exact or target is piece):
        facts, checks = seen.of_file(target, stills)
    else:
        facts, checks = inspect_video(target, plan.voice.seconds, voice=voice, stills=stills)
    sound = all(check.passed for check in checks)
    if not sound or (abs(facts.seconds - plan.voice.seconds) <= CLOSE_ENOUGH and finished.copied):
        return Assembled(target, facts, checks, stills, provider_marks=finished.kept)
    return _joined(plan, voice, folder, finishing)


def _several(
    plan: Plan, beside: Sequence[tuple[Path, Seen | None]], voice: Path, folder: Path, finishing: _Finishing
) -> Assembled:
    """Joined; a render that fails its own checks fails the whole, and says which one it was."""
    failed: list[Check] = []
    for segment, piece, (sound, seen) in zip(plan.segments, finishing.made_of, beside, strict=True):
        checks = seen.checks if seen else inspect_video(piece, segment.seconds, voice=sound)[1]
        failed += [
            check.model_copy(update={"name": f"segment {segment.index + 1}: {check.name}"})
            for check in checks
            if not check.passed
        ]
    made = _joined(plan, voice, folder, finishing)
    return replace(made, checks=(*made.checks, *failed))


def _joined(plan: Plan, voice: Path, folder: Path, finishing: _Finishing) -> Assembled:
    joined, target = folder / "joined.mp4", folder / "video.mp4"
    parts = [
        Part(path=piece, start=_exact(start), end=_exact(end))
        for piece, (start, end) in zip(finishing.made_of, _spans(plan), strict=True)
    ]
    stitched = stitch(parts, voice, joined)
    finished = finishing.apply(joined, target)
    stills = _stills(folder)
    facts, checks = inspect_video(target, plan.voice.seconds, voice=voice, stills=stills)
    return Assembled(target, facts, checks, stills, stitched.notes, finished.kept)


def _stills(folder: Path) -> Stills:
    return Stills(folder / "poster.jpg", folder / "contact.jpg")


def _spans(plan: Plan) -> list[tuple[float, float]]:
    return [(segment.start, segment.start + segment.seconds) for segment in plan.segments]


def _exact(seconds: float) -> Fraction:
    return Fraction(seconds).limit_denominator(1_000_000)


async def find_video(workspace: Workspace, job_id: str) -> Video | None:
    """The job's video, published or rejected, or None. A manifest is believed only if its video is still there.

    Raises:
        StoreUnavailable: the store failed; never taken for "not there".
    """
    try:
        blob = await workspace.store.get(f"{video_prefix(job_id)}manifest.json")
    except ObjectNotFound:
        return None
    try:
        video = Video.model_validate_json(blob.data)
    except ValidationError as error:
        raise StoreUnavailable(
            f"The manifest of job {job_id} cannot be read ({error.error_count()} faults). Nothing was sent or spent."
        ) from error
    return video if await workspace.store.exists(video.key) else None


async def publish_video(
    workspace: Workspace,
    plan: Plan,
    renders: Sequence[Render],
    *,
    accept: bool = False,
    flow_run_url: str | None = None,
) -> Video:
    """Assemble, inspect and put in place. What fails a check is put in place too, as `rejected`.

    Args:
        workspace: settings, store and journal.
        plan: the job's plan.
        renders: its renders, in the order of the segments.
        accept: publish it whatever the checks say.
        flow_run_url: the Prefect run, for the manifest.
    """
    with tempfile.TemporaryDirectory(dir=workspace.scratch) as folder, _naming_what_is_kept(renders):
        made = await assemble(workspace, plan, renders, Path(folder))
        keys = await _put_in_place(workspace, plan, made)
        captions = await place_captions(workspace, plan.job_id, plan.captions)
        passed = accept or all(check.passed for check in made.checks)
        video = _describe(
            workspace,
            plan,
            renders,
            made,
            state=VideoState.PUBLISHED if passed else VideoState.REJECTED,
            timings=await time_stages(workspace, renders),
            flow_run_url=flow_run_url,
            captions=captions,
            **keys,
        )
    await _write_manifest(workspace, video)
    return await add_forms_or_note(workspace, video, plan.formats) if passed and plan.formats else video


@contextmanager
def _naming_what_is_kept(renders: Sequence[Render]) -> Iterator[None]:
    """A render that decoded when it was collected, and does not now."""
    try:
        yield
    except VideoRejected as error:
        kept = ", ".join(render.key for render in renders)
        raise VideoRejected(
            f"The video cannot be put together: {error} Nothing was published. What was paid for is kept as {kept}, "
            "and is not bought again by itself.",
            provider=renders[0].provider,
            render_id=renders[0].render_id,
            request_id=renders[0].request_id,
            cost_at_risk=sum((render.billed for render in renders), Decimal(0)),
            hint="Look at what is kept; run the job again to try once more, without paying again.",
        ) from error


async def accept_video(workspace: Workspace, video: Video) -> Video:
    """Publish a rejected video on a person's word. Buys nothing."""
    note = f"accepted by a person at {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC although checks failed"
    accepted = video.model_copy(update={"state": VideoState.PUBLISHED, "notes": (*video.notes, note)})
    await _write_manifest(workspace, accepted)
    return accepted


async def name_video(
    workspace: Workspace,
    video: Video,
    *,
    title: str | None = None,
    language: str | None = None,
    labels: Mapping[str, str] | None = None,
) -> Video:
    """Call a video otherwise; what is None stays. A label with an empty value is taken away. Costs nothing."""
    kept = {name: value for name, value in (video.labels | dict(labels or {})).items() if value}
    named = video.model_copy(
        update={
            "title": video.title if title is None else title,
            "language": video.language if language is None else language,
            "disclosure": video.disclosure if language is None else disclosure_for(language),
            "labels": kept,
        }
    )
    if named != video:
        await write_record(workspace, named)
    return named


def require_published(video: Video) -> Video:
    """The video, or `VideoRejected` with what is wrong, what it cost and where it is kept."""
    if video.state is VideoState.PUBLISHED:
        return video
    failed = [check for check in video.checks if not check.passed]
    reasons = "; ".join(f"{check.name} is {check.value}, should be {check.bound}" for check in failed)
    raise VideoRejected(
        f"The video of job {video.job_id} did not pass its checks: {reasons}. It is kept as {video.uri}, is not "
        f"published, and is not bought again by itself. ${video.cost.billed:.2f} was charged for it.",
        provider=video.provider,
        render_id=video.renders[0].render_id,
        request_id=video.renders[0].request_id,
        cost_at_risk=video.cost.billed,
        in_place=True,
        hint=f"Look at it; {named('accept')} publishes it anyway, another take buys it anew.",
    )


async def _put_in_place(workspace: Workspace, plan: Plan, made: Assembled) -> dict[str, Any]:
    store, prefix = workspace.store, video_prefix(plan.job_id)
    placed = await place_video(workspace, plan, made.path)
    for name, picture in (("poster.jpg", made.stills.poster), ("contact.jpg", made.stills.contact)):
        digest = await asyncio.to_thread(hash_file, picture)
        await store.put_file(
            f"{prefix}{name}", picture, content_type="image/jpeg", sha256=digest, overwrite=True
        )
        await workspace.copies.keep(f"{prefix}{name}", picture)
    return placed


async def _write_manifest(workspace: Workspace, video: Video) -> None:
    await write_record(workspace, video)
    await close_job(workspace, video.job_id)
    workspace.notify(about_video(workspace.settings, video))


def _describe(
    workspace: Workspace, plan: Plan, renders: Sequence[Render], made: Assembled, **more: Any
) -> Video:
    prefix = video_prefix(plan.job_id)
    return Video(
        job_id=plan.job_id,
        provider=renders[0].provider,
        model=plan.model,
        poster_key=f"{prefix}poster.jpg",
        contact_key=f"{prefix}contact.jpg",
        manifest_key=f"{prefix}manifest.json",
        seconds=made.facts.seconds,
        width=made.facts.width,
        height=made.facts.height,
        cost=Cost(quoted=plan.quote.amount, billed=sum((render.billed for render in renders), Decimal(0))),
        segments=plan.segments,
        renders=tuple(renders),
        checks=made.checks,
        notes=(*made.notes, *_bills(workspace, plan, renders)),
        warnings=plan.warnings,
        portrait=plan.portrait,
        voice=plan.voice,
        consent=plan.consent,
        disclosure=disclosure_for(plan.language),
        provider_marks=made.provider_marks,
        prompt=plan.prompt,
        take=plan.take,
        continuity=plan.continuity,
        title=plan.title,
        language=plan.language,
        labels=plan.labels,
        files=plan.files,
        published_at=datetime.now(UTC),
        versions=_versions(),
        **more,
    )


def _bills(workspace: Workspace, plan: Plan, renders: Sequence[Render]) -> list[str]:
    """A note for each render whose bill is not its quote."""
    return [
        f"render {render.render_id} was quoted at ${render.quoted} and billed at ${render.billed}"
        for render in renders
        if bill_differs(
            render.quoted, render.billed, workspace.provider(render.provider, plan.model).price_per_second
        )
    ]


@cache
def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in ("avatar-flows", "av", "prefect")}

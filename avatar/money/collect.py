"""Bring a finished render home: its result into the journal first, then its video into the store."""

import asyncio
import tempfile
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

from pydantic import Field, ValidationError

from avatar import waiting
from avatar.errors import (
    ObjectNotFound,
    ProviderUnavailable,
    Refused,
    RenderFailed,
    RenderLost,
    ResultUnreadable,
    StillRendering,
    VideoRejected,
)
from avatar.events import about_bill, next_step
from avatar.media.decoder_calls import probe_video
from avatar.media.facts import VideoFacts
from avatar.models import RemoteVideo
from avatar.money.budget import BILLED, DIFFERS, INVOICE_DIFFERS, INVOICED
from avatar.money.entries import TRANSITIONS, Entry, Failure, Record, RenderState
from avatar.money.failures import confirm_failure, give_up, raise_failed, submission_of
from avatar.money.follow import is_overdue
from avatar.money.quote import CENT_FRACTION, bill_differs
from avatar.money.webhooks import drop_notes
from avatar.option_names import named
from avatar.providers.base import Provider
from avatar.store.by_day import RENDERS, note_day
from avatar.store.objects import hash_file
from avatar.store.store import Store
from avatar.stored_models import Model, Render
from avatar.workspace import Workspace

# What stays where something paid for was deleted by a rule: why it is gone, and what it was.
VIDEOS = "videos"


class ExpiredRecord(Model):
    """One deleted thing: `expired/videos/<job_id>.json`, `expired/renders/<render_id>.json`."""

    name: str
    at: datetime = Field(description="when it was deleted, by the store's clock")
    days: int = Field(description="the rule that it was deleted by")
    keys: tuple[str, ...]
    renders: tuple[str, ...] = Field((), description="of a published video: object keys of its renders")


def expired_key(kind: str, name: str) -> str:
    return f"expired/{kind}/{name}.json"


async def read_expired(store: Store, kind: str, name: str) -> ExpiredRecord | None:
    """Why something is gone; None if no rule deleted it. Raises `StoreUnavailable`."""
    try:
        blob = await store.get(expired_key(kind, name))
        return ExpiredRecord.model_validate_json(blob.data)
    except (ObjectNotFound, ValidationError):
        return None


#: Seconds after which a result that names no video is asked for again.
READ_AGAIN = (2.0, 5.0, 10.0)
#: Times a video is fetched that does not decode: a transfer can be damaged without being cut.
FETCHES = 3
#: Seconds after which a video that did not play is fetched again, round after round. Then a person must look.
FETCH_AGAIN = (300.0, 1800.0, 7200.0, 21600.0)


async def collect_render(workspace: Workspace, render_id: str) -> Render:
    """Return the render as kept in the store, fetching it from the provider if it is not there yet.

    Raises:
        RenderFailed: the provider's result says that it failed, and its status that it ended; recorded.
        ResultUnreadable: the result names no video; recorded with the answer, verbatim.
        RenderLost, DownloadFailed, ProviderUnavailable: not fetched; the request id is kept, try again.
        VideoRejected: the video does not decode, after `FETCHES` downloads. The file is kept; after as many rounds as
            `FETCH_AGAIN` has pauses, the render has stalled and is booked.
    """
    record = await workspace.journal.last_seen(render_id)
    if record is None or record.entry.submission is None:
        raise RenderLost(f"The journal holds no submission for render {render_id}.", render_id=render_id)
    if record.state is RenderState.FAILED:
        raise_failed(record)
    if record.entry.render is not None and await workspace.store.exists(record.entry.render.key):
        await _book(workspace, record, record.entry.render)
        return record.entry.render
    if record.entry.render is not None:
        await _refuse_expired(workspace, record.entry)
    with tempfile.TemporaryDirectory(dir=workspace.scratch) as folder:
        path = Path(folder) / "video.mp4"
        record, facts = await _fetch(workspace, record, path)
        render = await _keep(workspace, record, path, facts)
    if record.state is not RenderState.COLLECTED:
        record = await _collected(workspace, record, render)
    await _book(workspace, record, record.entry.render or render)
    return record.entry.render or render


async def _collected(workspace: Workspace, record: Record, render: Render) -> Record:
    """Written down, or what another wrote who collected it at the same moment."""
    while (written := await workspace.journal.append(record, RenderState.COLLECTED, render=render)) is None:
        newest = await workspace.journal.head(render.render_id)
        if newest is None or RenderState.COLLECTED not in TRANSITIONS[newest.state] | {newest.state}:
            raise StillRendering(
                f"Render {render.render_id} was moved on by another.", render_id=render.render_id
            )
        record = newest
        if record.state is RenderState.COLLECTED:
            return record
    return written


async def _refuse_expired(workspace: Workspace, entry: Entry) -> None:
    """A render that the user had deleted is neither fetched nor bought again by itself."""
    mark = await read_expired(workspace.store, RENDERS, entry.render_id)
    if mark is not None:
        raise Refused(
            f"Render {entry.render_id} was bought before, and deleted on {mark.at:%Y-%m-%d} by the rule of "
            f"{mark.days} days in AVATAR_RETENTION__RENDERS_DAYS. It is not bought again by itself; nothing was sent "
            "or spent.",
            provider=entry.provider,
            render_id=entry.render_id,
            hint=f"Another take buys it anew: {named('take')}.",
        )


async def _book(workspace: Workspace, record: Record, render: Render) -> None:
    """What was set aside becomes what was billed; then the render is at rest, unless something else was accepted."""
    await book_bill(workspace, record.entry, render.billed)
    if not record.strays:
        await workspace.journal.close(render.render_id)
    if workspace.settings.bridge.public_url is not None:
        await drop_notes(workspace.store, render.render_id)


def _provider(workspace: Workspace, entry: Entry) -> Provider:
    """Who was asked, for the model that it was asked for."""
    return workspace.provider(entry.provider, entry.submission.model if entry.submission else None)


async def book_bill(workspace: Workspace, entry: Entry, billed: Decimal) -> None:
    """Book what the provider's answer says that it charges, and tell if that is not what was quoted."""
    if entry.claimed_on is None:
        return
    differs = bill_differs(entry.quoted, billed, _provider(workspace, entry).price_per_second)
    token = DIFFERS if differs else BILLED
    await workspace.budget.settle(entry.claimed_on, entry.render_id, billed, claim=entry.claim, token=token)
    if differs:
        workspace.notify(about_bill(entry, entry.quoted, billed))


async def book_invoice(workspace: Workspace, entry: Entry, amount: Decimal) -> None:
    """Book what the provider's own books say, and tell if that is not what was quoted."""
    if entry.claimed_on is None:
        return
    differs = bill_differs(entry.quoted, amount, _provider(workspace, entry).price_per_second)
    token = INVOICE_DIFFERS if differs else INVOICED
    await workspace.budget.settle(entry.claimed_on, entry.render_id, amount, claim=entry.claim, token=token)
    if differs:
        workspace.notify(about_bill(entry, entry.quoted, amount))


async def _fetch(workspace: Workspace, record: Record, path: Path) -> tuple[Record, VideoFacts]:
    """The video as a file that plays, and the record by which it was fetched."""
    provider = _provider(workspace, record.entry)
    for last in (False,) * (FETCHES - 1) + (True,):
        record = await _with_result(workspace, record, provider)
        record = await _download(workspace, record, provider, path)
        try:
            return record, await _probe(workspace, record.entry.render_id, path)
        except VideoRejected as error:
            if last:
                raise await _keep_unplayable(workspace, record, path, error) from error
    raise AssertionError("unreachable")  # pragma: no cover


async def _probe(workspace: Workspace, render_id: str, path: Path) -> VideoFacts:
    """Decoded to the end, in one pass with all that its job wants to know of it."""
    look = workspace.looks.get(render_id)
    if look and (facts := await look.take(path)):
        return facts
    return await asyncio.to_thread(probe_video, path)


async def _with_result(workspace: Workspace, record: Record, provider: Provider) -> Record:
    """The record with the provider's result in it, journaled before anything is downloaded."""
    return record if record.entry.remote is not None else await _ask_result(workspace, record, provider)


async def _ask_result(workspace: Workspace, record: Record, provider: Provider) -> Record:
    try:
        remote = await _readable_result(record, provider)
    except RenderFailed as error:
        if record.state is not RenderState.COLLECTED:
            await confirm_failure(workspace, record, error)
        raise
    except RenderLost as error:
        # Its status may say that it is done: a result is kept for a while only.
        if record.state is not RenderState.COLLECTED and is_overdue(workspace, submission_of(record)):
            await give_up(workspace, record, "lost", str(error))
        raise
    except ResultUnreadable as error:
        if record.state is not RenderState.COLLECTED:
            await give_up(workspace, record, "unreadable", str(error), answer=error.answer)
        error.cost_at_risk = record.entry.quoted
        error.hint = f"Look at the request on the provider's pages, then: {next_step(record.entry.render_id)}"
        raise
    if record.state is RenderState.COLLECTED:  # the journal is at rest; only the file had gone
        return Record(record.entry.model_copy(update={"remote": remote}), record.age)
    written = await workspace.journal.append(record, RenderState.RENDERED, remote=remote, failure=None)
    return written or await workspace.journal.head(record.entry.render_id) or record


async def _readable_result(record: Record, provider: Provider) -> RemoteVideo:
    """The provider's result. One that names no video may name it a moment later."""
    submission = submission_of(record)
    for pause in () if record.state is RenderState.STALLED else READ_AGAIN:
        try:
            return await provider.collect(submission)
        except ResultUnreadable:
            await waiting.rest(pause)
    return await provider.collect(submission)


async def _download(workspace: Workspace, record: Record, provider: Provider, path: Path) -> Record:
    remote = _remote(record)
    try:
        await provider.download(remote, path)
    except ProviderUnavailable as error:
        if error.kind != "expired":
            raise
        # Its URL is refused; the provider may still give a fresh one for the request id. If that is refused too, it has
        # not got around yet.
        record = await _ask_result(workspace, record, provider)
        await provider.download(_remote(record), path)
    return record


def _remote(record: Record) -> RemoteVideo:
    if record.entry.remote is None:
        raise RenderLost(f"Render {record.entry.render_id} has no result.", render_id=record.entry.render_id)
    return record.entry.remote


async def _keep(workspace: Workspace, record: Record, path: Path, facts: VideoFacts) -> Render:
    entry, submission = record.entry, record.entry.submission
    assert submission is not None  # noqa: S101 - checked at the door
    key, sha256 = await _store_video(workspace, entry.render_id, path)
    return Render(
        render_id=entry.render_id,
        provider=entry.provider,
        request_id=submission.request_id,
        key=key,
        sha256=sha256,
        size=path.stat().st_size,
        seconds=facts.seconds,
        width=facts.width,
        height=facts.height,
        quoted=entry.quoted,
        billed=_billed(_remote(record), facts, _provider(workspace, entry)),
        submitted_at=submission.submitted_at,
        collected_at=datetime.now(UTC),
    )


async def _store_video(workspace: Workspace, render_id: str, path: Path) -> tuple[str, str]:
    """Keep the file under its content: two collectors write the same key and the same bytes."""
    sha256 = await asyncio.to_thread(hash_file, path)
    key = f"renders/{render_id}/{sha256}.mp4"
    await note_day(workspace.store, RENDERS, f"renders/{render_id}")
    # What is there under this name can only be the same, or damaged.
    await workspace.store.put_file(key, path, content_type="video/mp4", sha256=sha256, overwrite=True)
    await workspace.copies.keep(key, path)
    return key, sha256


async def _keep_unplayable(
    workspace: Workspace, record: Record, path: Path, error: VideoRejected
) -> VideoRejected:
    """Keep the file, note the round, and give up after the last one: it is booked then, and told."""
    entry = record.entry
    key, _ = await _store_video(workspace, entry.render_id, path)
    text = (
        f"The video of render {entry.render_id} cannot be played: {error} It was fetched "
        f"{FETCHES * (entry.tries + 1)} times. The file is kept as {key}; it is not bought again by itself."
    )
    if record.state is RenderState.RENDERED:
        last = entry.tries >= len(FETCH_AGAIN)
        failure = Failure(kind="unplayable", message=text)
        noted = await workspace.journal.append(
            record, RenderState.RENDERED, failure=failure, tries=entry.tries + 1
        )
        if noted is not None and last:
            # In this order: a render that has stalled so is not looked at again, and its bill would stay open.
            await book_bill(workspace, entry, _billed_unseen(workspace, entry))
            await give_up(workspace, noted, "unplayable", text)
    return VideoRejected(
        text,
        provider=entry.provider,
        render_id=entry.render_id,
        request_id=entry.submission.request_id if entry.submission else None,
        cost_at_risk=entry.quoted,
        hint=f"Ask the provider for a refund with the request id; another take buys it anew: {named('take')}.",
    )


def _billed_unseen(workspace: Workspace, entry: Entry) -> Decimal:
    """US dollars for a video that nobody could look at: what the provider says it bills, else the quote."""
    seconds = entry.remote.billed_seconds if entry.remote else None
    if seconds is None:
        return entry.quoted
    return (seconds * _provider(workspace, entry).price_per_second).quantize(CENT_FRACTION)


def _billed(remote: RemoteVideo, facts: VideoFacts, provider: Provider) -> Decimal:
    """US dollars: what the provider says it bills, else the length of what came back."""
    seconds = (
        remote.billed_seconds if remote.billed_seconds is not None else Decimal(str(round(facts.seconds, 3)))
    )
    return (seconds * provider.price_per_second).quantize(CENT_FRACTION)

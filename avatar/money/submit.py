"""The one paid request of a render, under the journal.

Read `submit_render` from the top: look at the journal, follow if somebody was there before, otherwise write the
intent, send exactly one request, and write down how it ended. A request is sent only by whoever created the intent.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from avatar.errors import (
    NotSent,
    OutcomeUnknown,
    StoreUnavailable,
    StoreUnfit,
    SubmitRefused,
    Throttled,
    Transient,
)
from avatar.events import about_stray, about_unknown
from avatar.models import Plan, Submission
from avatar.money import local_receipts
from avatar.money.attempt import Attempt, as_failure
from avatar.money.commit import is_unpaid
from avatar.money.entries import Failure, Record, RenderState, Sent
from avatar.money.failures import raise_failed, raise_unknown
from avatar.money.quote import QuotedRender, quote_render
from avatar.money.state import file_name, read_current
from avatar.money.webhooks import WebhookAddresses
from avatar.providers.base import RenderInputs
from avatar.store.conditional_create import keeps_conditional_create
from avatar.stored_models import Segment
from avatar.waiting import Moment, patiently, seen_through
from avatar.workspace import Step, Workspace

#: States in which the provider has accepted the render.
ACCEPTED = {RenderState.SUBMITTED, RenderState.RENDERED, RenderState.STALLED, RenderState.COLLECTED}


# A turn at a provider's account: held for as long as it has a render, so that all runs together keep to its limit.
_UNDER_WAY = {RenderState.INTENT, RenderState.SUBMITTED}


@asynccontextmanager
async def hold_turn(workspace: Workspace, plan: Plan, segment: Segment) -> AsyncIterator[None]:
    """Wait for a turn before the intent is written, and hold it while the provider has the render.

    What is free, at rest or in the store already takes none. Raises `StoreUnavailable` if the store failed.
    """
    order = quote_render(workspace, plan, segment)
    if not order.provider.capabilities.paid:
        yield
        return
    new = workspace.journal.seemed_new(order.render_id)
    head = None if new else await patiently(lambda: workspace.journal.head(order.render_id))
    under_way = head is not None and head.state in _UNDER_WAY
    if not under_way and not is_unpaid(head):
        yield
        return
    async with workspace.turns.hold(plan.provider, under_way=under_way):
        yield


log = logging.getLogger("avatar.submit")

#: Paid requests begun for one render in one go: each but the last was provably not sent, or refused for now. And how
#: often another run may be first, which is no attempt of ours.
MAX_ATTEMPTS, MAX_FORESTALLED = 6, 20
#: Longest wait a provider's Retry-After is followed for, in seconds.
MAX_RETRY_AFTER = 120.0
#: A link must outlive the longest queue, and S3 signs for 7 days at most.
LINK_LIFETIME = timedelta(days=2)

_FREE_TO_TRY = {RenderState.NOT_SENT, RenderState.REFUSED, RenderState.RESOLVED}


async def submit_render(
    workspace: Workspace, plan: Plan, segment: Segment, *, claim: str | None = None
) -> Record:
    """Make sure that this render was asked for exactly once, by us or by another.

    Args:
        workspace: settings, store, journal and budget.
        plan: the job's plan.
        segment: the part of it to be rendered.
        claim: the key of what is set aside for it. Without one, or with one that is too old, it is claimed here.

    Returns:
        The journal's newest record: submitted, rendered, stalled or collected.

    Raises:
        NotSent, Throttled: not sent, or refused for now, `MAX_ATTEMPTS` times.
        SubmitRefused, RenderFailed: the provider said no; the text says whether it charges.
        OutcomeUnknown: it may have been accepted; only a person or the provider can tell.
        BudgetRefused: what was set aside had become too old, and the day has no money left.
        StoreUnfit: the store cannot keep two workers from paying for the same render.
        StoreUnavailable: the store failed for minutes, or other runs were first again and again. Nothing is sent
            without its word.
    """
    order = quote_render(workspace, plan, segment)
    ready: _Ready | None = None
    wait, attempts, forestalled = 1.0, 0, 0
    while attempts < MAX_ATTEMPTS and forestalled < MAX_FORESTALLED:
        # One that is not new any more is noticed by whoever begins it.
        new = workspace.journal.seemed_new(order.render_id)
        record = None if new else await _settled(workspace, order)
        if record is not None and record.state in ACCEPTED:
            return record
        if ready is None:
            ready = await patiently(lambda: _prepare(workspace, order))
        try:
            claim = await _claimed(workspace, order, claim)
            begun = await _begin(workspace, order, record, claim, ready.inputs)
            if begun is None:
                forestalled += 1
                continue  # look at what the other run wrote
            record = await _send(workspace, order, ready, begun)
            if record.state in ACCEPTED:
                return record
            attempts += 1
        except SubmitRefused:
            await _give_back(workspace, claim)
            raise
        except (NotSent, Throttled) as error:
            attempts += 1
            if attempts == MAX_ATTEMPTS:
                await _give_back(workspace, claim)
                raise
            wait = _pause(error, wait)
            log.warning("%s Trying again in %.0f s.", error, wait)
            await asyncio.sleep(wait)
    raise StoreUnavailable(f"Render {order.render_id} is contended: other runs keep taking its turn.")


async def _claimed(workspace: Workspace, order: QuotedRender, claim: str | None) -> str | None:
    """A claim that is good for sending now. A free provider needs none."""
    if not order.provider.capabilities.paid:
        return None
    return await patiently(lambda: workspace.budget.ensure(claim, order.render_id, order.quoted))


async def _give_back(workspace: Workspace, claim: str | None) -> None:
    with contextlib.suppress(StoreUnavailable):  # `reconcile` gives it back then
        await workspace.budget.release(claim)


@dataclass(frozen=True)
class _Ready:
    """All that a paid request needs, save its intent."""

    inputs: RenderInputs
    addresses: WebhookAddresses | None


async def _begin(
    workspace: Workspace, order: QuotedRender, after: Record | None, claim: str | None, inputs: RenderInputs
) -> Attempt | None:
    """An attempt of ours, begun just now. None: somebody else was first.

    Raises:
        NotSent: it took too long (the machine slept, or the store was away): others may have given the attempt up by
            now, or its claim back, which no intent named until then.
    """
    seen = Moment.now()
    intent = await workspace.journal.begin(
        after,
        render_id=order.render_id,
        job_id=order.plan.job_id,
        provider=order.plan.provider,
        quoted=order.quoted,
        claim=claim,
        sent=_sent(order, inputs),
    )
    if intent is None:
        return None
    is_claimed = claim is None or workspace.budget.is_usable(claim)
    workspace.budget.use(claim)
    attempt = Attempt(workspace.journal, intent, seen)
    if is_claimed and attempt.is_fresh():
        return attempt
    late = NotSent(
        f"Render {order.render_id} was not sent: setting its price aside and noting it in the store took too long to "
        "rely on (the store was slow, or this machine slept). Nothing was spent; it may be tried again.",
        render_id=order.render_id,
    )
    await _note(attempt, RenderState.NOT_SENT, as_failure(late, "not_sent"))
    raise late


def _sent(order: QuotedRender, inputs: RenderInputs) -> Sent:
    return Sent(
        endpoint=order.provider.endpoint,
        model=order.plan.model,
        prompt=order.plan.prompt,
        portrait=file_name(inputs.portrait_url),
        voice=file_name(inputs.voice_url),
        at=datetime.now(UTC),
    )


async def _prepare(workspace: Workspace, order: QuotedRender) -> _Ready:
    """All that can fail before the intent is written: keys, the store's fitness, links, uploads."""
    order.provider.check_configured()
    if order.provider.capabilities.paid and not await keeps_conditional_create(workspace.store):
        raise StoreUnfit(
            "This store overwrites an object although asked not to (it ignores If-None-Match), so two workers could "
            "pay for the same render. Paid providers are refused on it; nothing was sent or spent.",
            render_id=order.render_id,
            hint="Use MinIO (Silo, AIStor), AWS S3, Ceph RGW or SeaweedFS; `avatar doctor` tells which stores are fit.",
        )
    links = [
        await workspace.store.presign(asset.key, expires=LINK_LIFETIME)
        for asset in (order.plan.portrait.asset, order.segment.asset)
    ]
    inputs = RenderInputs(
        render_id=order.render_id,
        portrait=order.plan.portrait,
        segment=order.segment,
        prompt=order.plan.prompt,
        portrait_url=links[0],
        voice_url=links[1],
    )
    return _Ready(await order.provider.deliver(inputs), await _webhook_addresses(workspace, order))


async def _webhook_addresses(workspace: Workspace, order: QuotedRender) -> WebhookAddresses | None:
    """What addresses of webhooks are made with, if they are wanted and the provider has them."""
    wanted = workspace.settings.bridge.public_url is not None and order.provider.capabilities.webhook
    return await workspace.webhook_addresses() if wanted else None


async def _settled(workspace: Workspace, order: QuotedRender) -> Record | None:
    """Wait until nobody else is in the middle of the request, then return where the render stands.

    Raises for states that only a person can leave.
    """
    while True:
        record = await patiently(lambda: read_current(workspace, order.render_id))
        if record is None or record.state in _FREE_TO_TRY | ACCEPTED:
            return record
        if record.state is RenderState.UNKNOWN:
            raise_unknown(record)
        if record.state is RenderState.FAILED:
            if record.entry.failure and record.entry.failure.billed is False:
                return record
            raise_failed(record)
        workspace.announce(
            Step("submit", f"another run ({record.entry.holder}) is submitting it; waiting", order.render_id)
        )
        await asyncio.sleep(1.0)


async def _send(workspace: Workspace, order: QuotedRender, ready: _Ready, attempt: Attempt) -> Record:
    """Send the paid request once, and write down how it ended whatever happens."""
    inputs = replace(ready.inputs, may_send=attempt.may_send)
    if ready.addresses:
        inputs = ready.addresses.with_address(inputs, attempt.record.entry)
    try:
        with attempt:
            submission = await seen_through(order.provider.submit(inputs))
    except NotSent as error:
        await _note(attempt, RenderState.NOT_SENT, as_failure(error, "not_sent"))
        raise
    except Throttled as error:
        await _note(attempt, RenderState.REFUSED, as_failure(error, "throttled"))
        raise
    except SubmitRefused as error:
        await _note(attempt, RenderState.REFUSED, as_failure(error, error.kind))
        raise
    except BaseException as error:
        # Also a cancellation or a defect of ours in mid-request: the request may have left.
        lost = isinstance(error, OutcomeUnknown)
        record = await seen_through(_note_unknown(attempt, as_failure(error, "answer_lost"), patient=lost))
        if lost:
            record = await _settled_at_once(workspace, record)
            if record.state in ACCEPTED:
                return record
        if record.state is RenderState.UNKNOWN:
            workspace.notify(about_unknown(record))
        if lost:
            raise_unknown(record)
        raise
    local_receipts.keep_receipt(workspace.settings.state_dir, submission, attempt.record.entry.attempt)
    record = await attempt.accepted(submission)
    local_receipts.drop_receipt(workspace.settings.state_dir, submission.render_id)
    await _tell_stray(workspace, record, submission)
    return record


async def _settled_at_once(workspace: Workspace, record: Record) -> Record:
    """Where an unknown render stands after what its answer and the provider can tell right away."""
    try:
        return await read_current(workspace, record.entry.render_id) or record
    except Transient as error:
        log.info("Render %s stays unknown for now: %s", record.entry.render_id, error)
        return record


async def _note(attempt: Attempt, state: RenderState, failure: Failure) -> None:
    """Record that nothing was charged, for minutes if need be: else it would become `unknown`."""
    try:
        await attempt.write_for_sure(state, failure=failure)
    except StoreUnavailable as error:
        log.error("The journal cannot be written: %s", error)  # noqa: TRY400 - the caller raises what matters


async def _note_unknown(attempt: Attempt, failure: Failure, *, patient: bool) -> Record:
    """Record `unknown`. If the store stays away the intent stands, which becomes unknown when its lease runs out.

    Args:
        attempt: that it ended.
        failure: how.
        patient: for minutes if need be, since what settles it looks at the journal; who cancelled it waits for less.
    """
    write = attempt.write_for_sure if patient else attempt.write
    try:
        return await write(RenderState.UNKNOWN, failure=failure)
    except StoreUnavailable as error:
        log.error("The journal cannot be written: %s", error)  # noqa: TRY400 - the caller raises what matters
        entry = attempt.record.entry.model_copy(update={"failure": failure})
        return Record(entry, attempt.record.age)


async def _tell_stray(workspace: Workspace, record: Record, submission: Submission) -> None:
    """Put an accepted request that the journal does not follow in front of a person: both may be charged."""
    kept = record.entry.submission
    if kept is not None and kept.request_id == submission.request_id:
        return
    log.error(
        "Render %s was accepted by %s as request %r, but the journal follows %r: both may be charged.",
        submission.render_id, submission.provider, submission.request_id, kept and kept.request_id,
    )  # fmt: skip
    for stray in await workspace.journal.strays(submission.render_id):
        if stray.submission.request_id == submission.request_id:
            workspace.notify(about_stray(stray))


def _pause(error: Transient, last: float) -> float:
    asked = getattr(error, "retry_after", None)
    return min(asked, MAX_RETRY_AFTER) if asked is not None else min(last * 2, 30.0)

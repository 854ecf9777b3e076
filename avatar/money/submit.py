"""The one paid request of a render, under the journal.

Read `submit_render` from the top: look at the journal, follow if somebody was there before, otherwise write the
intent, send exactly one request, and write down how it ended. A request is sent only by whoever created the intent.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

from avatar.errors import (
    AvatarError,
    NotSent,
    OutcomeUnknown,
    StoreUnavailable,
    StoreUnfit,
    SubmitRefused,
    Throttled,
    Transient,
)
from avatar.events import about_unknown
from avatar.models import Plan, Segment, Submission
from avatar.money import receipts
from avatar.money.commit import unpaid
from avatar.money.follow import raise_failed, raise_unknown
from avatar.money.journal import Failure, Journal, Record, RenderState
from avatar.money.quote import Order, order_for
from avatar.money.state import current
from avatar.money.webhooks import Callbacks
from avatar.providers.base import RenderInputs
from avatar.workspace import Step, Workspace

# An intent while its paid request is under way: kept alive, then followed by how it ended.
#: States in which the provider has accepted the render.
ACCEPTED = {RenderState.SUBMITTED, RenderState.RENDERED, RenderState.COLLECTED}


class Holding:
    """A held intent: renewed while the request is under way, then followed by how it ended."""

    def __init__(self, journal: Journal, intent: Record) -> None:
        self.journal = journal
        self.record = intent
        self._renewal: asyncio.Task[None] | None = None

    async def __aenter__(self) -> None:
        self._renewal = asyncio.create_task(self._renew())

    async def __aexit__(self, *_: object) -> None:
        if self._renewal:
            self._renewal.cancel()
            await asyncio.gather(self._renewal, return_exceptions=True)

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self.journal.lease_seconds / 3)
            with contextlib.suppress(StoreUnavailable):
                renewed = await self.journal.append(self.record, RenderState.INTENT)
                if renewed is None:
                    return  # declared unknown by another; the answer is appended after that
                self.record = renewed

    async def write(self, state: RenderState, **facts: Any) -> Record:
        """Append `state`, after whatever others wrote in the meantime."""
        while True:
            written = await self.journal.append(self.record, state, **facts)
            if written is not None:
                return written
            newest = await self.journal.head(self.record.entry.render_id)
            if newest is None:
                raise StoreUnavailable(f"The journal of render {self.record.entry.render_id} has vanished.")
            if newest.state is state or newest.state in ACCEPTED:
                return newest
            self.record = newest


def as_failure(error: BaseException, kind: str) -> Failure:
    return Failure(
        kind=kind,
        message=_reason(error),
        request_id=getattr(error, "request_id", None),
        status=getattr(error, "status", None),
        billed=None if kind == "answer_lost" else False,
        retry_after=getattr(error, "retry_after", None),
    )


def _reason(error: BaseException) -> str:
    """The short reason where the provider gave one; the text a person sees is built around it."""
    reason = getattr(error, "reason", None)
    if reason:
        return str(reason)
    return str(error) if isinstance(error, AvatarError) else f"{type(error).__name__} in mid-request"


# A turn at a provider's account: held for as long as it has a render, so that all runs together keep to its limit.
#: A job that waited longer than this for a turn, in seconds, sets its money aside anew: what is set aside and never
#: sent is given back after some hours, and the day may have ended.
CLAIM_ANEW_AFTER = 3600.0

_UNDER_WAY = {RenderState.INTENT, RenderState.SUBMITTED}


@asynccontextmanager
async def its_turn(
    workspace: Workspace, plan: Plan, segment: Segment, claimed_on: str | None
) -> AsyncIterator[str | None]:
    """Wait for a turn before the intent is written, and hold it while the provider has the render.

    What is free, at rest or in the store already takes none. Yields the day on which the render's price is claimed.

    Raises:
        BudgetRefused: it waited so long that its money was to be set aside anew, and the day has none left.
        StoreUnavailable: the store failed. Nothing was sent.
    """
    order = order_for(workspace, plan, segment)
    head = await workspace.journal.head(order.render_id) if order.provider.capabilities.paid else None
    under_way = head is not None and head.state in _UNDER_WAY
    if not order.provider.capabilities.paid or not (under_way or unpaid(head)):
        yield claimed_on
        return
    began = time.monotonic()
    async with workspace.turns.hold(plan.provider, under_way=under_way):
        if claimed_on is not None and time.monotonic() - began > CLAIM_ANEW_AFTER:
            claimed_on = await _claim_anew(workspace, order)
        yield claimed_on


async def _claim_anew(workspace: Workspace, order: Order) -> str:
    await workspace.budget.withdraw(order.render_id)
    return await workspace.budget.claim({order.render_id: order.quoted})


log = logging.getLogger("avatar.submit")

#: Paid requests begun for one render in one go: each but the last was provably not sent, or refused for now.
MAX_ATTEMPTS = 6
#: Longest wait a provider's Retry-After is followed for, in seconds.
MAX_RETRY_AFTER = 120.0
#: How long an accepted submit is tried to be written down while the store is away, in seconds.
PERSIST_SECONDS = 600.0
#: A link must outlive the longest queue, and S3 signs for 7 days at most.
LINK_LIFETIME = timedelta(days=2)

_FREE_TO_TRY = {RenderState.NOT_SENT, RenderState.REFUSED, RenderState.RESOLVED}


async def submit_render(
    workspace: Workspace, plan: Plan, segment: Segment, *, claimed_on: str | None = None
) -> Record:
    """Make sure that this render was asked for exactly once, by us or by another.

    Returns:
        The journal's newest record: submitted, rendered or collected.

    Raises:
        NotSent, Throttled: not sent, or refused for now, `MAX_ATTEMPTS` times.
        SubmitRefused, RenderFailed: the provider said no; the text says whether it charges.
        OutcomeUnknown: it may have been accepted; only a person or the provider can tell.
        StoreUnfit: the store cannot keep two workers from paying for the same render.
        StoreUnavailable: the store failed. Nothing is sent without its word.
    """
    order = order_for(workspace, plan, segment)
    inputs: RenderInputs | None = None
    callbacks: Callbacks | None = None
    wait = 1.0
    for attempt in range(1, MAX_ATTEMPTS + 1):
        record = await _settled(workspace, order)
        if record is not None and record.state in ACCEPTED:
            return record
        if inputs is None:
            inputs = await _prepare(workspace, order)
            callbacks = await _callbacks(workspace, order)
        intent = await _begin(workspace, order, record, claimed_on)
        if intent is None:
            continue  # another run was first; look at what it wrote
        try:
            addressed = callbacks.with_address(inputs, intent.entry) if callbacks else inputs
            return await _send(workspace, order, addressed, intent)
        except (NotSent, Throttled) as error:
            if attempt == MAX_ATTEMPTS:
                raise
            wait = _pause(error, wait)
            log.warning("%s Trying again in %.0f s.", error, wait)
            await asyncio.sleep(wait)
    raise StoreUnavailable(f"Render {order.render_id} is contended: other runs keep taking its turn.")


async def _begin(
    workspace: Workspace, order: Order, after: Record | None, claimed_on: str | None
) -> Record | None:
    """A fresh intent of ours. None: somebody else was first, or has taken over.

    A machine that slept after its intent was written may have been given up, and its render paid for by another.
    """
    begun = time.monotonic(), time.time()
    intent = await workspace.journal.begin(
        after,
        render_id=order.render_id,
        job_id=order.plan.job_id,
        provider=order.plan.provider,
        quoted=order.quoted,
        claimed_on=claimed_on,
    )
    for _ in range(MAX_ATTEMPTS):
        # The wall clock goes on while a machine sleeps; the other one cannot be set back.
        passed = max(time.monotonic() - begun[0], time.time() - begun[1])
        if intent is None or passed < workspace.journal.lease_seconds / 4:
            return intent
        begun = time.monotonic(), time.time()
        intent = await workspace.journal.append(intent, RenderState.INTENT)
    raise StoreUnavailable(
        f"The store is too slow to hold the turn of render {order.render_id}. Nothing was sent."
    )


async def _prepare(workspace: Workspace, order: Order) -> RenderInputs:
    """All that can fail before the intent is written: keys, the store's fitness, links, uploads."""
    order.provider.check_configured()
    if order.provider.capabilities.paid and not await workspace.store.proves_conditional_create():
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
    return await order.provider.deliver(inputs)


async def _callbacks(workspace: Workspace, order: Order) -> Callbacks | None:
    """What addresses of webhooks are made with, if they are wanted and the provider has them."""
    wanted = workspace.settings.bridge.public_url is not None and order.provider.capabilities.webhook
    return await workspace.callbacks() if wanted else None


async def _settled(workspace: Workspace, order: Order) -> Record | None:
    """Wait until nobody else is in the middle of the request, then return where the render stands.

    Raises for states that only a person can leave.
    """
    while True:
        record = await current(workspace, order.render_id)
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


async def _send(workspace: Workspace, order: Order, inputs: RenderInputs, intent: Record) -> Record:
    """Send the paid request once, and write down how it ended whatever happens."""
    holding = Holding(workspace.journal, intent)
    try:
        async with holding:
            submission = await order.provider.submit(inputs)
    except NotSent as error:
        await holding.write(RenderState.NOT_SENT, failure=as_failure(error, "not_sent"))
        raise
    except Throttled as error:
        await holding.write(RenderState.REFUSED, failure=as_failure(error, "throttled"))
        raise
    except SubmitRefused as error:
        await holding.write(RenderState.REFUSED, failure=as_failure(error, error.kind))
        raise
    except BaseException as error:
        # Also a cancellation or a defect of ours in mid-request: the request may have left.
        record = await asyncio.shield(_note_unknown(holding, as_failure(error, "answer_lost")))
        if record.state is RenderState.UNKNOWN:
            workspace.post(about_unknown(record))
        if isinstance(error, OutcomeUnknown):
            raise_unknown(record)
        raise
    receipts.keep(workspace.settings.state_dir, submission)
    record = await _write_receipt(holding, submission)
    _compare(record, submission)
    receipts.drop(workspace.settings.state_dir, submission.render_id)
    return record


async def _note_unknown(holding: Holding, failure: Failure) -> Record:
    """Record `unknown`. If the store is away the intent stands, which becomes unknown when its lease runs out."""
    try:
        return await holding.write(RenderState.UNKNOWN, failure=failure)
    except StoreUnavailable as error:
        log.error("The journal cannot be written: %s", error)  # noqa: TRY400 - the caller raises what matters
        entry = holding.record.entry.model_copy(update={"failure": failure})
        return Record(entry, holding.record.age)


async def _write_receipt(holding: Holding, submission: Submission) -> Record:
    """Write the provider's receipt, for minutes if need be: losing it loses a paid video."""
    deadline = time.monotonic() + PERSIST_SECONDS
    pause = 1.0
    while True:
        try:
            return await asyncio.shield(holding.write(RenderState.SUBMITTED, submission=submission))
        except Transient as error:
            log.error(  # noqa: TRY400 - a traceback would bury the one fact that matters
                "Render %s was accepted by %s as request %r, but the journal cannot be written: %s Still trying.",
                submission.render_id, submission.provider, submission.request_id, error,
            )  # fmt: skip
            if time.monotonic() > deadline:
                raise OutcomeUnknown(
                    f"Render {submission.render_id} was accepted by {submission.provider} as request "
                    f"{submission.request_id}, and will be charged, but the store would not record it.",
                    provider=submission.provider,
                    render_id=submission.render_id,
                    request_id=submission.request_id,
                    hint=f"avatar resolve {submission.render_id} --request-id {submission.request_id}",
                ) from error
        await asyncio.sleep(pause)
        pause = min(pause * 2, 15.0)


def _compare(record: Record, submission: Submission) -> None:
    """Say so if the journal holds another request than ours: both may be charged, and only one is followed."""
    kept = record.entry.submission
    if kept is None or kept.request_id != submission.request_id:
        log.error(
            "Render %s was accepted by %s as request %r, but the journal follows %r: both may be charged.",
            submission.render_id, submission.provider, submission.request_id, kept and kept.request_id,
        )  # fmt: skip


def _pause(error: Transient, last: float) -> float:
    asked = getattr(error, "retry_after", None)
    return min(asked, MAX_RETRY_AFTER) if asked is not None else min(last * 2, 30.0)

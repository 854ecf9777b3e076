"""One attempt at the paid request of a render: kept alive while it is under way, then followed by how it ended."""

import asyncio
import contextlib
import logging
from typing import Any

from avatar.errors import AvatarError, OutcomeUnknown, StoreUnavailable, Transient
from avatar.models import Submission
from avatar.money.entries import TRANSITIONS, Failure, Record, RenderState
from avatar.money.journal import Journal
from avatar.money.state import stray_of
from avatar.waiting import Moment, patiently, seen_through

log = logging.getLogger("avatar.submit")

#: Seconds between the tries to write down how a paid request ended while the store is away: ten minutes together.
PERSIST = (1.0, 2.0, 4.0, 8.0, *(15.0,) * 39)
#: The parts of its lease in which an attempt may begin its request, and the first byte may leave: nobody has given
#: it up by then.
BEGINS_WITHIN, SENDS_WITHIN = 0.25, 0.75

#: States of an attempt in which its holder's word is still news.
_UNDECIDED = {RenderState.INTENT, RenderState.UNKNOWN, RenderState.RESOLVED}


class Attempt:
    """A held intent. It writes after its own entries alone: once its turn is lost, nothing.

    Args:
        journal: of this holder.
        intent: the newest sign of life.
        seen: the moment before that was written.
    """

    def __init__(self, journal: Journal, intent: Record, seen: Moment) -> None:
        self.journal = journal
        self.record = intent
        self._seen = seen
        self._renewal: asyncio.Task[None] | None = None

    def is_fresh(self) -> bool:
        """Whether its last sign of life leaves time for the whole request."""
        return self._seen.passed < self.journal.lease_seconds * BEGINS_WITHIN

    def may_send(self) -> bool:
        """Whether nobody can have given it up yet: asked before the first byte leaves, as this machine may sleep."""
        return self._seen.passed < self.journal.lease_seconds * SENDS_WITHIN

    def __enter__(self) -> None:
        self._renewal = asyncio.create_task(self._keep_alive())

    def __exit__(self, *_: object) -> None:
        # Not waited for: a cancellation that came then would hide the provider's answer.
        if self._renewal:
            self._renewal.cancel()

    async def _keep_alive(self) -> None:
        while True:
            await asyncio.sleep(self.journal.lease_seconds / 3)
            with contextlib.suppress(StoreUnavailable):
                if not await self.renew():
                    return  # declared unknown by another; the answer is written after that

    async def renew(self) -> bool:
        """Give a sign of life. False: another has taken over, or given this attempt up."""
        seen = Moment.now()
        renewed = await self.journal.append(self.record, RenderState.INTENT)
        if renewed is not None:
            self.record, self._seen = renewed, seen
            return True
        newest = await self._newest()
        self.record = newest if self._is_ours(newest) else self.record
        return self._is_ours(newest) and newest.state is RenderState.INTENT

    async def write(self, state: RenderState, **facts: Any) -> Record:
        """Append how it ended, after whatever was written about this attempt in the meantime.

        Returns:
            What stands in the journal then: ours, or what others wrote if there is no place for ours any more.
        """
        while self._is_news(state, facts.get("failure")):
            written = await self.journal.append(self.record, state, **facts)
            if written is not None:
                self.record = written
                return written
            newest = await self._newest()
            if not self._is_ours(newest):
                return newest
            self.record = newest
        return self.record

    def _is_news(self, state: RenderState, failure: Failure | None) -> bool:
        """Whether the journal has a place for it after what is known to stand there.

        An attempt that others gave up for want of a sign of life may have got an answer that nobody understands.
        """
        now, known = self.record.state, self.record.entry.failure
        if state is now:
            told = failure is not None and (failure.answer or failure.request_id)
            return state is RenderState.UNKNOWN and bool(told) and failure != known
        return now in _UNDECIDED and state in TRANSITIONS[now]

    async def write_for_sure(self, state: RenderState, **facts: Any) -> Record:
        """`write`, for minutes if the store is away, whoever cancels it."""
        return await seen_through(patiently(lambda: self.write(state, **facts), PERSIST))

    async def accepted(self, submission: Submission) -> Record:
        """Write down the provider's receipt: losing it loses a paid video.

        One for which the journal has no place is kept as a stray, for `state.read_current` or a person.
        """
        entry = self.record.entry
        try:
            record = await self.write_for_sure(RenderState.SUBMITTED, submission=submission)
            kept = record.entry.submission
            if kept is None or kept.request_id != submission.request_id:
                stray = stray_of(entry, submission, attempt=entry.attempt)
                await seen_through(patiently(lambda: self.journal.keep_stray(stray), PERSIST))
        except Transient as error:
            raise OutcomeUnknown(
                f"Render {entry.render_id} was accepted by {submission.provider} as request {submission.request_id}, "
                "and will be charged, but the store would not record it.",
                provider=submission.provider,
                render_id=entry.render_id,
                request_id=submission.request_id,
                cost_at_risk=entry.quoted,
                hint=f"avatar resolve {entry.render_id} --request-id {submission.request_id}",
            ) from error
        return record

    async def _newest(self) -> Record:
        newest = await self.journal.head(self.record.entry.render_id)
        if newest is None:
            raise StoreUnavailable(f"The journal of render {self.record.entry.render_id} has vanished.")
        return newest

    def _is_ours(self, record: Record) -> bool:
        return record.entry.attempt == self.record.entry.attempt


def as_failure(error: BaseException, kind: str) -> Failure:
    return Failure(
        kind=kind,
        message=_reason(error),
        request_id=getattr(error, "request_id", None),
        status=getattr(error, "status", None),
        billed=None if kind == "answer_lost" else False,
        retry_after=getattr(error, "retry_after", None),
        answer=getattr(error, "answer", None),
    )


def _reason(error: BaseException) -> str:
    """The short reason where the provider gave one; the text a person sees is built around it."""
    reason = getattr(error, "reason", None)
    if reason:
        return str(reason)
    return str(error) if isinstance(error, AvatarError) else f"{type(error).__name__} in mid-request"

"""What the journal holds: the states of a render, the steps between them, and an entry for each step."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum

from pydantic import Field

from avatar.errors import AvatarError
from avatar.models import KLING_AVATAR, RemoteVideo, Submission
from avatar.stored_models import ProviderName, Render, Stored


class RenderState(StrEnum):
    INTENT = "intent"  #: a holder is about to send, or is sending, the paid request
    NOT_SENT = "not_sent"  #: it provably never left; nothing was charged
    REFUSED = "refused"  #: the provider refused it; nothing was charged
    UNKNOWN = "unknown"  #: the answer was lost; it may have been accepted and charged
    RESOLVED = "resolved"  #: a person declared that nothing was charged
    SUBMITTED = "submitted"  #: accepted; the request id is known; it will be charged
    RENDERED = "rendered"  #: the provider finished; its result is recorded, the video not yet fetched
    COLLECTED = "collected"  #: the video is in the store
    STALLED = "stalled"  #: accepted, and not to be had by itself: lost, overdue, unreadable or unplayable
    FAILED = "failed"  #: the provider accepted it, then said for certain that it failed


#: Of the entries written here. Format 1 had neither `claim` nor `tries`, and no state `stalled`.
FORMAT = 2

_S = RenderState
#: Which state may follow which. None is a render nobody has asked for yet.
TRANSITIONS: dict[RenderState | None, frozenset[RenderState]] = {
    None: frozenset({_S.INTENT}),
    # An intent follows an intent only as its own holder's sign of life.
    _S.INTENT: frozenset({_S.INTENT, _S.SUBMITTED, _S.NOT_SENT, _S.REFUSED, _S.UNKNOWN}),
    # Where nothing was charged, a request of an earlier attempt may still turn out to be accepted.
    _S.NOT_SENT: frozenset({_S.INTENT, _S.SUBMITTED}),
    _S.REFUSED: frozenset({_S.INTENT, _S.SUBMITTED}),
    # The holder may come back late with its answer; a person, a webhook or the provider's history may bring the id.
    # A second `unknown` brings an answer that could not be understood, and may name the request.
    _S.UNKNOWN: frozenset({_S.UNKNOWN, _S.SUBMITTED, _S.REFUSED, _S.NOT_SENT, _S.RESOLVED}),
    _S.RESOLVED: frozenset({_S.INTENT, _S.SUBMITTED}),
    _S.SUBMITTED: frozenset({_S.RENDERED, _S.STALLED, _S.FAILED}),
    # A second `rendered` records a result that was fetched anew, or a video that did not play.
    _S.RENDERED: frozenset({_S.RENDERED, _S.COLLECTED, _S.STALLED, _S.FAILED}),
    # The provider may know it again, or a person brings the video or its request, or says that it was not charged.
    _S.STALLED: frozenset({_S.SUBMITTED, _S.RENDERED, _S.COLLECTED, _S.STALLED, _S.FAILED, _S.RESOLVED}),
    _S.COLLECTED: frozenset(),
    _S.FAILED: frozenset({_S.INTENT, _S.SUBMITTED, _S.RENDERED, _S.RESOLVED}),
}


class Failure(Stored):
    """Why a render was refused, failed, is unknown or has stalled."""

    kind: str
    message: str
    status: int | None = None
    billed: bool | None = None
    request_id: str | None = Field(None, description="seen in an answer that could not be trusted")
    retry_after: float | None = None
    answer: str | None = Field(None, description="what came back and could not be understood, verbatim")


class Sent(Stored):
    """What the paid request asks for, as the provider's own pages show it."""

    endpoint: str
    model: str = KLING_AVATAR
    prompt: str
    portrait: str = Field(description="the file's name, in which its content's hash stands")
    voice: str = Field(description="the file's name")
    at: datetime = Field(description="the sender's clock, before it was sent")


class Entry(Stored):
    """One step of one render. The newest entry carries all that is still true, so that it can be read alone."""

    format: int = 1
    render_id: str
    seq: int = Field(ge=1)
    state: RenderState
    at: datetime = Field(description="the writer's clock; order is told by `seq`, age by the store's clock")
    holder: str
    token: str = Field(description="unique, so that a writer recognises its own entry after a lost answer")
    lease_seconds: float
    provider: ProviderName
    job_id: str
    quoted: Decimal
    claimed_on: str | None = Field(None, description="UTC day of the budget the sum is claimed on")
    claim: str | None = Field(None, description="the claim's object; entries of format 1 name none")
    attempt: int = Field(1, ge=1, description="how many paid requests were begun for this render")
    sent: Sent | None = None
    tries: int = Field(0, ge=0, description="how often its video was fetched and did not play")
    submission: Submission | None = None
    failure: Failure | None = None
    remote: RemoteVideo | None = Field(
        None, description="the provider's result with its raw payload, verbatim"
    )
    render: Render | None = None
    settled_by: str | None = None


class Stray(Stored):
    """A request that was accepted for an attempt which had lost its turn. It is paid for, and nothing follows it."""

    format: int = 1
    render_id: str
    job_id: str
    attempt: int
    holder: str
    at: datetime
    quoted: Decimal
    submission: Submission

    @property
    def key(self) -> str:
        digest = hashlib.sha256(self.submission.request_id.encode()).hexdigest()[:32]
        return f"{stray_prefix(self.render_id)}{digest}.json"


@dataclass(frozen=True)
class Record:
    """An entry as it stands in the store, with its age by the store's clock (None: the store gave no clock)."""

    entry: Entry
    age: float | None
    strays: bool = False  #: whether requests were accepted that the journal does not follow

    @property
    def state(self) -> RenderState:
        return self.entry.state

    @property
    def lease_expired(self) -> bool:
        """Whether the holder has given no sign of life for longer than its lease. Unknown age: alive."""
        return self.age is not None and self.age > self.entry.lease_seconds


class IllegalTransition(AvatarError):
    """A step that `TRANSITIONS` does not allow: a defect, stopped before it is recorded."""


def render_prefix(render_id: str) -> str:
    return f"journal/{render_id}/"


def stray_prefix(render_id: str) -> str:
    return f"journal/{render_id}/strays/"


def transitions_table(states: Iterable[RenderState | None] = TRANSITIONS) -> str:
    """The state machine as a Markdown table, for the documentation."""
    rows = [
        f"| {state or '(nothing)'} | {', '.join(sorted(TRANSITIONS[state])) or '– (at rest)'} |"
        for state in states
    ]
    return "\n".join(["| from | to |", "| --- | --- |", *rows])

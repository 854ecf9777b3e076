"""What fal's status and result answers mean. Sources: fal.ai/docs, pages inference/queue.md and errors.md."""

from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from http import HTTPStatus
from typing import Any

from avatar.models import CancelOutcome, RemoteState, Snapshot
from avatar.providers.answers import (
    StatusWords,
    clean_text,
    error_kind,
    error_words,
    read_video,
    read_whole_number,
    text_or_empty,
)
from avatar.providers.outcome import UNREACHABLE_INPUT
from avatar.providers.wire import BREAKDOWN, NOT_FOUND, REFUSAL, Exchange

#: What is no number of units any more.
MOST_UNITS = 10**9
#: Statuses of a failed request (page errors.md): the model's, and fal's own if they name their kind: a box in the middle
#: says them too. One of another status counts if it lists typed errors as the model's do.
FAILURE, FAILURES_BY_NAME = 422, {400, 499}


class ResultKind(StrEnum):
    """What an answer of the result's address is worth. Whether a render has failed is never told by it alone."""

    VIDEO = "video"  #: here it is
    NO_VIDEO = "no_video"  #: a success that names no video
    REFUSED = "refused"  #: a 4xx as fal documents it for a failed request
    BREAKDOWN = "breakdown"  #: a 5xx in JSON: the result's, or the way's
    LOST = "lost"  #: no such request, or no longer
    NOT_YET = "not_yet"  #: it says nothing about the request


def fal_words() -> StatusWords:
    """Three are documented; FAILED is never said (github.com/TanStack/ai/pull/396), but would be understood."""
    return StatusWords(
        "fal",
        queued=("IN_QUEUE",),
        running=("IN_PROGRESS",),
        done=("COMPLETED",),
        failed=("FAILED", "ERROR", "CANCELLED", "CANCELED"),
        lost=("NOT_FOUND",),
    )


def read_status(data: Mapping[str, Any], words: StatusWords) -> Snapshot | None:
    """A status body as a snapshot; None if it has no status. COMPLETED with an error is done: `collect` tells."""
    word = text_or_empty(data.get("status"))
    if not word:
        return None
    state = words.state(word)
    if not words.knows(word) and read_video(data) is not None:
        state = RemoteState.DONE
    logs = data.get("logs")
    last = logs[-1] if isinstance(logs, list) and logs and isinstance(logs[-1], dict) else {}
    return Snapshot(
        state=state,
        position=read_whole_number(data.get("queue_position")) if state is RemoteState.QUEUED else None,
        message=clean_text(error_words({"error": data.get("error")}) or text_or_empty(last.get("message"))),
        kind=error_kind(data),
        word=clean_text(word),
    )


def read_cancel(exchange: Exchange) -> CancelOutcome:
    """What a 2xx to a cancel says: 200 took it out of the queue, 202 passed the wish on."""
    data = exchange.object or {}
    if data.get("success") is False or data.get("status") == "ALREADY_COMPLETED":
        return CancelOutcome.TOO_LATE
    told = exchange.status == HTTPStatus.ACCEPTED or data.get("status") == "CANCELLATION_REQUESTED"
    return CancelOutcome.REQUESTED if told else CancelOutcome.REMOVED


def judge_result(exchange: Exchange) -> ResultKind:
    """What an answer of the result URL is: the model's own answer is passed through, its failure included."""
    status, data = exchange.status or 0, exchange.object
    if data is None and status not in NOT_FOUND:
        return ResultKind.NOT_YET
    if exchange.ok:
        return _judge_success(status, data or {})
    listed = isinstance((data or {}).get("detail"), list) and bool(error_kind(data)) and status in REFUSAL
    named = status in FAILURES_BY_NAME and bool(error_kind(data) or exchange.headers.get("x-fal-error-type"))
    if listed or ((status == FAILURE or named) and "in progress" not in error_words(data).lower()):
        return ResultKind.REFUSED
    if status in NOT_FOUND:
        return ResultKind.LOST
    return ResultKind.BREAKDOWN if status in BREAKDOWN else ResultKind.NOT_YET


def _judge_success(status: int, data: Mapping[str, Any]) -> ResultKind:
    if read_video(data, anywhere=True) is not None:
        return ResultKind.VIDEO
    early = status == HTTPStatus.ACCEPTED or text_or_empty(data.get("status")).upper() in {
        "IN_QUEUE",
        "IN_PROGRESS",
    }
    return ResultKind.NOT_YET if early else ResultKind.NO_VIDEO


def confirm_result(kind: ResultKind, look: Snapshot) -> ResultKind:
    """What an answer that may be a failure comes to, once the status was asked too."""
    named = look.state is RemoteState.FAILED or (look.state is RemoteState.DONE and bool(look.kind))
    ended = look.state in {RemoteState.DONE, RemoteState.FAILED}
    if named or (ended and kind is ResultKind.REFUSED):
        return ResultKind.REFUSED
    return kind if ended and kind is ResultKind.NO_VIDEO else ResultKind.NOT_YET


def failure_billed(exchange: Exchange, kind: str) -> bool | None:
    """Whether a failure is charged: by the units header; never for a 5xx of fal's (its FAQ); a 422 "may still be".

    A 5xx that names neither a kind of error nor the request is a gateway's, and says nothing of the render.

    An input that was never read cannot have been rendered, and only output is billed (fal.ai/docs, pricing).
    """
    units = billable_units(exchange)
    if units is not None:
        return units > 0
    headers = {"x-fal-error-type", "x-fal-request-id"}
    fals = bool(error_kind(exchange.object)) or not headers.isdisjoint(exchange.headers)
    return False if (exchange.status in BREAKDOWN and fals) or kind == UNREACHABLE_INPUT else None


def billable_units(exchange: Exchange) -> Decimal | None:
    """`X-Fal-Billable-Units`: for this model, seconds that are charged. None for what no number is.

    A number that cannot be meant is passed on as it is: it may be what is billed (fal-ai/fal#1175).
    """
    said = exchange.headers.get("x-fal-billable-units", "").strip()[:100]
    try:
        units = Decimal(said)
    except InvalidOperation:
        return None
    return units if units.is_finite() and 0 <= units < MOST_UNITS else None


def app_of(endpoint: str) -> str:
    """Owner and app: status, result and cancel URLs leave the rest out (fal.ai/docs/api-reference/inference-api).

    Endpoints of the namespaces `workflows` and `comfy` have one part more before it ([fal-client] `AppId`).
    """
    parts = endpoint.split("/")
    return "/".join(parts[: 3 if parts[0] in {"workflows", "comfy"} else 2])

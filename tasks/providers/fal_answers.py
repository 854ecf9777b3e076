"""What fal's status and result answers mean. Sources: fal.ai/docs, pages inference/queue.md and errors.md."""

from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from http import HTTPStatus
from typing import Any

from tasks.models import CancelOutcome, RemoteState, RemoteVideo, Snapshot
from tasks.providers.answers import Vocabulary, clean, error_kind, error_words, number, text, whole
from tasks.providers.wire import BREAKDOWN, KEY_REFUSED, LATER, NOT_FOUND, REDIRECT, REFUSAL, Exchange

#: Billable units believed: a day of video, when a render has a minute.
MOST_UNITS = 86_400


class ResultKind(StrEnum):
    VIDEO = "video"  #: here it is
    FAILED = "failed"  #: the model, or fal for it, failed the request
    NOT_DONE = "not_done"  #: asked too early
    LOST = "lost"  #: no such request, or no longer
    KEY_REFUSED = "key_refused"
    UNAVAILABLE = "unavailable"  #: the answer says nothing about the request
    UNCLEAR = "unclear"  #: a 5xx that may be the result's or the way's: the status decides


def fal_words() -> Vocabulary:
    """Three are documented; FAILED is never said (github.com/TanStack/ai/pull/396), but would be understood."""
    return Vocabulary(
        "fal",
        queued=("IN_QUEUE",),
        running=("IN_PROGRESS",),
        done=("COMPLETED",),
        failed=("FAILED", "ERROR", "CANCELLED", "CANCELED"),
        lost=("NOT_FOUND",),
    )


def read_status(data: Mapping[str, Any], words: Vocabulary) -> Snapshot | None:
    """A status body as a snapshot; None if it has no status. COMPLETED with an error is done: `collect` tells."""
    word = text(data.get("status"))
    if not word:
        return None
    state = words.state(word)
    logs = data.get("logs")
    last = logs[-1] if isinstance(logs, list) and logs and isinstance(logs[-1], dict) else {}
    return Snapshot(
        state=state,
        position=whole(data.get("queue_position")) if state is RemoteState.QUEUED else None,
        message=clean(error_words({"error": data.get("error")}) or text(last.get("message"))),
        kind=error_kind(data),
        word=clean(word),
    )


def read_cancel(exchange: Exchange) -> CancelOutcome:
    """What a 2xx to a cancel says: 200 took it out of the queue, 202 passed the wish on."""
    data = exchange.object or {}
    if data.get("success") is False or data.get("status") == "ALREADY_COMPLETED":
        return CancelOutcome.TOO_LATE
    told = exchange.status == HTTPStatus.ACCEPTED or data.get("status") == "CANCELLATION_REQUESTED"
    return CancelOutcome.REQUESTED if told else CancelOutcome.REMOVED


def judge_result(exchange: Exchange, request_id: str) -> ResultKind:
    """What an answer of the result URL is: the model's own answer is passed through, its failure included."""
    status, data = exchange.status or 0, exchange.object
    if exchange.ok:
        return _judge_ok(status, data)
    if status in NOT_FOUND and not _typed(data):
        return ResultKind.LOST
    if data is None or status in REDIRECT or status in LATER:
        return ResultKind.UNAVAILABLE
    if isinstance(data.get("detail"), list) and error_kind(data):
        return ResultKind.FAILED
    if status in REFUSAL:
        return _judge_refusal(status, data)
    return _judge_breakdown(exchange, data, request_id)


def _typed(data: Mapping[str, Any] | None) -> bool:
    return bool(error_kind(data))


def _judge_ok(status: int, data: Mapping[str, Any] | None) -> ResultKind:
    if data is None:
        return ResultKind.UNAVAILABLE
    if _video(data):
        return ResultKind.VIDEO
    if status == HTTPStatus.ACCEPTED or text(data.get("status")).upper() in {"IN_QUEUE", "IN_PROGRESS"}:
        return ResultKind.NOT_DONE
    return ResultKind.FAILED


def _judge_refusal(status: int, data: Mapping[str, Any]) -> ResultKind:
    if status in KEY_REFUSED and not _typed(data):
        return ResultKind.KEY_REFUSED
    if status == HTTPStatus.BAD_REQUEST and "in progress" in error_words(data).lower():
        return ResultKind.NOT_DONE
    return ResultKind.UNAVAILABLE if status == HTTPStatus.METHOD_NOT_ALLOWED else ResultKind.FAILED


def _judge_breakdown(exchange: Exchange, data: Mapping[str, Any], request_id: str) -> ResultKind:
    """A 5xx in JSON: a typed one that fal calls final, or that carries our request's id, is the result."""
    retryable = _says_yes(exchange, "x-fal-retryable") or _says_yes(exchange, "x-fal-needs-retry")
    if retryable:
        return ResultKind.UNCLEAR
    ours = exchange.headers.get("x-fal-request-id") == request_id
    typed = _typed(data) or bool(exchange.headers.get("x-fal-error-type"))
    return ResultKind.FAILED if typed or (ours and error_words(data)) else ResultKind.UNCLEAR


def _says_yes(exchange: Exchange, header: str) -> bool:
    return exchange.headers.get(header, "").strip().lower() in {"1", "true", "yes"}


def failure_kind(exchange: Exchange) -> str:
    """The error type of a failed result."""
    kind = error_kind(exchange.object) or clean(exchange.headers.get("x-fal-error-type", ""))
    return kind or ("no_media_generated" if exchange.ok else "failed")


def failure_billed(exchange: Exchange) -> bool | None:
    """Whether a failure is charged: never for a 5xx (fal's FAQ); a 422 "may still be"; the units header decides."""
    units = billable_units(exchange)
    if units is not None:
        return units > 0
    return False if exchange.status in BREAKDOWN else None


def billable_units(exchange: Exchange) -> Decimal | None:
    """`X-Fal-Billable-Units`: for this model, seconds that are charged. None for what cannot be meant."""
    try:
        units = Decimal(exchange.headers.get("x-fal-billable-units", "").strip()[:100])
    except InvalidOperation:
        return None
    return units if units.is_finite() and 0 <= units <= MOST_UNITS else None


def _video(data: Mapping[str, Any]) -> Mapping[str, Any] | None:
    video = data.get("video")
    return video if isinstance(video, dict) and text(video.get("url")) else None


def read_video(exchange: Exchange) -> RemoteVideo:
    """A result judged to be a video. `duration` is documented as required, and missing from the page's example."""
    data = exchange.object or {}
    video = _video(data) or {}
    return RemoteVideo(
        url=text(video.get("url")),
        content_type=text(video.get("content_type")) or None,
        size=whole(video.get("file_size")),
        seconds=number(data.get("duration")) or number(video.get("duration")),
        billed_seconds=billable_units(exchange),
        payload=data,
    )

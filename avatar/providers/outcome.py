"""How a paid POST ended: one table, because every mistake in it costs money.

=======================================================  ==========  ==============================================
what was seen                                            state       why
=======================================================  ==========  ==============================================
no byte left (seen by the connection, not guessed from   not_sent    there is nothing to be charged for
the exception): DNS, refused, TLS, connect timeout
429                                                      throttled   documented as "not taken, come back"
400 401 402 403 404 405 410 413 414 415 422 431 451      refused     the request was judged and turned down
any other answer that names a request id                 accepted    whatever else it says, this id can be asked for
2xx with `success: false` or only an `error` (Pixazo)    refused     its page promises `success: true` on success
408 409 425 499 and any other 4xx                        unknown     may be said after the request was passed on
1xx 3xx 5xx                                              unknown     a box in the middle speaks, not the provider
2xx without a request id, cut, HTML, nonsense            unknown     accepted, most likely
no answer after a byte left: timeout, reset, disconnect  unknown     the classic
=======================================================  ==========  ==============================================
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from avatar.errors import AvatarError, NotSent, OutcomeUnknown, SubmitRefused, Throttled
from avatar.providers.answers import clean_text, error_kind, error_words, parse_object, usable_id
from avatar.providers.base import RenderInputs
from avatar.providers.known_models import KnownModel
from avatar.providers.wire import KEY_REFUSED, SUCCESS, Exchange, TooLate, Wire, retry_after
from avatar.stored_models import ProviderName

#: Client errors that say the request itself was judged and turned down, with the kind we call them by.
REFUSALS = {
    400: "bad_request",
    401: "key_refused",
    402: "balance",
    403: "key_refused",
    404: "endpoint_not_found",
    405: "method_not_allowed",
    410: "endpoint_gone",
    413: "too_large",
    414: "url_too_long",
    415: "unsupported_media_type",
    422: "invalid_input",
    431: "headers_too_large",
    451: "unavailable_for_legal_reasons",
}
_THROTTLED = 429
#: An account that may not go on for now is refused with the statuses of a wrong key; only the words tell.
_ACCOUNT = {
    "balance": re.compile(r"(?i)balance|credit|billing|insufficient"),
    "locked": re.compile(r"(?i)\block"),
    "quota": re.compile(r"(?i)quota"),
}
#: fal's type for an input whose link it could not fetch (page errors.md).
UNREACHABLE_INPUT = "file_download_error"
#: What a refusal in a 200 may consist of; anything more could be a receipt.
_REFUSAL_FIELDS = {
    "error",
    "message",
    "detail",
    "error_message",
    "error_type",
    "code",
    "status_code",
    "statuscode",
}


def submit_seconds(lease: float) -> float:
    """How long a submit may take in all: it must end while its intent's lease, in seconds, still holds."""
    return max(1.0, min(lease * 0.75, 100.0))


def body_of(model: KnownModel, inputs: RenderInputs) -> dict[str, str]:
    """The paid request's body: the same at every provider of such models."""
    prompt = {"prompt": inputs.prompt} if model.prompt else {}
    return {"image_url": inputs.portrait_url, "audio_url": inputs.voice_url, **prompt, **model.parameters}


_ID_IN_TEXT = re.compile(rb'"request_id"\s*:\s*"([^"\\]{1,512})"')


class SubmitState(StrEnum):
    ACCEPTED = "accepted"
    NOT_SENT = "not_sent"
    THROTTLED = "throttled"
    REFUSED = "refused"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class SubmitOutcome:
    """How it ended and what it rests on. `seen_id` is a request id that was seen but cannot be relied on."""

    state: SubmitState
    reason: str = ""
    request_id: str | None = None
    seen_id: str | None = None
    kind: str = ""
    status: int | None = None
    retry_after: float | None = None
    #: The body of a success that names no request, as it came.
    answer: str | None = None


def classify_submit(
    *,
    error: type[BaseException] | None,
    sent: bool,
    status: int | None,
    headers: Mapping[str, str],
    body: bytes,
    complete: bool = True,
    refusals_in_200: bool = False,
) -> SubmitOutcome:
    """Judge one POST by the module's table.

    Args:
        error: class of the exception that ended it, None if the answer was read to its end.
        sent: whether any byte of the request may have left.
        status: of the answer, None if there was none.
        headers: of the answer, by lower-case name.
        body: of the answer, as far as it came.
        complete: whether it was read to its end.
        refusals_in_200: whether this provider refuses with a 200.
    """
    if status is None:
        return _unanswered(error, sent=sent)
    data = parse_object(body) if complete else None
    if status == _THROTTLED:
        words = clean_text(error_words(data))
        return SubmitOutcome(SubmitState.THROTTLED, words, status=status, retry_after=retry_after(headers))
    if status in REFUSALS:
        return _refusal(status, data)
    if request_id := usable_id(data.get("request_id")) if data else None:
        return SubmitOutcome(SubmitState.ACCEPTED, request_id=request_id, status=status)
    if status in SUCCESS and refusals_in_200 and data and _refuses(data):
        return _refusal(status, data)
    return _unclear(status, headers, data, body)


def _unanswered(error: type[BaseException] | None, *, sent: bool) -> SubmitOutcome:
    name = error.__name__ if error else "no answer"
    if sent:
        return SubmitOutcome(SubmitState.UNKNOWN, f"the request left and no answer came back ({name})")
    return SubmitOutcome(SubmitState.NOT_SENT, f"connecting failed ({name})")


def _unclear(
    status: int, headers: Mapping[str, str], data: Mapping[str, Any] | None, body: bytes
) -> SubmitOutcome:
    what = "an answer that cannot be read" if data is None else "an answer without a request id"
    if data and data.get("request_id") is not None:
        what = "a request id that cannot be used"
    words = clean_text(error_words(data))
    reason = f"{status} came back with {what}" + (f": {words}" if words else "")
    seen_id = _glimpse(headers, body) or _numeric(data)
    answer = body.decode("utf-8", "replace") if status in SUCCESS else None
    return SubmitOutcome(SubmitState.UNKNOWN, reason, seen_id=seen_id, status=status, answer=answer)


def _numeric(data: Mapping[str, Any] | None) -> str | None:
    """A request id that is a number: it may be one, or the code of an error."""
    value = (data or {}).get("request_id")
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else None


def _refusal(status: int, data: Mapping[str, Any] | None) -> SubmitOutcome:
    kind = error_kind(data) or REFUSALS.get(status, "refused")
    if kind == "key_refused" and status != KEY_REFUSED:
        kind = next((name for name, words in _ACCOUNT.items() if words.search(error_words(data))), kind)
    return SubmitOutcome(
        SubmitState.REFUSED, clean_text(error_words(data)) or "no reason given", kind=kind, status=status
    )


def _glimpse(headers: Mapping[str, str], body: bytes) -> str | None:
    """A request id in a header or a cut body: a help to the person who looks, not a receipt."""
    found = _ID_IN_TEXT.search(body)
    return usable_id(found[1].decode("utf-8", "replace") if found else headers.get("x-fal-request-id"))


def _refuses(data: Mapping[str, Any]) -> bool:
    """Whether a 200 says no: `success: false`, or nothing but an error."""
    if data.get("success") is False:
        return True
    names = {name.lower() for name in data}
    return bool(error_words(data)) and bool(data.get("error")) and names <= _REFUSAL_FIELDS


def judge_exchange(exchange: Exchange, *, refusals_in_200: bool = False) -> SubmitOutcome:
    """`classify_submit` of what was seen on the wire."""
    outcome = classify_submit(
        error=type(exchange.error) if exchange.error else None,
        sent=exchange.sent,
        status=exchange.status,
        headers=exchange.headers,
        body=bytes(exchange.body),
        complete=exchange.complete,
        refusals_in_200=refusals_in_200,
    )
    if outcome.state is not SubmitState.NOT_SENT:
        return outcome
    if isinstance(exchange.error, TooLate):
        return replace(outcome, reason="connecting took so long that its turn was over")
    if "certificate" in str(exchange.error):
        return replace(outcome, reason="its certificate does not prove its name")
    return outcome


def accepted_id(outcome: SubmitOutcome, wire: Wire, inputs: RenderInputs) -> str:
    """The request id of an accepted submit.

    Raises:
        NotSent, Throttled, SubmitRefused, OutcomeUnknown: as the table says.
    """
    if outcome.state is SubmitState.ACCEPTED and outcome.request_id:
        return outcome.request_id
    raise _error(outcome, wire, inputs)


def _error(outcome: SubmitOutcome, wire: Wire, inputs: RenderInputs) -> AvatarError:
    who, render_id, reason = wire.provider, inputs.render_id, wire.clean(outcome.reason).rstrip(".")
    if outcome.state is SubmitState.NOT_SENT:
        text = (
            f"Render {render_id} was not sent to {who}: {reason}. Nothing was spent; it may be tried again."
        )
        return NotSent(text, provider=who, render_id=render_id)
    if outcome.state is SubmitState.THROTTLED:
        text = (
            f"{who} takes no more requests for now (429){': ' + reason if reason else ''}. Nothing was spent."
        )
        return Throttled(text, provider=who, render_id=render_id, retry_after=outcome.retry_after)
    if outcome.state is SubmitState.REFUSED:
        return SubmitRefused(
            f"{who} refused render {render_id} ({outcome.status}, {outcome.kind}): {reason}. It was not accepted and "
            "is not charged.",
            provider=who,
            render_id=render_id,
            hint=remedy(outcome.kind, who),
            kind=outcome.kind,
            status=outcome.status,
            reason=f"{reason}.",
        )
    return _unknown(outcome, wire, inputs, reason)


def remedy(kind: str, provider: ProviderName) -> str:
    """What to do about a refusal or a failure of that kind."""
    upload = ", or AVATAR_FAL__DELIVERY=upload" if provider is ProviderName.FAL else ""
    return {
        "key_refused": "Check the key and what it is allowed to do.",
        "balance": "Add credit at the provider, then run the job again.",
        "locked": "Ask the provider why the account is locked, then run the job again.",
        "quota": "Wait until the provider's quota is replenished, then run the job again.",
        "endpoint_not_found": "Check the base URL in the settings.",
        UNREACHABLE_INPUT: f"The provider cannot reach the store. Set AVATAR_STORE__PUBLIC_ENDPOINT to where it is "
        f"reached from the internet{upload}; then run the job again. The portrait and the voice are not at fault.",
    }.get(kind, "Change the input the text names, then run the job again.")


def _unknown(outcome: SubmitOutcome, wire: Wire, inputs: RenderInputs, reason: str) -> OutcomeUnknown:
    """What a person is told beside this, the render's journal knows: when it was sent, and with which files."""
    render_id, seen = inputs.render_id, wire.clean(outcome.seen_id or "")
    return OutcomeUnknown(
        f"Whether {wire.provider} accepted render {render_id} is not known: {reason}. Up to {inputs.segment.seconds:.1f} "
        "seconds of video may have been charged. It is not sent again."
        + (f" The answer mentioned {seen}, which may be the request." if seen else ""),
        provider=wire.provider,
        render_id=render_id,
        request_id=outcome.seen_id,
        answer=outcome.answer,
        hint=f"avatar resolve {render_id} --request-id {seen or 'ID'} | --not-charged",
        reason=f"{reason}.",
    )

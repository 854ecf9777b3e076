"""How a paid POST can end: the table."""

import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from avatar.errors import SubmitRefused
from avatar.providers.outcome import REFUSALS, SubmitState, accepted_id, classify_submit, submit_seconds
from avatar.providers.wire import Wire
from avatar.stored_models import ProviderName

ACCEPTED = {"request_id": "r-1", "status": "IN_QUEUE"}


def classify(status=None, body=b"", **given):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    facts = {"error": None, "sent": True, "headers": {}, "body": data, "complete": True} | given
    return classify_submit(status=status, **facts)


@pytest.mark.parametrize(
    "error",
    [
        httpx.ConnectError,
        httpx.ConnectTimeout,
        httpx.PoolTimeout,
        httpx.UnsupportedProtocol,
        httpx.ReadError,  # whatever its name: no byte had left
        TimeoutError,
    ],
)
def test_nothing_left_means_not_sent(error):
    """Without a byte sent there is nothing to be charged for, whatever the exception is called."""
    assert classify(error=error, sent=False).state is SubmitState.NOT_SENT


@pytest.mark.parametrize(
    "error",
    [
        httpx.ConnectError,  # whatever its name: bytes had left
        httpx.ReadTimeout,
        httpx.WriteTimeout,
        httpx.WriteError,
        httpx.ReadError,
        httpx.RemoteProtocolError,
        TimeoutError,
        ValueError,
    ],
)
def test_no_answer_after_a_byte_left_is_unknown(error):
    """Once a byte has left, a lost answer is unknown."""
    assert classify(error=error).state is SubmitState.UNKNOWN


@pytest.mark.parametrize("status", sorted(REFUSALS))
@pytest.mark.parametrize("body", [b"", b"<html>", {"detail": "no"}, {"detail": "no", "request_id": "r-1"}])
def test_a_judged_request_is_refused(status, body):
    """The client errors that judge a request refuse it, whatever their body."""
    outcome = classify(status, body)
    assert (outcome.state, outcome.status) == (SubmitState.REFUSED, status)


@pytest.mark.parametrize(
    "status",
    [100, 101, 204, 301, 302, 307, 308, 304, 406, 408, 409, 418, 425, 499, 500, 501, 502, 503, 504, 520, 599],
)
@pytest.mark.parametrize(
    "body", [b"", b"<html>nginx</html>", {"error": "oops"}, {"success": True, "error": "x"}]
)
def test_an_answer_that_may_follow_acceptance_is_unknown(status, body):
    """Redirects, breakdowns and ambiguous client errors say nothing about acceptance."""
    assert classify(status, body).state is SubmitState.UNKNOWN


@pytest.mark.parametrize("status", [200, 201, 202, 302, 408, 409, 425, 499, 500, 502, 503, 504])
@pytest.mark.parametrize("refusals_in_200", [True, False])
def test_an_answer_with_a_request_id_is_accepted(status, refusals_in_200):
    """A request id is a receipt, whatever the status says beside it."""
    outcome = classify(status, ACCEPTED, refusals_in_200=refusals_in_200)
    assert (outcome.state, outcome.request_id) == (SubmitState.ACCEPTED, "r-1")


@pytest.mark.parametrize(
    "request_id",
    [
        "a1b2c3d4-e5f6-7890-g1h2-i3j4k5l6m7n8",  # the page's sample, not hexadecimal
        "kling-ai-avatar-v2-pro-789_019d",
        "odd/../id?with#every \"kind' of <character>%2F&ü",
        "line\nbreak\x00",
        "x" * 10_000,
        "..",
    ],
)
def test_any_text_is_a_request_id(request_id):
    """Ids are opaque: an accepted render is not lost for the look of its id."""
    assert classify(200, {"request_id": request_id}).request_id == request_id


@pytest.mark.parametrize(
    "request_id", [None, 7, 1.5, True, "", "  ", [], ["r-1"], {"id": "r-1"}, "x" * 10_001]
)
def test_what_cannot_be_asked_for_is_no_receipt(request_id):
    """A 200 whose request id is not text is unknown, not accepted."""
    assert classify(200, {"request_id": request_id}).state is SubmitState.UNKNOWN


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"null", b"[]", b'"r-1"', b"{", b"\xff\xfe", b"[" * 100_000, {}]
)
def test_an_unreadable_success_is_unknown(body):
    """A 2xx that cannot be read was accepted most likely, and is unknown."""
    assert classify(200, body).state is SubmitState.UNKNOWN


@pytest.mark.parametrize(
    ("body", "state"),
    [
        ({"success": False}, SubmitState.REFUSED),
        ({"success": False, "error": "Invalid parameters"}, SubmitState.REFUSED),
        ({"error": "Invalid parameters"}, SubmitState.REFUSED),
        ({"error": "no", "message": "no", "statusCode": 400}, SubmitState.REFUSED),
        ({"success": False, "request_id": "r-1"}, SubmitState.ACCEPTED),
        ({"error": "slow", "status": "IN_QUEUE"}, SubmitState.UNKNOWN),
        ({"error": None}, SubmitState.UNKNOWN),
        ({"success": True}, SubmitState.UNKNOWN),
        ({"success": "false"}, SubmitState.UNKNOWN),
    ],
)
def test_a_gateway_may_refuse_with_a_200(body, state):
    """Pixazo's 200 without success is a refusal, unless it could be a receipt; for fal it is unknown."""
    assert classify(200, body, refusals_in_200=True).state is state
    assert classify(200, body).state in {SubmitState.UNKNOWN, SubmitState.ACCEPTED}


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7.0),
        ("0", 0.0),
        ("1.5", 1.5),
        ("999999", 3600.0),
        ("soon", None),
        ("-3", None),
        ("nan", None),
        ("", None),
    ],
)
def test_a_throttled_submit_says_when_to_come_back(value, seconds):
    """429 is throttled, with Retry-After in seconds if it can be read, an hour at most."""
    outcome = classify(429, {"request_id": "r-1"}, headers={"retry-after": value})
    assert (outcome.state, outcome.retry_after) == (SubmitState.THROTTLED, seconds)


def test_retry_after_may_be_a_date():
    """An HTTP date in Retry-After counts from now; one in the past is now."""
    soon, past = (format_datetime(datetime.now(UTC) + timedelta(seconds=s), usegmt=True) for s in (100, -100))
    assert 90 < classify(429, headers={"retry-after": soon}).retry_after <= 100
    assert classify(429, headers={"retry-after": past}).retry_after == 0


def test_a_cut_answer_is_unknown_but_its_id_is_mentioned():
    """An id in half an answer helps the person who looks; it is no receipt."""
    outcome = classify(200, b'{"request_id": "r-1", "sta', complete=False, error=httpx.ReadError)
    assert (outcome.state, outcome.request_id, outcome.seen_id) == (SubmitState.UNKNOWN, None, "r-1")


def test_a_refusal_cut_short_is_still_a_refusal():
    """The status line of a 422 decides; its body is only words."""
    assert classify(422, b'{"deta', complete=False, error=httpx.ReadError).state is SubmitState.REFUSED


def test_a_reason_is_a_sentence_among_others(inputs):
    """Whether the provider ends its own with a full stop or not."""
    wire = Wire(ProviderName.FAL, "https://queue.example.com", "secret", ("Authorization", "Key "))
    for said in ("Out of quota", "Out of quota."):
        with pytest.raises(SubmitRefused, match=r"\(403, quota\): Out of quota\. It was not"):
            accepted_id(classify(403, {"detail": said}), wire, inputs)


@given(
    status=st.integers(100, 599),
    body=st.one_of(
        st.binary(max_size=60),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(st.sampled_from(["request_id", "error", "detail", "x"]), inner)
            ),
        ).map(lambda value: json.dumps(value).encode()),
    ),
    complete=st.booleans(),
    refusals=st.booleans(),
)
def test_no_answer_can_make_a_machine_pay_twice(status, body, complete, refusals):
    """Whatever is answered, only 429, judged requests and Pixazo's own 200 refusal allow another POST."""
    state = classify(status, body, complete=complete, refusals_in_200=refusals).state
    if state in {SubmitState.NOT_SENT, SubmitState.THROTTLED, SubmitState.REFUSED}:
        assert status == 429 or status in REFUSALS or (refusals and complete and 200 <= status < 300)


@pytest.mark.parametrize(("lease", "seconds"), [(120, 90), (2, 1.5), (1, 1), (1000, 100)])
def test_a_submit_ends_within_its_lease(lease, seconds):
    """The whole submit takes three quarters of the lease at most, and 100 s."""
    assert submit_seconds(lease) == seconds

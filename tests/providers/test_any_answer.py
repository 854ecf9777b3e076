"""Whatever a provider answers: a typed reading of it, which can be stored."""

import json
from decimal import Decimal

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avatar.models import RemoteVideo, Snapshot, Submission
from avatar.providers import fal as fal_answers
from avatar.providers import pixazo as pixazo_answers
from avatar.providers.answers import MAX_DEPTH, parse_object, read_video
from avatar.providers.fal_answers import ResultKind, judge_result
from avatar.providers.wire import Exchange
from tests.providers.conftest import open_at

NAMES = st.sampled_from(
    ["status", "error", "detail", "msg", "loc", "type", "video", "output", "url", "media_url", "data", "result",
     "success", "duration", "file_size", "content_type", "logs", "message", "queue_position", "progress_percent",
     "estimated_remaining_seconds", "request_id", "error_type", "polling_url", "status_url", "cancel_url"]
)  # fmt: skip
WORDS = st.sampled_from(
    ["COMPLETED", "IN_QUEUE", "FAILED", "https://h/v.mp4", "NaN", "-1", "1e400", ""]
) | st.text(max_size=6)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | WORDS
ANSWERS = st.dictionaries(
    NAMES,
    st.recursive(
        LEAVES,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
        max_leaves=10,
    ),
    max_size=6,
)


def answered(data: object, status: int = 200, **headers: str) -> Exchange:
    """An answer as if it had been read."""
    exchange = Exchange()
    exchange.status, exchange.complete = status, True
    exchange.body += json.dumps(data).encode()
    exchange.headers = httpx.Headers({name.replace("_", "-"): value for name, value in headers.items()})
    return exchange


@settings(max_examples=300)
@given(ANSWERS, st.sampled_from([200, 202, 400, 401, 404, 405, 422, 429, 500, 503, 302, 99]))
def test_fal_may_answer_anything(data, status):
    """A status is a snapshot or nothing, a result one of seven kinds, and whatever is read can be stored."""
    exchange = answered(data, status)
    data = exchange.object
    snapshot = fal_answers.read_status(data, fal_answers.fal_words())
    assert snapshot is None or Snapshot.model_validate_json(snapshot.model_dump_json()) == snapshot
    kind = judge_result(exchange)
    assert isinstance(kind, ResultKind)
    assert fal_answers.failure_billed(exchange, "odd") in {True, False, None}
    assert fal_answers.read_cancel(exchange)
    if kind is ResultKind.VIDEO:
        video = read_video(data, anywhere=True)
        assert RemoteVideo.model_validate_json(video.model_dump_json()) == video


@settings(max_examples=300)
@given(ANSWERS)
def test_pixazo_may_answer_anything(data):
    """A status is a snapshot or nothing, a video a video or nothing, and whatever is read can be stored."""
    data = answered(data).object
    snapshot = pixazo_answers.read_status(data, pixazo_answers.pixazo_words())
    assert snapshot is None or Snapshot.model_validate_json(snapshot.model_dump_json()) == snapshot
    video = read_video(data, anywhere=True)
    assert video is None or RemoteVideo.model_validate_json(video.model_dump_json()) == video


@settings(max_examples=100)
@given(ANSWERS, st.sampled_from(["fal", "pixazo"]))
def test_any_receipt_can_be_kept(data, name):
    """Whatever stands beside a request id, the receipt is written down and read again as it was."""
    provider = open_at("https://queue.example", name)
    receipt = provider._receipt("5e" * 16, "r-1", answered(data).object)
    assert Submission.model_validate_json(receipt.model_dump_json()) == receipt


@settings(max_examples=300)
@given(
    st.binary(max_size=200)
    | st.text(max_size=100).map(str.encode)
    | ANSWERS.map(lambda d: json.dumps(d).encode())
)
def test_what_is_parsed_can_be_stored(body):
    """An object that a journal can hold, or None."""
    data = parse_object(body)
    assert data is None or json.loads(json.dumps(data, allow_nan=False).encode()) == data


@pytest.mark.parametrize("depth", [MAX_DEPTH - 1, MAX_DEPTH + 1, 500, 900])
def test_what_is_too_deep_is_left_out(depth):
    """A payload is stored as it came, to 32 levels; pydantic would not store 256."""
    data = parse_object(b'{"keep": 1, "deep": ' + b"[" * depth + b"7" + b"]" * depth + b"}")
    assert data["keep"] == 1
    assert ("7" in json.dumps(data)) is (depth < MAX_DEPTH)
    assert RemoteVideo(url="https://h/", payload=data).model_dump_json()


@pytest.mark.parametrize("given_units", ["1e999999", "9" * 5000, "-1", "NaN", "Infinity", "", "0x1", "1,5"])
def test_what_is_no_number_of_units_is_not_billed(given_units):
    """The length of the video is billed instead."""
    exchange = answered({}, **{"x-fal-billable-units": given_units})
    assert fal_answers.billable_units(exchange) is None
    assert fal_answers.billable_units(answered({}, **{"x-fal-billable-units": "60"})) == Decimal(60)


def test_units_that_cannot_be_meant_are_told_as_they_are():
    """A provider may bill them: they are compared with the quote, not replaced."""
    assert fal_answers.billable_units(answered({}, **{"x-fal-billable-units": "10272"})) == 10272

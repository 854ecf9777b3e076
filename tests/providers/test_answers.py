"""Reading answers that may be anything, and text fit to be shown."""

import json

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from avatar.models import RemoteState
from avatar.providers.answers import (
    StatusWords,
    clean_text,
    error_kind,
    error_words,
    parse_object,
    path_segment,
    read_number,
    read_whole_number,
)
from tests.providers.conftest import open_at

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["status", "error", "detail", "msg", "loc", "video", "output", "url"]), inner
        )
    ),
    max_leaves=12,
)


@pytest.mark.parametrize(
    "body", [b"", b"null", b"[1]", b"{", b"\xff", b"<html>", b"1" * 5000, b"[" * 200_000]
)
def test_only_an_object_is_an_answer(body):
    """Whatever is not a JSON object is None, and never an exception."""
    assert parse_object(body) is None


def test_what_no_store_keeps_is_taken_out():
    """NaN and lone surrogates are valid to Python's parser only; what remains can be written again."""
    data = parse_object(b'{"duration": NaN, "log": "cut \\ud83d here", "fine": "\\ud83d\\ude00"}')
    assert data == {"duration": None, "log": "cut ? here", "fine": "😀"}
    assert json.dumps(data, allow_nan=False, ensure_ascii=False).encode()


@given(JSON)
def test_no_body_breaks_a_reader(value):
    """Words and kinds are text, whatever is inside."""
    data = value if isinstance(value, dict) else {"detail": value}
    assert isinstance(error_words(data), str)
    assert isinstance(error_kind(data), str)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(1, 1.0), ("2.5", 2.5), (0, 0.0), (-1, None), (True, None), ("x", None), ("nan", None), (None, None), ([], None),
     (float("inf"), None), ("1e400", None), (10**400, None)],
)  # fmt: skip
def test_a_number_is_finite_and_not_negative(value, expected):
    """Durations and positions are plain numbers or nothing."""
    assert read_number(value) == expected
    assert read_whole_number(value) == (None if expected is None else int(expected))


@pytest.mark.parametrize(
    ("data", "words", "kind"),
    [
        ({"error": "Invalid"}, "Invalid", ""),
        ({"statusCode": 401, "message": "Access denied"}, "Access denied", ""),
        ({"error_message": "Face not found"}, "Face not found", ""),
        ({"error": {"message": "nested"}}, "nested", ""),
        ({"error": "", "message": "second"}, "second", ""),
        (
            {"detail": "Runner gone", "error_type": "runner_disconnected"},
            "Runner gone",
            "runner_disconnected",
        ),
        (
            {
                "detail": [
                    {"loc": ["body", "audio_url"], "msg": "Too long", "type": "audio_duration_too_long"}
                ]
            },
            "Too long (body.audio_url)",
            "audio_duration_too_long",
        ),
        ({"detail": [{"msg": "a"}, {"msg": "b", "type": "late"}, 3, None]}, "a; b", "late"),
        ({"detail": {"error": "deep"}}, "deep", ""),
        ({"detail": 5, "error": ["x", "y"]}, "x; y", ""),
        ({}, "", ""),
        (None, "", ""),
    ],
)
def test_every_known_shape_of_error_is_read(data, words, kind):
    """fal's list and flat shapes, Pixazo's names and its gateway's."""
    assert (error_words(data), error_kind(data)) == (words, kind)


@pytest.mark.parametrize(
    ("given_text", "shown"),
    [
        (
            "fetch https://s3.example/a/b.png?X-Amz-Signature=c0ffee&x=1 failed",
            "fetch https://s3.example/a/b.png failed",
        ),
        ("see HTTPS://user:pw@host/x#frag.", "see HTTPS://host/x"),
        ("with X-Amz-Credential=AKIA/2026 inside", "with X-Amz-… inside"),
        ("Key s3cret!", "Key [key]!"),
        (
            f"cannot reach https://b.example/x/webhooks/fal/{'5e' * 16}/2/{'c0ffee00' * 5}.",
            f"cannot reach https://b.example/x/webhooks/fal/{'5e' * 16}/2/….",
        ),
        (
            f"%2Fwebhooks%2Fpixazo%2F{'5e' * 16}%2F1%2F{'c0ffee00' * 5}",
            f"%2Fwebhooks%2Fpixazo%2F{'5e' * 16}%2F1%2F…",
        ),
        ("two\nlines\x00and\x1b[31m colour", "two lines and [31m colour"),
        ("\u202ereversed", "reversed"),
    ],
)
def test_words_by_others_are_made_discreet(given_text, shown):
    """No query string, user name, key or control character of a provider's words is shown."""
    assert clean_text(given_text, "s3cret") == shown


def test_words_by_others_are_short():
    """A page of text is cut to 500 characters."""
    assert len(clean_text("x" * 100_000)) == 500


@pytest.mark.parametrize("request_id", ["a/../b", "..", ".", "?x#y", "ü %2F", "a\nb", "x" * 10_000, "\x00"])
def test_any_request_id_is_one_segment_of_a_path(request_id):
    """An id in a URL stays one segment, and does not change where the URL leads."""
    url = httpx.URL(f"https://queue.example/requests/{path_segment(request_id)}/status")
    assert url.raw_path.count(b"/") == 3
    assert url.raw_path.endswith(b"/status")
    assert (url.host, url.query, url.fragment) == ("queue.example", b"", "")


def test_an_unknown_word_is_running_and_logged_once(caplog):
    """A word nobody knows keeps the render polled; the log says so once."""
    words = StatusWords("fal", queued=("IN_QUEUE",))
    assert [words.state(word) for word in ("in queue", "Dreaming", "DREAMING")] == [
        RemoteState.QUEUED,
        RemoteState.RUNNING,
        RemoteState.RUNNING,
    ]
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    ("url", "ours"),
    [
        ("https://queue.fal.run/x", True),
        ("https://queue.fal.run:443/x", True),
        ("https://QUEUE.FAL.RUN/x", True),
        ("http://queue.fal.run/x", False),
        ("https://queue.fal.run:8443/x", False),
        ("https://queue.fal.run.evil.example/x", False),
        ("https://evil.example/queue.fal.run", False),
        ("https://user@queue.fal.run/x", False),
        ("https://queue.fal.run@evil.example/x", False),
        ("//queue.fal.run/x", False),
        ("/x", False),
        ("", False),
        (None, False),
        (7, False),
        ("https://[", False),
        ("javascript:alert(1)", False),
    ],
)
def test_the_key_is_for_one_origin(url, ours):
    """Only the configured scheme, host and port are ours."""
    wire = open_at("https://queue.fal.run", "fal")._queue
    assert (wire.own(url) is not None) is ours
    assert ours is ("Authorization" in wire.headers(str(url)))

"""Answers that are too large, too deep, packed, endless or nonsense: bounded, typed, and no paid render is lost."""

import asyncio
import gzip
import tracemalloc

import pytest

from avatar.errors import AvatarError, OutcomeUnknown, ProviderUnavailable
from avatar.models import RemoteState
from avatar.providers import fal as fal_answers
from avatar.providers import wire
from avatar.providers.answers import path_segment
from tests.cases.answers import CASES
from tests.providers.conftest import make_inputs, make_submission, open_at
from tests.providers.sockets import Act, Visit, serving

MIB = 1024**2
#: A kilobyte for a megabyte of spaces around a status; and that packed again, a hundred times over.
BOMB = gzip.compress(b" " * (64 * MIB) + b'{"status": "COMPLETED"}')


def say_json(data: object, **headers: str) -> Act:
    return lambda visit: visit.answer(200, data, **headers)


ODD_IDS = ["a/../b", "..", ".", "?x#y", "\"'`$(x)", "a\nb\x1b[31m\x00", "ü/😀", "%2e%2e%2f", "x" * 10_000]
SUBMIT, LOOK = "the submit is answered with ", "a look is answered with "


@pytest.mark.parametrize("name", ["fal", "pixazo"])
@pytest.mark.parametrize("request_id", ODD_IDS)
async def test_an_odd_request_id_is_kept_and_escaped(name, request_id):
    """The receipt holds the id as it is; a look asks for one segment below the documented path."""
    async with serving(say_json({"request_id": request_id, "status": "IN_QUEUE"})) as server:
        provider = open_at(server.url, name)
        submission = await provider.submit(make_inputs())
        snapshot = await provider.poll(submission.model_copy(update={"generation": "v2"}))
    assert (submission.request_id, snapshot.state) == (request_id, RemoteState.QUEUED)
    path = server.visits[-1].line.split()[1].partition("?")[0]
    segments = path.split("/")
    assert segments[{"fal": 4, "pixazo": 4}[name]] == path_segment(request_id)
    assert len(segments) == {"fal": 6, "pixazo": 5}[name]


@pytest.mark.parametrize("request_id", [7, 1.5, True, [], {"id": "r"}, "", " \n", "x" * 10_001])
async def test_a_request_id_that_cannot_be_used_is_unknown(request_id):
    """It was accepted, most likely: a person looks, with what was seen; nothing is sent again."""
    async with serving(say_json({"request_id": request_id})) as server:
        with pytest.raises(OutcomeUnknown, match="a request id that cannot be used") as caught:
            await open_at(server.url, "fal").submit(make_inputs())
    assert len(server.visits) == 1
    assert caught.value.request_id == ("7" if request_id == 7 else None)


async def test_of_two_request_ids_the_last_holds():
    """As in every JSON parser a provider is likely to use."""
    async with serving(lambda visit: visit.answer(200, '{"request_id": "a", "request_id": "b"}')) as server:
        assert (await open_at(server.url, "fal").submit(make_inputs())).request_id == "b"


BODIES = {
    SUBMIT + "a packed bomb": say_json(BOMB, Content_Encoding="gzip"),
    SUBMIT + "2 MB": say_json({"request_id": "r", "x": "x" * 2 * MIB}),
}
LOOKS = {
    LOOK + "2 MB": [say_json({"x": "x" * 2 * MIB, "status": "COMPLETED"})],
    LOOK + "a packed bomb, also one inside another": [
        say_json(BOMB, Content_Encoding="gzip"),
        say_json(gzip.compress(BOMB), Content_Encoding="gzip, gzip"),
        say_json(gzip.compress(BOMB), Content_Encoding="gzip"),
        say_json(BOMB[:-40], Content_Encoding="deflate"),
        say_json(b"\x1f\x8b" + b"x" * 99, Content_Encoding="gzip"),
    ],
    LOOK + "an encoding nobody asked for": [
        say_json(b"x" * 99, Content_Encoding="br"), say_json(b"x" * 99, Content_Encoding="x" * 9000),
    ],
    LOOK + "100,000 brackets": [say_json("[" * 100_000), say_json('{"a":' * 100_000)],
    LOOK + "types that are wrong": [
        say_json(data) for data in ([], "x", 7, None, {"status": ["COMPLETED"]}, {"status": {"a": 1}}, {"status": None})
    ],
    LOOK + "a page": [lambda visit: visit.answer(200, "<html>", "text/html")],
}  # fmt: skip


@pytest.mark.parametrize(("case", "seen"), [case for case in CASES if case[0] in BODIES])
async def test_a_submit_that_cannot_be_read_is_unknown(case, seen):
    """Read as far as agreed, then closed; never sent again."""
    async with serving(BODIES[case]) as server:
        with pytest.raises(OutcomeUnknown, match=seen):
            await open_at(server.url, "fal").submit(make_inputs())
    assert len(server.asked("POST")) == 1


@pytest.mark.parametrize("name", ["fal", "pixazo"])
@pytest.mark.parametrize(("case", "seen"), [case for case in CASES if case[0] in LOOKS])
async def test_a_look_that_cannot_be_read_says_nothing(case, seen, name):
    """The render goes on; in a second and some megabytes."""
    for act in LOOKS[case]:
        async with serving(act) as server:
            tracemalloc.start()
            with pytest.raises(ProviderUnavailable, match=f"{seen}.*render, which goes on") as caught:
                async with asyncio.timeout(10):
                    await open_at(server.url, name).poll(make_submission(name))
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
        assert len(caught.value.message) < 1000
        assert peak < 32 * MIB


async def test_an_answer_without_end_is_left(monkeypatch):
    """A call that is free has half a minute in all, however it drips."""
    monkeypatch.setattr(wire, "FREE_CALL_SECONDS", 0.2)

    async def act(visit: Visit) -> None:
        await visit.say("HTTP/1.1 200 -\r\nContent-Type: application/json\r\n\r\n")
        while True:
            await visit.say(b" ")
            await asyncio.sleep(0.01)

    async with serving(act) as server:
        with pytest.raises(ProviderUnavailable, match=r"its answer had not ended after 0\.2 s"):
            await open_at(server.url, "fal").poll(make_submission())


async def test_logs_of_any_size_do_not_hide_the_status():
    """Where the logs are too large, the status is asked for without them."""

    async def act(visit: Visit) -> None:
        logs = [{"message": "x" * 2 * MIB}] if "logs=1" in visit.line else []
        await visit.answer(200, {"status": "IN_PROGRESS", "logs": logs})

    async with serving(act) as server:
        snapshot = await open_at(server.url, "fal").poll(make_submission())
    assert snapshot.state is RemoteState.RUNNING
    assert ["logs=1" in visit.line for visit in server.visits] == [True, False]


async def test_numbers_that_are_none_are_left_out():
    """One absurd number does not hide a status, or a paid video."""
    body = (
        '{"status": "IN_QUEUE", "queue_position": %s, "metrics": {"a": NaN, "b": Infinity, "c": 1e999}}'
        % ("9" * 5000)
    )
    async with serving(lambda visit: visit.answer(200, body)) as server:
        snapshot = await open_at(server.url, "fal").poll(make_submission())
    assert (snapshot.state, snapshot.position) == (RemoteState.QUEUED, None)


async def test_a_deep_result_is_a_video():
    """The payload is cut, not the video."""
    deep = '{"video": {"url": "https://h/v.mp4"}, "deep": ' + '{"a":' * 500 + "1" + "}" * 501
    async with serving(lambda visit: visit.answer(200, deep)) as server:
        video = await open_at(server.url, "fal").collect(make_submission())
    assert video.url == "https://h/v.mp4"
    assert video.model_dump_json()


async def flood(visit: Visit, piece: bytes, head: str = "") -> None:
    if "/stream" not in visit.line:
        await visit.answer(200, {"status": "COMPLETED"})
        return
    await visit.say(f"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n{head}Connection: close\r\n\r\n")
    while True:
        await visit.say(piece)


FLOODS = {
    "a line": (b"data: " + b"x" * 65_000, ""),
    "an event": (b"data: x\n" * 9000, ""),
    "comments": (b": ping\n\n" * 9000, ""),
    "packed": (gzip.compress(b"data: x\n\n"), "Content-Encoding: gzip\r\n"),
}


@pytest.mark.parametrize("what", FLOODS)
async def test_a_stream_without_end_is_left(what, monkeypatch):
    """What grows without bound is closed, and the end is found by asking."""
    from avatar.providers import polling as events

    monkeypatch.setattr(events, "MAX_STREAM", 4 * MIB)
    piece, head = FLOODS[what]
    async with serving(lambda visit: flood(visit, piece, head)) as server:
        watch = open_at(server.url, "fal").watch(make_submission(), 10)
        assert [snapshot.state async for snapshot in watch] == [RemoteState.DONE]


#: Cases that are a test of their own.
TESTS = {
    SUBMIT + "a request id of slashes, dots, quotes, control characters or 10,000 characters":
        test_an_odd_request_id_is_kept_and_escaped,
    SUBMIT + "a request id that is a number, a list, empty, or longer":
        test_a_request_id_that_cannot_be_used_is_unknown,
    SUBMIT + "two request ids": test_of_two_request_ids_the_last_holds,
    "a look is answered without end, a byte at a time": test_an_answer_without_end_is_left,
    LOOK + "logs of 2 MB": test_logs_of_any_size_do_not_hide_the_status,
    LOOK + "NaN, Infinity, 1e999 and 5,000 digits": test_numbers_that_are_none_are_left_out,
    "the result has 500 levels": test_a_deep_result_is_a_video,
    "the status stream has a line, an event or comments without end": test_a_stream_without_end_is_left,
    "the status stream is packed": test_a_stream_without_end_is_left,
}  # fmt: skip


def test_every_case_is_tried():
    """The table in the documentation is the tests' own."""
    assert {name for name, _ in CASES} == BODIES.keys() | LOOKS.keys() | TESTS.keys()


async def test_status_words_are_remembered_in_little_room(caplog):
    """A provider may say a hundred odd words of a megabyte each."""
    words = fal_answers.fal_words()
    for number in range(200):
        words.state(f"{number} " + "x" * MIB)
    assert sum(map(len, words._odd)) < 100_000
    assert len(caplog.records) == 100


def test_an_error_does_not_steer_a_terminal():
    """Names and ids by others are told without control characters."""
    told = AvatarError("request a\x1b[31m\x00\u202eb", hint="avatar resolve\r x")
    assert (str(told), told.hint) == ("request a [31m  b", "avatar resolve  x")

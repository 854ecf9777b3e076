"""fal: following the status stream, and doing without it."""

import asyncio
import json
import logging

import pytest

from avatar.errors import ProviderFailure
from avatar.models import RemoteState
from tests.providers.conftest import KEY, make_submission, open_at
from tests.providers.sockets import Visit, serving

STATUS = "/fal-ai/kling-video/requests/r-1/status"
VIDEO = {"video": {"url": "https://v3b.fal.media/files/b/x/output.mp4"}}
MODEL_ERROR = {"detail": [{"loc": ["body", "image_url"], "msg": "No face", "type": "face_detection_error"}]}


def event(word: str, **more) -> bytes:
    return f"data: {json.dumps({'status': word} | more)}\n\n".encode()


async def begin_stream(visit: Visit) -> None:
    await visit.say(
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nConnection: close\r\n\r\n"
    )


async def watch_states(server, window=20.0):
    return [s.state.value async for s in open_at(server.url, "fal").watch(make_submission(), window)]


async def test_the_stream_is_read_as_it_comes():
    """Comments, CRLF, split events, data over two lines, nonsense and repetitions are taken in stride."""

    async def act(visit: Visit) -> None:
        await begin_stream(visit)
        pieces = [b": ping\r\n\r\n", b"id: 1\r\nevent: x\r\n", event("IN_QUEUE")[:9], event("IN_QUEUE")[9:],
                  event("IN_QUEUE"), b"data: <html>\n\n", b'data: {"status":\ndata: "IN_PROGRESS"}\n\n', b"data:\n\n",
                  event("COMPLETED", note="\u2028")]  # fmt: skip
        for piece in pieces:
            await visit.say(piece)

    async with serving(act) as server:
        assert await watch_states(server) == ["queued", "running", "done"]
    assert [visit.line for visit in server.visits] == [f"GET {STATUS}/stream?logs=1 HTTP/1.1"]
    assert server.visits[0].headers["authorization"] == f"Key {KEY}"


@pytest.mark.parametrize(
    ("status", "content_type"),
    [
        (200, "application/json"),
        (404, "text/event-stream"),
        (405, "text/html"),
        (302, ""),
        (401, "application/json"),
    ],
)
async def test_without_a_stream_the_status_is_asked_for(status, content_type):
    """Anything but an event stream there means asking, for the rest of this watch."""
    words = iter(["IN_QUEUE", "IN_PROGRESS", "COMPLETED"])

    async def act(visit: Visit) -> None:
        if "/stream" in visit.line:
            await visit.answer(status, {"status": "COMPLETED"}, content_type)
        else:
            await visit.answer(200, {"status": next(words)})

    async with serving(act) as server:
        assert await watch_states(server) == ["queued", "running", "done"]
    assert sum("/stream" in visit.line for visit in server.visits) == 1


async def test_a_dropped_stream_is_taken_up_again():
    """A stream that breaks is opened again, and the end is noticed there."""
    words = iter([["IN_QUEUE"], ["IN_PROGRESS"], ["COMPLETED"]])

    async def act(visit: Visit) -> None:
        await begin_stream(visit)
        for word in next(words):
            await visit.say(event(word))
        visit.reset()

    async with serving(act) as server:
        assert await watch_states(server) == ["queued", "running", "done"]
    assert all("/stream" in visit.line for visit in server.visits)


async def test_a_stream_that_brings_nothing_is_given_up():
    """Two empty streams in a row, and the status is asked for instead."""

    async def act(visit: Visit) -> None:
        if "/stream" in visit.line:
            await begin_stream(visit)
        else:
            await visit.answer(200, {"status": "COMPLETED"})

    async with serving(act) as server:
        assert await watch_states(server) == ["done"]
    assert [("/stream" in visit.line) for visit in server.visits] == [True, True, False]


async def test_a_stream_held_back_by_a_proxy_does_not_hide_the_end():
    """While a stream has said nothing, looks go on beside it."""

    async def act(visit: Visit) -> None:
        if "/stream" in visit.line:
            await begin_stream(visit)
            await visit.reader.read()
        else:
            await visit.answer(200, {"status": "COMPLETED"})

    async with serving(act) as server:
        assert await watch_states(server) == ["done"]


async def test_failures_in_the_middle_do_not_end_a_watch(caplog):
    """An outage, a page and a rate limit are logged, and the render is watched to its end."""
    answers = iter(
        [
            (500, "<html>"),
            (200, "<html>"),
            (429, ""),
            (200, {"status": "IN_PROGRESS"}),
            (200, {"status": "COMPLETED"}),
        ]
    )

    async def act(visit: Visit) -> None:
        if "/stream" in visit.line:
            await visit.answer(404)
        else:
            await visit.answer(*next(answers))

    async with serving(act) as server:
        assert await watch_states(server) == ["running", "done"]
    assert (
        sum(
            record.name == "avatar.provider" and record.levelno == logging.WARNING
            for record in caplog.records
        )
        == 3
    )


async def test_a_watch_ends_with_its_window():
    """A render that goes on is handed back when the window has passed, with no connection left open."""

    async def act(visit: Visit) -> None:
        await begin_stream(visit)
        await visit.say(event("IN_PROGRESS"))
        await visit.reader.read()

    async with serving(act) as server:
        assert await watch_states(server, window=0.3) == ["running"]


async def test_a_refused_key_ends_a_watch():
    """Waiting does not make a refused key right."""
    async with serving(lambda visit: visit.answer(401, {"detail": "locked"})) as server:
        with pytest.raises(ProviderFailure, match="locked"):
            await watch_states(server)


async def test_a_watched_render_costs_few_calls(sandbox, open_sandboxed, inputs):
    """A healthy stream: one submit, one stream, one result."""
    sandbox.reset(render_seconds=1.5, queue_seconds=0.5)
    fal = open_sandboxed("fal")
    submission = await fal.submit(inputs)
    assert [s async for s in fal.watch(submission, 30)][-1].state is RemoteState.DONE
    counts = sandbox.state()["counts"]
    assert (counts["submit"], counts["stream"], counts["status"]) == (1, 1, 0)


async def test_watching_can_stop_early():
    """A caller that stops listening leaves no connection behind."""
    hung_up = asyncio.Event()

    async def act(visit: Visit) -> None:
        await begin_stream(visit)
        await visit.say(event("IN_PROGRESS"))
        await visit.reader.read()
        hung_up.set()

    async with serving(act) as server:
        looks = open_at(server.url, "fal").watch(make_submission(), 60)
        assert (await anext(looks)).state is RemoteState.RUNNING
        await looks.aclose()
        async with asyncio.timeout(10):
            await hung_up.wait()

"""fal: what its answers mean, where its key goes, how its stream is followed."""

import asyncio
import json
import logging
from decimal import Decimal

import pytest

from tasks.errors import ProviderFailure, ProviderUnavailable, RenderFailed, RenderLost, SubmitRefused
from tasks.models import CancelOutcome, RemoteState
from tests.providers.conftest import KEY, RENDER_ID, make_inputs, make_submission, open_at
from tests.providers.sockets import Visit, serving

STATUS = "/fal-ai/kling-video/requests/r-1/status"
VIDEO = {"video": {"url": "https://v3b.fal.media/files/b/x/output.mp4"}}
MODEL_ERROR = {"detail": [{"loc": ["body", "image_url"], "msg": "No face", "type": "face_detection_error"}]}


def by_path(answers: dict[str, tuple], default=(404, {"status": "NOT_FOUND"})):
    """Answers by the end of the path: status, body and headers."""

    async def act(visit: Visit) -> None:
        path = visit.line.split()[1].partition("?")[0]
        status, body, *headers = next(
            (answer for ending, answer in answers.items() if path.endswith(ending)), default
        )
        await visit.answer(status, body, **(headers[0] if headers else {}))

    return act


async def test_a_submit_is_what_the_page_documents(sandbox, open_sandboxed, inputs):
    """Body at the top level, no wrapper; the key as `Key …`; the render id as a tag, in fal's key=value form."""
    submission = await open_sandboxed("fal").submit(inputs)
    seen = sandbox.state()["accepted"][0]
    assert seen["body"] == {
        "image_url": inputs.portrait_url,
        "audio_url": inputs.voice_url,
        "prompt": "smiling",
    }
    assert (seen["tag"], seen["webhook"], seen["key"]) == (f"render={RENDER_ID}", None, KEY)
    assert (submission.request_id, submission.render_id) == (seen["request_id"], RENDER_ID)


async def test_a_webhook_is_asked_for_only_if_there_is_one():
    """The webhook's URL travels in the query, encoded."""
    hook = "https://bridge.example/hook?render=1&mac=ä"
    async with serving(lambda visit: visit.answer(200, {"request_id": "r-1"})) as server:
        await open_at(server.url, "fal").submit(make_inputs(webhook_url=hook))
        await open_at(server.url, "fal").submit(make_inputs())
    first, second = (visit.line.split()[1] for visit in server.visits)
    assert first.endswith("/pro?fal_webhook=https%3A%2F%2Fbridge.example%2Fhook%3Frender%3D1%26mac%3D%C3%A4")
    assert second == "/fal-ai/kling-video/ai-avatar/v2/pro"


async def test_no_log_tells_what_follows_the_path(caplog):
    """At every log level of httpx, a webhook's MAC and the key stay out of the log."""
    caplog.set_level(logging.INFO)
    async with serving(lambda visit: visit.answer(200, {"request_id": "r-1"})) as server:
        await open_at(server.url, "fal").submit(make_inputs(webhook_url="https://b.example/?mac=c0ffee"))
    assert "ai-avatar/v2/pro" in caplog.text
    assert "c0ffee" not in caplog.text
    assert KEY not in caplog.text


@pytest.mark.parametrize(
    ("status", "body", "state"),
    [
        (202, {"status": "IN_QUEUE", "queue_position": 3}, RemoteState.QUEUED),
        (202, {"status": "IN_QUEUE"}, RemoteState.QUEUED),
        (202, {"status": "IN_QUEUE", "queue_position": "many"}, RemoteState.QUEUED),
        (202, {"status": "IN_PROGRESS", "logs": None}, RemoteState.RUNNING),
        (202, {"status": "IN_PROGRESS", "logs": ["odd", 3]}, RemoteState.RUNNING),
        (200, {"status": "COMPLETED"}, RemoteState.DONE),
        (200, {"status": "COMPLETED", "error": "bad", "error_type": "request_timeout"}, RemoteState.DONE),
        (200, {"status": "DREAMING"}, RemoteState.RUNNING),
        (200, {"status": "CANCELLED"}, RemoteState.FAILED),
        (404, {"status": "NOT_FOUND"}, RemoteState.LOST),
        (404, "<html>", RemoteState.LOST),
        (410, {}, RemoteState.LOST),
    ],
)
async def test_a_status_becomes_a_snapshot(status, body, state):
    """Every status word, known or not, with fields missing or odd."""
    async with serving(lambda visit: visit.answer(status, body)) as server:
        snapshot = await open_at(server.url, "fal").poll(make_submission())
    assert snapshot.state is state
    assert server.visits[0].line == f"GET {STATUS}?logs=1 HTTP/1.1"


async def test_a_snapshot_carries_what_fal_tells():
    """Position while queued, the last log line, and the error of a failed one."""
    answers = [
        {"status": "IN_QUEUE", "queue_position": 3},
        {"status": "IN_PROGRESS", "logs": [{"message": "one"}, {"message": "two"}]},
        {
            "status": "COMPLETED",
            "error": "Too slow",
            "error_type": "request_timeout",
            "logs": [{"message": "x"}],
        },
    ]
    turns = iter(answers)
    async with serving(lambda visit: visit.answer(200, next(turns))) as server:
        fal = open_at(server.url, "fal")
        queued, running, done = [await fal.poll(make_submission()) for _ in answers]
    assert (queued.position, running.message, done.message) == (3, "two", "Too slow")
    assert (done.kind, done.word) == ("request_timeout", "COMPLETED")


@pytest.mark.parametrize(
    ("status", "body"),
    [(500, "<html>"), (502, ""), (503, {"detail": "x"}), (200, "<html>"), (200, "[]"), (200, {}), (200, {"status": 7}),
     (302, ""), (400, {"detail": "x"}), (408, ""), (429, ""), (204, "")],
)  # fmt: skip
async def test_a_look_that_failed_says_nothing_about_the_render(status, body):
    """Middle boxes, missing fields and nonsense are not job failures."""
    async with serving(lambda visit: visit.answer(status, body, Location="http://127.0.0.1:9/")) as server:
        with pytest.raises(ProviderUnavailable):
            await open_at(server.url, "fal").poll(make_submission())


async def test_a_404_just_after_the_submit_is_not_yet_a_loss():
    """A new request may not have got around yet: it counts as queued for 30 s."""
    async with serving(lambda visit: visit.answer(404, {"status": "NOT_FOUND"})) as server:
        fal = open_at(server.url, "fal")
        early, late = [await fal.poll(make_submission(age=age)) for age in (5, 40)]
        with pytest.raises(ProviderUnavailable):
            await fal.collect(make_submission(age=5))
    assert (early.state, late.state) == (RemoteState.QUEUED, RemoteState.LOST)


@pytest.mark.parametrize("status", [401, 402, 403])
@pytest.mark.parametrize("call", ["poll", "collect", "cancel"])
async def test_a_refused_key_does_not_end_the_render(status, call):
    """A key refused later on is told as such: the render goes on, and its request id is kept."""
    async with serving(lambda visit: visit.answer(status, {"detail": "User is locked"})) as server:
        with pytest.raises(ProviderFailure, match=r"User is locked.*not lost") as caught:
            await getattr(open_at(server.url, "fal"), call)(make_submission())
    assert type(caught.value) is ProviderFailure
    assert caught.value.request_id == "r-1"


async def test_urls_on_a_foreign_host_never_see_the_key(sandbox, open_sandboxed, inputs):
    """URLs in the receipt are used only on the configured origin; else the documented ones are."""
    sandbox.behave("submit", "foreign_urls")
    fal = open_sandboxed("fal")
    submission = await fal.submit(inputs)
    assert (submission.status_url, submission.response_url, submission.cancel_url) == (None, None, None)
    foreign = dict.fromkeys(
        ("status_url", "response_url", "cancel_url"), sandbox.state()["foreign_url"] + "/x"
    )
    submission = submission.model_copy(update=foreign)  # as from a journal written under other settings
    await fal.poll(submission)
    assert [s async for s in fal.watch(submission, 20)][-1].state is RemoteState.DONE
    assert (await fal.collect(submission)).url
    await fal.cancel(submission)
    assert sandbox.state()["leaks"] == []


async def test_returned_urls_of_the_configured_origin_are_used():
    """fal says not to build these URLs, so what it returns is followed."""
    answers = {"/a": (200, {"status": "COMPLETED"}), "/b": (200, VIDEO), "/c": (202, {})}
    async with serving(by_path(answers)) as server:
        submission = make_submission(
            status_url=f"{server.url}/a?v=2", response_url=f"{server.url}/b", cancel_url=f"{server.url}/c"
        )
        fal = open_at(server.url, "fal")
        assert (await fal.poll(submission)).state is RemoteState.DONE
        assert (await fal.collect(submission)).url == VIDEO["video"]["url"]
        assert await fal.cancel(submission) is CancelOutcome.REQUESTED
    assert server.visits[0].line == "GET /a?v=2&logs=1 HTTP/1.1"


@pytest.mark.parametrize("code", [301, 302, 307, 308])
async def test_no_redirect_is_followed_with_the_key(code):
    """A redirect while polling or collecting is an outage, not a way."""
    async with (
        serving(lambda visit: visit.answer(200, {"status": "COMPLETED"} | VIDEO)) as elsewhere,
        serving(lambda visit: visit.answer(code, Location=elsewhere.url)) as server,
    ):
        for call in ("poll", "collect", "cancel"):
            with pytest.raises(ProviderUnavailable):
                await getattr(open_at(server.url, "fal"), call)(make_submission())
    assert elsewhere.connections == 0


async def test_an_odd_request_id_finds_its_render(sandbox, open_sandboxed, inputs):
    """An id with slashes, quotes and spaces is encoded, and the render comes home."""
    sandbox.behave("submit", "odd_id", length=600)
    fal = open_sandboxed("fal")
    submission = (await fal.submit(inputs)).model_copy(
        update={"status_url": None, "response_url": None, "cancel_url": None}
    )
    assert [s async for s in fal.watch(submission, 20)][-1].state is RemoteState.DONE
    assert (await fal.collect(submission)).billed_seconds is not None


@pytest.mark.parametrize(
    ("body", "headers", "seconds", "billed"),
    [
        (VIDEO, {}, None, None),
        (VIDEO | {"duration": 12.5}, {"X_Fal_Billable_Units": "12.5"}, 12.5, Decimal("12.5")),
        (VIDEO | {"duration": None}, {"X_Fal_Billable_Units": "many"}, None, None),
        (VIDEO | {"duration": -1}, {"X_Fal_Billable_Units": "-1"}, None, None),
        (VIDEO | {"duration": "12.5"}, {"X_Fal_Billable_Units": "NaN"}, 12.5, None),
    ],
)
async def test_a_result_is_kept_verbatim(body, headers, seconds, billed):
    """URL, seconds if told, billed units if told, and the payload as it came."""
    async with serving(lambda visit: visit.answer(200, body, **headers)) as server:
        video = await open_at(server.url, "fal").collect(make_submission())
    assert (video.url, video.seconds, video.billed_seconds) == (VIDEO["video"]["url"], seconds, billed)
    assert video.payload == body


FLAT = {"detail": "Runner gone", "error_type": "runner_disconnected"}
BARE = {"detail": "Internal Server Error"}
OURS, RETRYABLE = {"x_fal_request_id": "r-1"}, {"X_Fal_Retryable": "true"}


@pytest.mark.parametrize(
    ("status", "body", "headers", "kind", "billed"),
    [
        (422, MODEL_ERROR, {}, "face_detection_error", None),
        (422, MODEL_ERROR, {"X_Fal_Billable_Units": "0"}, "face_detection_error", False),
        (422, MODEL_ERROR, {"X_Fal_Billable_Units": "3"}, "face_detection_error", True),
        (400, MODEL_ERROR, {}, "face_detection_error", None),
        (403, MODEL_ERROR, {}, "face_detection_error", None),
        (404, MODEL_ERROR, {}, "face_detection_error", None),
        (500, MODEL_ERROR, {}, "face_detection_error", False),
        (503, FLAT, {}, "runner_disconnected", False),
        (504, {"detail": "x"}, {"X_Fal_Error_Type": "request_timeout"}, "request_timeout", False),
        (500, BARE, OURS, "failed", False),
        (422, {"detail": "no"}, {}, "failed", None),
        (499, {"detail": "Client cancelled", "error_type": "client_cancelled"}, {}, "client_cancelled", None),
        (200, {"images": []}, {}, "no_media_generated", None),
        (200, {"video": {}}, {}, "no_media_generated", None),
        (200, {"video": {"url": 7}}, {}, "no_media_generated", None),
        (200, {"video": "x", "error": "no", "error_type": "odd"}, {}, "odd", None),
    ],
)
async def test_a_failed_result_is_the_renders_failure(status, body, headers, kind, billed):
    """The model's own error, with its type and whether it is charged: never for a 5xx."""
    async with serving(by_path({"/r-1": (status, body, headers)})) as server:
        with pytest.raises(RenderFailed) as caught:
            await open_at(server.url, "fal").collect(make_submission())
    assert (caught.value.kind, caught.value.billed) == (kind, billed)
    assert caught.value.request_id == "r-1"


@pytest.mark.parametrize(
    ("status", "body", "headers"),
    [
        (502, "<html>nginx</html>", {}),
        (503, "", {}),
        (504, "gateway timeout", OURS),
        (200, "<html>", {}),
        (202, {"status": "IN_PROGRESS"}, {}),
        (400, {"detail": "Request is still in progress"}, {}),
        (403, "<html>WAF</html>", {}),
        (429, {"detail": "slow down"}, {}),
        (408, {"detail": "x"}, {}),
        (500, BARE, {}),
        (500, BARE, {"x_fal_request_id": "another"}),
        (503, FLAT, RETRYABLE),
        (503, FLAT, {"X_Fal_Needs_Retry": "1"} | OURS),
    ],
)
async def test_a_result_that_did_not_get_through_is_no_failure(status, body, headers):
    """What a middle box says, or fal itself while it stumbles, does not throw away a paid video."""
    answers = {"/r-1": (status, body, headers), "/status": (200, {"status": "COMPLETED"})}
    async with serving(by_path(answers)) as server:
        with pytest.raises(ProviderUnavailable):
            await open_at(server.url, "fal").collect(make_submission())


async def test_an_unclear_breakdown_is_settled_by_the_status():
    """A 5xx that could be the way's or the result's is the result's if the status tells of an error."""
    status = {"status": "COMPLETED", "error": "gone", "error_type": "runner_disconnected"}
    answers = {"/r-1": (503, FLAT, RETRYABLE), "/status": (200, status)}
    async with serving(by_path(answers)) as server:
        with pytest.raises(RenderFailed) as caught:
            await open_at(server.url, "fal").collect(make_submission())
    assert (caught.value.kind, caught.value.billed) == ("runner_disconnected", False)


@pytest.mark.parametrize("status", [404, 410])
async def test_an_expired_result_is_lost(status):
    """A result that is gone is lost, which is no failure of the render."""
    async with serving(lambda visit: visit.answer(status, {"detail": "Not found"})) as server:
        with pytest.raises(RenderLost):
            await open_at(server.url, "fal").collect(make_submission())


@pytest.mark.parametrize("status", [404, 405])
async def test_the_result_may_live_under_a_suffix(status):
    """queue.md's example ends in `/response`; it is tried once when the plain URL is not there."""
    async with serving(by_path({"/r-1": (status, {}), "/r-1/response": (200, VIDEO)})) as server:
        assert (await open_at(server.url, "fal").collect(make_submission())).url
    assert len(server.visits) == 2


@pytest.mark.parametrize(
    ("status", "body", "outcome"),
    [
        (202, {"status": "CANCELLATION_REQUESTED"}, CancelOutcome.REQUESTED),
        (200, {"status": "CANCELLATION_REQUESTED"}, CancelOutcome.REQUESTED),
        (200, {"success": True}, CancelOutcome.REMOVED),
        (200, "", CancelOutcome.REMOVED),
        (200, {"success": False}, CancelOutcome.TOO_LATE),
        (400, {"status": "ALREADY_COMPLETED"}, CancelOutcome.TOO_LATE),
        (404, {"status": "NOT_FOUND"}, CancelOutcome.TOO_LATE),
    ],
)
async def test_a_cancel_tells_what_it_did(status, body, outcome):
    """PUT cancel: removed from the queue, only requested, or too late."""
    async with serving(lambda visit: visit.answer(status, body)) as server:
        assert await open_at(server.url, "fal").cancel(make_submission()) is outcome
    assert server.visits[0].line == "PUT /fal-ai/kling-video/requests/r-1/cancel HTTP/1.1"


@pytest.mark.parametrize("status", [422, 500, 503])
async def test_a_cancel_that_did_not_get_through_may_be_repeated(status):
    """A cancel is free, and its outage is an outage."""
    async with serving(lambda visit: visit.answer(status, "")) as server:
        with pytest.raises(ProviderUnavailable):
            await open_at(server.url, "fal").cancel(make_submission())


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
    async with serving(lambda visit: visit.answer(403, {"detail": "locked"})) as server:
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


class OneAsset:
    """A store that holds the same bytes under every key."""

    async def stream(self, key):
        for piece in (b"half ", b"and half"):
            yield piece


def uploading(url: str):
    fal = {"key": KEY, "queue_url": url, "rest_url": url, "delivery": "upload"}
    provider = open_at(url, "fal", fal=fal)
    provider._store = OneAsset()
    return provider


async def test_inputs_can_be_brought_to_fal(sandbox):
    """With upload delivery both inputs are copied, expiring, and the key stays out of the storage's sight."""
    delivered = await uploading(sandbox.url).deliver(make_inputs())
    state = sandbox.state()
    assert [upload["size"] for upload in state["uploads"]] == [13, 13]
    assert [upload["url"] for upload in state["uploads"]] == [delivered.portrait_url, delivered.voice_url]
    assert [upload["content_type"] for upload in state["uploads"]] == ["image/png", "audio/wav"]
    assert state["leaks"] == []


async def test_presigned_inputs_stay_as_they_are(open_sandboxed):
    """Without upload delivery nothing is moved."""
    assert await open_sandboxed("fal").deliver(make_inputs()) == make_inputs()


@pytest.mark.parametrize(
    ("on", "do", "error"),
    [
        ("upload_initiate", "forbidden", SubmitRefused),
        ("upload_initiate", "bad_gateway", ProviderUnavailable),
        ("upload_initiate", "html", ProviderUnavailable),
        ("upload_initiate", "drop", ProviderUnavailable),
        ("upload_put", "server_error", ProviderUnavailable),
        ("upload_put", "rst", ProviderUnavailable),
    ],
)
async def test_an_upload_that_fails_spends_nothing(sandbox, on, do, error):
    """Uploading comes before the paid request, and says so."""
    sandbox.behave(on, do)
    with pytest.raises(error, match="nothing was spent"):
        await uploading(sandbox.url).deliver(make_inputs())
    assert sandbox.state()["posts"] == 0


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
        await asyncio.wait_for(hung_up.wait(), 10)

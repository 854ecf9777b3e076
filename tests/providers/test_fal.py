"""fal: what its answers mean, where its key goes, how its stream is followed."""

import logging

import pytest

from avatar.errors import ProviderFailure, ProviderUnavailable
from avatar.models import CancelOutcome, RemoteState
from tests.providers.conftest import KEY, RENDER_ID, make_inputs, make_submission, open_at
from tests.providers.sockets import by_path, serving

STATUS = "/fal-ai/kling-video/requests/r-1/status"
VIDEO = {"video": {"url": "https://v3b.fal.media/files/b/x/output.mp4"}}
MODEL_ERROR = {"detail": [{"loc": ["body", "image_url"], "msg": "No face", "type": "face_detection_error"}]}


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


@pytest.mark.parametrize("call", ["poll", "collect", "cancel"])
@pytest.mark.parametrize(
    ("status", "error"), [(401, ProviderFailure), (402, ProviderUnavailable), (403, ProviderUnavailable)]
)
async def test_what_is_refused_later_on_does_not_end_the_render(status, error, call):
    """A key is told as refused; an account that may not go on for now is waited for. The render goes on."""
    async with serving(lambda visit: visit.answer(status, {"detail": "User is locked"})) as server:
        with pytest.raises(error, match=r"User is locked.*(not lost|goes on)"):
            await getattr(open_at(server.url, "fal"), call)(make_submission())


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

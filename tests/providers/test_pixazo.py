"""Pixazo: two generations of one contract, and the shapes its results come in."""

import json

import pytest

from avatar.errors import ProviderFailure, ProviderUnavailable, RenderFailed, RenderLost, ResultUnreadable
from avatar.models import CancelOutcome, RemoteState
from tests.providers.conftest import KEY, make_inputs, make_submission, open_at
from tests.providers.sockets import Visit, serving

V1 = "POST /kling-ai-avatar-v2-pro-789/v1/kling-ai-avatar-v2-pro-request-result HTTP/1.1"
V2 = "GET /v2/requests/status/r-1 HTTP/1.1"
LINK = "https://storage.pixazo.ai/output/x.mp4"
COMPLETED = {"status": "COMPLETED", "request_id": "r-1"}


def by_generation(v1: tuple, v2: tuple):
    async def act(visit: Visit) -> None:
        await visit.answer(*(v1 if visit.line == V1 else v2))

    return act


async def test_a_submit_is_what_the_page_documents():
    """The page's headers and body; the webhook's header only if there is a webhook."""
    async with serving(lambda visit: visit.answer(200, {"request_id": "r-1"})) as server:
        pixazo = open_at(server.url, "pixazo")
        await pixazo.submit(make_inputs())
        await pixazo.submit(make_inputs(webhook_url="https://b.example/hook?x=1"))
    plain, hooked = server.visits
    assert plain.line == "POST /kling-ai-avatar-v2-pro-789/v1/kling-ai-avatar-v2-pro-request HTTP/1.1"
    wanted = {
        "ocp-apim-subscription-key": KEY,
        "cache-control": "no-cache",
        "content-type": "application/json",
    }
    assert wanted.items() <= plain.headers.items()
    assert set(json.loads(plain.body)) == {"image_url", "audio_url", "prompt"}
    assert "x-webhook-url" not in plain.headers
    assert hooked.headers["x-webhook-url"] == "https://b.example/hook?x=1"


@pytest.mark.parametrize(("generation", "line"), [("v1", V1), ("v2", V2), ("", V1)])
async def test_the_receipt_decides_how_to_ask(generation, line):
    """Each generation is asked in its own way, and the other one is left alone."""
    async with serving(lambda visit: visit.answer(200, {"status": "QUEUED"})) as server:
        await open_at(server.url, "pixazo").poll(make_submission("pixazo", generation=generation))
    assert [visit.line for visit in server.visits] == [line]


@pytest.mark.parametrize(
    ("receipt", "generation"),
    [
        ({"request_id": "r-1", "response_url": "https://x.workers.dev/y"}, "v1"),
        ({"request_id": "r-1", "polling_url": "https://foreign.example/y"}, "v2"),
        ({"request_id": "r-1"}, "v1"),
    ],
)
async def test_foreign_urls_in_a_receipt_are_not_kept(receipt, generation):
    """The generation is told by the receipt's fields; their hosts are not trusted."""
    async with serving(lambda visit: visit.answer(202, receipt)) as server:
        submission = await open_at(server.url, "pixazo").submit(make_inputs())
    assert (submission.generation, submission.status_url, submission.response_url) == (generation, None, None)


@pytest.mark.parametrize("generation", ["v1", "v2"])
async def test_only_the_gateway_sees_the_key(generation, sandbox, open_sandboxed, inputs):
    """Through a whole render, `response_url`'s host is never called, and the download carries no key."""
    sandbox.reset(pixazo_generation=generation)
    pixazo = open_sandboxed("pixazo")
    submission = await pixazo.submit(inputs)
    assert submission.generation == generation
    assert [s async for s in pixazo.watch(submission, 20)][-1].state is RemoteState.DONE
    await pixazo.collect(submission)
    assert (sandbox.state()["leaks"], sandbox.state()["counts"]["unknown"]) == ([], 0)


@pytest.mark.parametrize(("generation", "there"), [("v1", "v2"), ("v2", "v1")])
@pytest.mark.parametrize("missing", [404, 405])
async def test_a_request_unknown_to_one_generation_is_put_to_the_other(generation, there, missing):
    """A 404 is put to the other generation, once; what answered is remembered."""
    ways = {"v1": (missing, {"error": "x"}), "v2": (missing, {"error": "x"})} | {
        there: (200, {"status": "PROCESSING"})
    }
    async with serving(by_generation(**ways)) as server:
        pixazo = open_at(server.url, "pixazo")
        for _ in range(2):
            look = await pixazo.poll(make_submission("pixazo", generation=generation))
            assert look.state is RemoteState.RUNNING
    assert len(server.visits) == 3


async def test_a_request_unknown_to_both_is_lost():
    """Lost only after the grace, and only if neither generation knows it."""
    async with serving(lambda visit: visit.answer(404, {"error": "Endpoint not found"})) as server:
        pixazo = open_at(server.url, "pixazo")
        early, late = [await pixazo.poll(make_submission("pixazo", age=age)) for age in (5, 40)]
        with pytest.raises(RenderLost):
            await pixazo.collect(make_submission("pixazo"))
    assert (early.state, late.state) == (RemoteState.QUEUED, RemoteState.LOST)


async def test_an_outage_of_the_other_generation_is_no_loss():
    """What the other generation cannot answer now may still be known to it."""
    async with serving(by_generation((404, {}), (503, "<html>"))) as server:
        with pytest.raises(ProviderUnavailable):
            await open_at(server.url, "pixazo").poll(make_submission("pixazo"))


@pytest.mark.parametrize(
    ("body", "state"),
    [
        ({"status": "IN_QUEUE"}, RemoteState.QUEUED),
        ({"status": "queued"}, RemoteState.QUEUED),
        (
            {"status": "IN_PROGRESS", "progress_percent": 67, "estimated_completion_time": 45},
            RemoteState.RUNNING,
        ),
        ({"status": "PROCESSING"}, RemoteState.RUNNING),
        ({"status": "DREAMING"}, RemoteState.RUNNING),
        (
            {"status": "IN_PROGRESS", "progress_percent": "soon", "estimated_completion_time": None},
            RemoteState.RUNNING,
        ),
        ({"status": "COMPLETED"}, RemoteState.DONE),
        ({"status": "succeeded"}, RemoteState.DONE),
        ({"video": {"url": LINK}}, RemoteState.DONE),
        ({"status": "FAILED", "error": "no face"}, RemoteState.FAILED),
        ({"status": "ERROR", "error_message": "no face"}, RemoteState.FAILED),
        ({"success": False, "error": "no face"}, RemoteState.FAILED),
        ({"status": "CANCELED"}, RemoteState.FAILED),
        ({"status": "FINISHED", "video": {"url": LINK}}, RemoteState.DONE),
        ({"status": "PROCESSING", "video": {"url": LINK}}, RemoteState.RUNNING),
    ],
)
async def test_a_status_becomes_a_snapshot(body, state):
    """The words of both generations and of the vendor's other models."""
    async with serving(lambda visit: visit.answer(200, body)) as server:
        snapshot = await open_at(server.url, "pixazo").poll(make_submission("pixazo"))
    assert snapshot.state is state
    if state is RemoteState.FAILED and "status" in body and len(body) > 1:
        assert snapshot.message == "no face"


@pytest.mark.parametrize(
    ("percent", "progress"),
    [(67, 0.67), (0, 0.0), (250, 1.0), (-5, None), ("40", 0.4), ("45%", 0.45), (None, None)],
)
async def test_progress_is_a_fraction(percent, progress):
    """A percentage becomes a fraction from 0 to 1, or nothing."""
    body = {"status": "IN_PROGRESS", "progress_percent": percent}
    async with serving(lambda visit: visit.answer(200, body)) as server:
        assert (await open_at(server.url, "pixazo").poll(make_submission("pixazo"))).progress == progress


@pytest.mark.parametrize(
    ("status", "body"),
    [(500, {"error": "x"}), (502, "<html>"), (200, "<html>"), (200, {}), (200, {"error": "later"}), (429, {}), (302, ""),
     (400, {"error": "x"})],
)  # fmt: skip
async def test_a_look_that_failed_says_nothing_about_the_render(status, body):
    """Outages, nonsense and a bare error in a 200 are not job failures."""
    async with serving(lambda visit: visit.answer(status, body)) as server:
        with pytest.raises(ProviderUnavailable):
            await open_at(server.url, "pixazo").poll(make_submission("pixazo"))


async def test_a_refused_key_does_not_end_the_render():
    """A key refused later on is told as such, with the gateway's words."""
    body = {"statusCode": 401, "message": "Access denied due to invalid subscription key"}
    async with serving(lambda visit: visit.answer(401, body)) as server:
        with pytest.raises(ProviderFailure, match=r"Access denied.*not lost"):
            await open_at(server.url, "pixazo").poll(make_submission("pixazo"))


@pytest.mark.parametrize(
    ("status", "words", "wait"),
    [
        (403, "Out of call volume quota. Quota will be replenished in 00:10:05.", 605.0),
        (403, "Out of call volume quota. Quota will be replenished in 12:00:05.", 3600.0),
        (429, "Rate limit is exceeded. Try again in 2 seconds.", 2.0),
        (402, "Insufficient Balance", None),
    ],
)
async def test_an_account_that_may_not_go_on_for_now_is_waited_for(status, words, wait):
    """Quota and balance say nothing about a render that was accepted; the gateway tells the time in words."""
    body = {"statusCode": status, "message": words}
    async with serving(lambda visit: visit.answer(status, body)) as server:
        with pytest.raises(ProviderUnavailable, match=words[:20]) as caught:
            await open_at(server.url, "pixazo").poll(make_submission("pixazo"))
    assert caught.value.retry_after == wait


@pytest.mark.parametrize(
    ("body", "seconds"),
    [
        ({"video": {"url": LINK, "duration": 12.5, "width": 1080, "content_type": "video/mp4"}}, 12.5),
        ({"video": LINK}, None),
        ({"output": {"media_url": [LINK], "media_type": "video/mp4"}}, None),
        ({"output": {"media_url": LINK}}, None),
        ({"output": {"video": {"url": LINK, "duration": 3}}}, 3.0),
        ({"output": LINK}, None),
        ({"output": [LINK]}, None),
        ({"output": None, "output_url": LINK, "duration_seconds": 4}, 4.0),
        ({"video_url": LINK, "duration": "5"}, 5.0),
        ({"data": {"video": {"url": LINK}}}, None),
        ({"url": LINK}, None),
        ({"output": [{"url": LINK, "type": "video"}]}, None),
        ({"videos": [{"url": LINK}]}, None),
        ({"output": {"media_url": [{"url": LINK}]}}, None),
        ({"media_url": LINK}, None),
        ({"response": {"video": {"url": LINK, "duration": 6}}}, 6.0),
        ({"resultJson": json.dumps({"resultUrls": [LINK]})}, None),
        (
            {
                "thumbnail_url": "https://h/x.jpg",
                "input": {"video_url": "https://h/in.mp4"},
                "assets": [LINK],
            },
            None,
        ),
        ({"status": "FAILED", "video": {"url": LINK}}, None),
    ],
)
async def test_the_video_is_found_in_every_known_shape(body, seconds):
    """v1, v2, the sibling models, and fal's payload passed through."""
    async with serving(lambda visit: visit.answer(200, COMPLETED | body)) as server:
        video = await open_at(server.url, "pixazo").collect(make_submission("pixazo"))
    assert (video.url, video.seconds, video.payload) == (LINK, seconds, COMPLETED | body)


async def test_a_result_that_follows_its_status_is_waited_for():
    """COMPLETED may be said before the video is there; a second look finds it."""
    answers = iter([COMPLETED, COMPLETED | {"video": {"url": LINK}}])
    async with serving(lambda visit: visit.answer(200, next(answers))) as server:
        assert (await open_at(server.url, "pixazo").collect(make_submission("pixazo"))).url == LINK


@pytest.mark.parametrize(
    "output", [{}, {"video": {"url": ""}}, {"output": {"media_url": []}}, {"output": [3]}, {"url": "ftp://x"}]
)
async def test_completed_without_a_video_waits_for_a_person(output):
    """What stays without a video is no failure of the render: it was paid for, and its answer is kept as it came."""
    async with serving(lambda visit: visit.answer(200, COMPLETED | output)) as server:
        with pytest.raises(ResultUnreadable) as caught:
            await open_at(server.url, "pixazo").collect(make_submission("pixazo"))
    assert json.loads(caught.value.answer) == COMPLETED | output
    assert caught.value.request_id == "r-1"


async def test_a_failed_render_gives_the_words():
    """FAILED carries the provider's words; Pixazo documents no refund, so the charge is not known."""
    async with serving(
        lambda visit: visit.answer(200, {"status": "FAILED", "error_message": "no face"})
    ) as server:
        with pytest.raises(RenderFailed, match="no face") as caught:
            await open_at(server.url, "pixazo").collect(make_submission("pixazo"))
    assert (caught.value.request_id, caught.value.billed) == ("r-1", None)


async def test_an_unfinished_render_is_not_collected():
    """Collecting too early may be tried again."""
    async with serving(lambda visit: visit.answer(200, {"status": "IN_PROGRESS"})) as server:
        with pytest.raises(ProviderUnavailable):
            await open_at(server.url, "pixazo").collect(make_submission("pixazo"))


async def test_there_is_no_cancel():
    """Pixazo documents none, and nothing is sent."""
    assert (
        await open_at("http://127.0.0.1:9", "pixazo").cancel(make_submission("pixazo"))
        is CancelOutcome.UNSUPPORTED
    )

"""fal: which answers of the result URL are the render's, and which are only the way's."""

import json
from decimal import Decimal

import pytest

from avatar.errors import ProviderUnavailable, RenderFailed, RenderLost, ResultUnreadable
from avatar.models import RemoteState
from tests.providers.conftest import make_submission, open_at
from tests.providers.sockets import by_path, serving

STATUS = "/fal-ai/kling-video/requests/r-1/status"
VIDEO = {"video": {"url": "https://v3b.fal.media/files/b/x/output.mp4"}}
MODEL_ERROR = {"detail": [{"loc": ["body", "image_url"], "msg": "No face", "type": "face_detection_error"}]}


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
LOCKED = {"detail": "User is locked. Reason: Exhausted balance."}
UNREADABLE_LINK = {"detail": [{"loc": ["body", "audio_url"], "msg": "Failed", "type": "file_download_error"}]}
OURS, RETRYABLE = {"x_fal_request_id": "r-1"}, {"X_Fal_Retryable": "true"}
ENDED = {"status": "COMPLETED"}
#: What the status says of a request that failed.
NAMED = ENDED | {"error": "gone", "error_type": "runner_disconnected"}


async def collect(result: tuple, status: dict | tuple = ENDED):
    """What comes of a result's answer while the status says `status`."""
    looks = status if isinstance(status, tuple) else (200, status)
    async with serving(by_path({"/r-1": result, "/response": result, "/status": looks})) as server:
        return await open_at(server.url, "fal").collect(make_submission())


@pytest.mark.parametrize(
    ("status", "body", "headers", "kind", "billed"),
    [
        (422, MODEL_ERROR, {}, "face_detection_error", None),
        (422, MODEL_ERROR, {"X_Fal_Billable_Units": "0"}, "face_detection_error", False),
        (422, MODEL_ERROR, {"X_Fal_Billable_Units": "3"}, "face_detection_error", True),
        (400, MODEL_ERROR, {}, "face_detection_error", None),
        (403, MODEL_ERROR, {}, "face_detection_error", None),
        (404, MODEL_ERROR, {}, "face_detection_error", None),
        (422, UNREADABLE_LINK, {}, "file_download_error", False),
        (422, {"detail": "no"}, {}, "failed", None),
        (499, {"detail": "Client cancelled", "error_type": "client_cancelled"}, {}, "client_cancelled", None),
    ],
)
async def test_a_refused_result_of_an_ended_request_is_the_renders_failure(
    status, body, headers, kind, billed
):
    """The documented 4xx while the status says ended, with its type and whether it is charged."""
    with pytest.raises(RenderFailed) as caught:
        await collect((status, body, headers))
    assert (caught.value.kind, caught.value.billed) == (kind, billed)
    assert caught.value.request_id == "r-1"


async def test_an_input_that_fal_cannot_read_is_told_as_what_it_is():
    """The store is out of fal's reach: neither the inputs nor the take are to be changed."""
    with pytest.raises(RenderFailed) as caught:
        await collect((422, UNREADABLE_LINK))
    assert "AVATAR_STORE__PUBLIC_ENDPOINT" in caught.value.hint
    assert "AVATAR_FAL__DELIVERY=upload" in caught.value.hint


@pytest.mark.parametrize(
    ("status", "body", "headers"),
    [(500, MODEL_ERROR, {}), (503, FLAT, RETRYABLE), (500, BARE, OURS), (200, {"video": None}, {})],
)
async def test_a_status_that_names_a_failure_is_the_second_witness(status, body, headers):
    """An answer that tells nothing for certain is a failure where the status names one; a 5xx of fal's is not charged."""
    with pytest.raises(RenderFailed) as caught:
        await collect((status, body, headers), NAMED)
    assert caught.value.billed is (False if status >= 500 else None)


async def test_a_gateway_says_nothing_of_what_a_failure_costs():
    """Its 503 names neither a kind of error nor the request: the status tells of the failure, and nobody of the bill."""
    with pytest.raises(RenderFailed) as caught:
        await collect((503, {"detail": "down"}, {}), NAMED)
    assert caught.value.billed is None


@pytest.mark.parametrize(
    ("status", "body", "headers"),
    [
        (502, "<html>nginx</html>", {}),
        (503, "", {}),
        (504, "gateway timeout", OURS),
        (504, {"detail": "Gateway Timeout"}, OURS),
        (504, {"detail": "x", "error_type": "request_timeout"}, {"X_Fal_Error_Type": "request_timeout"}),
        (500, MODEL_ERROR, OURS),
        (503, FLAT, {}),
        (500, BARE, {}),
        (500, BARE, {"x_fal_request_id": "another"}),
        (503, FLAT, RETRYABLE),
        (503, FLAT, {"X_Fal_Needs_Retry": "1"} | OURS),
        (200, "<html>", {}),
        (202, {"status": "IN_PROGRESS"}, {}),
        (400, {"detail": "Request is still in progress"}, {}),
        (403, "<html>WAF</html>", {}),
        (403, LOCKED, {}),
        (402, {"detail": "Exhausted balance"}, {}),
        (422, "<html>", {}),
        (409, {"detail": "x"}, {}),
        (429, {"detail": "slow down"}, {}),
        (408, {"detail": "x"}, {}),
        (400, {"error": "The plain HTTP request was sent to an HTTPS port"}, {}),
        (499, {"detail": "client closed request"}, {}),
    ],
)
async def test_a_result_that_did_not_get_through_is_no_failure(status, body, headers):
    """One witness is not enough to throw away a paid video: a 5xx, whatever it carries, a page, a locked account."""
    with pytest.raises(ProviderUnavailable):
        await collect((status, body, headers))


@pytest.mark.parametrize("look", [(200, {"status": "IN_PROGRESS"}), (503, ""), (404, {}), (403, LOCKED)])
@pytest.mark.parametrize("result", [(422, MODEL_ERROR), (200, {"images": []}), (500, BARE)])
async def test_nothing_is_certain_while_the_status_does_not_say_ended(look, result):
    """A refusal, and an answer without a video, count once the request has ended."""
    with pytest.raises(ProviderUnavailable):
        await collect(result, look)


@pytest.mark.parametrize("body", [{"images": []}, {"video": {}}, {"video": {"url": 7}}, {"video": None}])
async def test_a_success_without_a_video_waits_for_a_person(body):
    """It was rendered and is paid for, and its answer is kept as it came."""
    with pytest.raises(ResultUnreadable) as caught:
        await collect((200, body))
    assert json.loads(caught.value.answer) == body
    assert caught.value.request_id == "r-1"


@pytest.mark.parametrize(
    "body",
    [
        {"videos": [VIDEO["video"]]},
        {"status": "COMPLETED", "response": VIDEO},
        {"data": VIDEO, "requestId": "r-1"},
        {"output": VIDEO["video"]["url"], "status_url": "https://queue.fal.run/x/status"},
        {"detail": VIDEO},
        {"download": VIDEO["video"]["url"]},
        {"text": f"Here it is: {VIDEO['video']['url']}. Enjoy!"},
        {"VIDEO": {"Url": VIDEO["video"]["url"]}},
    ],
)
async def test_a_video_counts_wherever_it_stands(body):
    """Wrapped or listed, it is what was paid for."""
    video = await collect((200, body))
    assert (video.url, video.payload) == (VIDEO["video"]["url"], body)


async def test_a_list_is_an_answer_too():
    """As some models give their outputs."""
    assert (await collect((200, [VIDEO]))).url == VIDEO["video"]["url"]


@pytest.mark.parametrize(
    "look",
    [
        (405, {}),
        (404, {}),
        (200, ""),
        (200, {"status": "FINISHED"}),
        (200, {"state": "COMPLETED"}),
        (200, [ENDED]),
    ],
)
async def test_what_the_status_does_not_tell_the_result_does(look):
    """A status in words or a shape that nobody knows is not waited out when the video is there."""
    answers = by_path({"/r-1": (200, VIDEO), "/status": look})
    async with serving(answers) as server:
        assert (await open_at(server.url, "fal").poll(make_submission())).state is RemoteState.DONE


async def test_addresses_that_fal_returns_and_refuses_give_way_to_the_documented_ones():
    """fal has returned addresses with the whole endpoint in them, and answers 405 there."""
    answers = {STATUS: (200, ENDED), "/fal-ai/kling-video/requests/r-1": (200, VIDEO)}

    async def act(visit):
        await visit.answer(*answers.get(visit.line.split()[1].partition("?")[0], (405, {})))

    async with serving(act) as server:
        nested = f"{server.url}/fal-ai/kling-video/ai-avatar/v2/pro/requests/r-1"
        submission = make_submission(status_url=f"{nested}/status", response_url=nested)
        fal = open_at(server.url, "fal")
        assert (await fal.poll(submission)).state is RemoteState.DONE
        assert (await fal.collect(submission)).url == VIDEO["video"]["url"]


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

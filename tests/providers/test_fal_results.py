"""fal: which answers of the result URL are the render's, and which are only the way's."""

from decimal import Decimal

import pytest

from avatar.errors import ProviderUnavailable, RenderFailed, RenderLost
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

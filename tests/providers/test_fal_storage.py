"""fal: bringing inputs to its storage."""

import pytest

from avatar.errors import ProviderUnavailable, SubmitRefused
from tests.providers.conftest import KEY, make_inputs, open_at

STATUS = "/fal-ai/kling-video/requests/r-1/status"
VIDEO = {"video": {"url": "https://v3b.fal.media/files/b/x/output.mp4"}}
MODEL_ERROR = {"detail": [{"loc": ["body", "image_url"], "msg": "No face", "type": "face_detection_error"}]}


class OneAsset:
    """A store that holds the same bytes under every key."""

    async def content(self, key):
        return b"half and half"


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

"""Requests to the bridge: who is let in, what is read, and what an answer promises."""

import pytest

from tests.web.bridge.conftest import TOKEN, dumped, s3_notification

PATHS = ["/events/s3", "/events/seaweedfs"]


def notification(workspace, key="inbox/a/voice.mp3", **more):
    return s3_notification(key, bucket=workspace.settings.store.bucket, **more)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "authorization", ["", "Bearer", "Bearer ", f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer \xfc", TOKEN]
)
async def test_without_the_token_nothing_is_taken(bridge, noted, workspace, path, authorization):
    """401, whatever the body is, and nothing is kept."""
    headers = {"authorization": authorization.encode("latin-1")}
    answer = await bridge.post(path, content=dumped(notification(workspace)), headers=headers)
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert noted == set()


async def test_what_is_answered_204_is_noted(bridge, workspace, noted):
    """The upload's name, once."""
    answers = [await bridge.post("/events/s3", json=notification(workspace)) for _ in range(2)]
    assert ([answer.status_code for answer in answers], noted) == ([204, 204], {"a"})


@pytest.mark.parametrize(
    "said",
    [
        {"key": "inbox/.done/a/voice.mp3"},
        {"key": "videos/a.mp4"},
        {"name": "s3:ObjectRemoved:Delete"},
    ],
)
async def test_what_does_not_concern_the_inbox_is_taken_and_forgotten(bridge, noted, workspace, said):
    """204, so that it is not sent again, and nothing is kept."""
    answer = await bridge.post("/events/s3", json=notification(workspace, **said))
    assert (answer.status_code, noted) == (204, set())


async def test_another_bucket_is_not_ours(bridge, noted):
    """A store may tell of all its buckets."""
    answer = await bridge.post("/events/s3", json=s3_notification("inbox/a/b", bucket="somebody-elses"))
    assert (answer.status_code, noted) == (204, set())


@pytest.mark.parametrize("path", PATHS)
async def test_nonsense_is_refused(bridge, path):
    """400, and a sentence that says why."""
    answer = await bridge.post(path, content=b"{not json")
    assert (answer.status_code, answer.text.startswith("This is not a notification")) == (400, True)


async def chunks(count):
    for _ in range(count):
        yield b"x" * 1024


@pytest.mark.parametrize("content", [b"x" * 4097, chunks(1000)], ids=["announced", "in chunks"])
async def test_a_long_body_is_not_read(bridge, content):
    """413 beyond AVATAR_BRIDGE__MAX_BODY_BYTES, whether the length is announced or not."""
    answer = await bridge.post("/events/s3", content=content)
    assert (answer.status_code, "4096 bytes" in answer.text) == (413, True)


async def test_health_is_open_and_tells_nothing(bridge):
    """Whoever supervises it needs no token."""
    answer = await bridge.get("/health", headers={"authorization": ""})
    assert (answer.status_code, answer.text) == (200, "ok\n")
    assert (await bridge.get("/events/s3")).status_code == 405


async def test_metrics_are_for_those_who_know_the_token(bridge):
    """Sums of money are no health check."""
    assert (await bridge.get("/metrics")).status_code == 200
    assert (await bridge.get("/metrics", headers={"authorization": "Bearer other"})).status_code == 401

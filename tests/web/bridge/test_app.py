"""The door of the bridge: who comes in, what is read, and what an answer promises."""

import sqlite3

import pytest

from avatar.web.outbox import Outbox
from tests.web.bridge.conftest import TOKEN, dumped, s3_notice

PATHS = ["/events/s3", "/events/seaweedfs"]


def notice(workspace, key="inbox/a/voice.mp3", **more):
    return s3_notice(key, bucket=workspace.settings.store.bucket, **more)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "authorization", ["", "Bearer", "Bearer ", f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer \xfc", TOKEN]
)
async def test_without_the_token_nothing_is_taken(bridge, outbox, workspace, path, authorization):
    """401, whatever the body is, and nothing is kept."""
    headers = {"authorization": authorization.encode("latin-1")}
    answer = await bridge.post(path, content=dumped(notice(workspace)), headers=headers)
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert outbox.waiting() == {}


async def test_what_is_answered_204_is_on_disk(bridge, workspace, tmp_path):
    """Another process finds the upload in the file, from the moment of the answer."""
    answer = await bridge.post("/events/s3", json=notice(workspace))
    assert answer.status_code == 204
    with sqlite3.connect(f"file:{tmp_path / 'bridge.db'}?mode=ro", uri=True) as other:
        assert other.execute("select upload from waiting").fetchall() == [("a",)]
    other.close()


@pytest.mark.parametrize(
    "said",
    [
        {"key": "inbox/.done/a/voice.mp3"},
        {"key": "videos/a.mp4"},
        {"name": "s3:ObjectRemoved:Delete"},
    ],
)
async def test_what_does_not_concern_the_inbox_is_taken_and_forgotten(bridge, outbox, workspace, said):
    """204, so that it is not sent again, and nothing is kept."""
    answer = await bridge.post("/events/s3", json=notice(workspace, **said))
    assert (answer.status_code, outbox.waiting()) == (204, {})


async def test_another_bucket_is_not_ours(bridge, outbox):
    """A store may tell of all its buckets."""
    answer = await bridge.post("/events/s3", json=s3_notice("inbox/a/b", bucket="somebody-elses"))
    assert (answer.status_code, outbox.waiting()) == (204, {})


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


async def test_a_full_disk_is_said(bridge, outbox: Outbox, workspace):
    """503, so that the store sends it again: a 204 would be a promise."""
    pages = outbox._database.execute("pragma page_count").fetchone()[0]
    outbox._database.execute(f"pragma max_page_count = {pages}")
    key = "inbox/" + "a" * 700 + "{}/voice.mp3"
    answers = [await bridge.post("/events/s3", json=notice(workspace, key.format(i))) for i in range(12)]
    assert {answer.status_code for answer in answers} <= {204, 503}
    assert answers[-1].status_code == 503


async def test_health_is_open_and_tells_nothing(bridge):
    """Whoever supervises it needs no token."""
    answer = await bridge.get("/health", headers={"authorization": ""})
    assert (answer.status_code, answer.text) == (200, "ok\n")
    assert (await bridge.get("/events/s3")).status_code == 405

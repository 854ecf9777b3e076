"""Media: whole, in part, or not again; never whole in memory, and nothing but media."""

import asyncio
import random

import pytest

from avatar.store.objects import NEVER, Stat
from avatar.web.media import ByteRange, Unsatisfiable, file_name, not_modified, requested_range
from tests.web.gallery.manifests import put_video

KEY = "videos/job/video.mp4"
PATH = f"/media/{KEY}"
MIB = 2**20
#: Longer than one chunk, and no multiple of anything.
BODY = random.Random(5).randbytes(2 * MIB + 4321)


@pytest.fixture
async def body(store):
    await store.put(KEY, BODY, content_type="video/mp4")
    return BODY


@pytest.fixture
async def etag(gallery, body):
    return (await gallery.head(PATH)).headers["etag"]


async def test_a_whole_video_arrives_as_it_is(gallery, body):
    """Bytes, type, length, validators; and the offer of ranges."""
    answer = await gallery.get(PATH)
    assert (answer.status_code, answer.content) == (200, body)
    headers = answer.headers
    assert (headers["content-type"], headers["accept-ranges"]) == ("video/mp4", "bytes")
    assert int(headers["content-length"]) == len(body)
    assert headers["content-disposition"] == 'inline; filename="job.mp4"'
    assert {"etag", "last-modified"} <= set(headers)


async def test_head_tells_the_same_without_the_body(gallery, body):
    """HEAD answers with the headers of GET."""
    head, got = await gallery.head(PATH), await gallery.get(PATH)
    assert head.content == b""
    assert dict(head.headers) == dict(got.headers)


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=0-", 0, len(BODY)),
        ("bytes=100-199", 100, 200),
        (f"bytes={MIB - 1}-{MIB}", MIB - 1, MIB + 1),
        ("bytes=-5", len(BODY) - 5, len(BODY)),
        (f"bytes=-{len(BODY) * 2}", 0, len(BODY)),
        (f"bytes={len(BODY) - 1}-", len(BODY) - 1, len(BODY)),
        (f"bytes=10-{len(BODY) * 2}", 10, len(BODY)),
        ("BYTES= 3 - 4 ", 3, 5),
    ],
)
async def test_a_range_is_answered_with_those_bytes(gallery, body, asked, start, end):
    """206 with exactly the bytes that were asked for, and their place in the whole."""
    answer = await gallery.get(PATH, headers={"range": asked})
    assert (answer.status_code, answer.content == body[start:end]) == (206, True)
    assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/{len(body)}"
    assert int(answer.headers["content-length"]) == end - start


@pytest.mark.parametrize("asked", [f"bytes={len(BODY)}-", f"bytes={len(BODY)}-{len(BODY) + 5}", "bytes=-0"])
async def test_a_range_outside_is_refused_with_the_size(gallery, body, asked):
    """416, which tells the player how long the video is."""
    answer = await gallery.get(PATH, headers={"range": asked})
    assert (answer.status_code, answer.headers["content-range"]) == (416, f"bytes */{len(body)}")


@pytest.mark.parametrize(
    "asked", ["bytes=5-2", "bytes=-", "bytes=a-b", "items=0-1", "bytes=0-1,5-6", "0-1", ""]
)
async def test_a_range_not_understood_is_ignored(gallery, body, asked):
    """Nonsense, other units and several ranges get the whole video, as if not asked."""
    assert (await gallery.get(PATH, headers={"range": asked})).status_code == 200


async def test_what_the_browser_has_is_not_sent_again(gallery, etag):
    """304 for the tag it has, weak or in a list, or for any; the whole for another."""
    for tags in (etag, f"W/{etag}", f'"other", {etag}', "*"):
        answer = await gallery.get(PATH, headers={"if-none-match": tags, "range": "bytes=0-1"})
        assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", etag)
    assert (await gallery.get(PATH, headers={"if-none-match": '"other"'})).status_code == 200


async def test_the_date_counts_where_there_is_no_tag(gallery, etag):
    """If-Modified-Since with the date it was given; ignored beside a tag that does not fit."""
    date = (await gallery.head(PATH)).headers["last-modified"]
    assert (await gallery.get(PATH, headers={"if-modified-since": date})).status_code == 304
    both = {"if-modified-since": date, "if-none-match": '"other"'}
    assert (await gallery.get(PATH, headers=both)).status_code == 200


async def test_a_range_of_another_version_gets_the_new_whole(gallery, etag, body):
    """If-Range: the very tag or date gets the range; a weak or another one the whole."""
    date = (await gallery.head(PATH)).headers["last-modified"]
    for validator, status in (
        (etag, 206),
        (date, 206),
        (f"W/{etag}", 200),
        ('"other"', 200),
        ("nonsense", 200),
    ):
        headers = {"range": "bytes=0-1", "if-range": validator}
        assert (await gallery.get(PATH, headers=headers)).status_code == status, validator


async def test_an_empty_object_is_sent_and_has_no_range(gallery, store):
    """Nothing at all is 200 with length 0; any range of it is 416."""
    await store.put(KEY, b"", content_type="video/mp4")
    whole = await gallery.get(PATH)
    assert (whole.status_code, whole.headers["content-length"], whole.content) == (200, "0", b"")
    assert (await gallery.get(PATH, headers={"range": "bytes=0-"})).status_code == 416


async def test_only_what_is_named_by_content_is_kept_for_ever(gallery, store):
    """An asset may be cached for good; what is beside a manifest may change with the next take of a poster."""
    video = await put_video(store, 1)
    kept = {
        key: (await gallery.head(f"/media/{key}")).headers["cache-control"]
        for key in (video.portrait.asset.key, video.poster_key)
    }
    assert ["immutable" in control for control in kept.values()] == [True, False]
    assert all("private" in control for control in kept.values())


@pytest.mark.parametrize("kind", ["text/html", "image/svg+xml", "application/javascript", "text/xml", ""])
async def test_nothing_that_could_run_is_shown(gallery, store, kind):
    """A type that is not a harmless picture, sound or video is a download without a type."""
    await store.put("assets/page", b"<script>alert(1)</script>", content_type=kind)
    headers = (await gallery.get("/media/assets/page")).headers
    assert headers["content-type"] == "application/octet-stream"
    assert headers["content-disposition"].startswith("attachment;")
    assert headers["x-content-type-options"] == "nosniff"


async def test_a_download_is_named_after_its_job(gallery, body):
    """`?download` makes the browser save the video instead of playing it."""
    headers = (await gallery.head(f"{PATH}?download")).headers
    assert headers["content-disposition"] == 'attachment; filename="job.mp4"'
    assert file_name('videos/a"b\r\n/poster.jpg') == "a_b__-poster.jpg"


@pytest.mark.parametrize(
    "key",
    [
        "journal/r/000001.json",
        "budget/x",
        "results/x",
        "videos/../journal/r/000001.json",
        "videos/%2e%2e/journal/r/000001.json",
        "videos/%2e%2e%2fjournal/r/000001.json",
        "videos//x",
        "videosx/y",
        "videos/",
        "videos/a%00b",
        "videos/a%0d%0ab",
        "assets/none.png",
        "",
    ],
)
async def test_nothing_else_in_the_bucket_can_be_had(gallery, store, key):
    """404 for what is not under the three prefixes, however it is spelled, and for what is not there."""
    await store.put("journal/r/000001.json", b"secret", content_type="application/json")
    await store.put("budget/x", b"secret", content_type="application/json")
    answer = await gallery.get(f"/media/{key}")
    assert answer.status_code == 404
    assert "secret" not in answer.text


async def ask(app, until):
    """One GET at the level of ASGI; `until` tells, after each message, when the browser goes away."""
    messages, gone = [], asyncio.Event()

    async def receive():
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message):
        messages.append(message)
        if until(messages):
            gone.set()
            await asyncio.Event().wait()  # a browser that has stopped reading

    path = PATH.encode()
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "GET",
    }
    scope |= {"scheme": "http", "path": PATH, "raw_path": path, "query_string": b"", "root_path": ""}
    await app(scope | {"headers": [(b"host", b"127.0.0.1")], "server": ("127.0.0.1", 80)}, receive, send)
    return messages


async def test_a_browser_that_stops_reading_is_not_read_ahead_for(gallery, body):
    """No more is taken from the store than one chunk of at most 1 MiB, and none once the browser has left."""
    app = gallery._transport.app
    messages = await ask(app, until=lambda sent: len(sent) > 1)
    assert [message["type"] for message in messages] == ["http.response.start", "http.response.body"]
    assert 0 < len(messages[1]["body"]) <= MIB


async def test_browsers_that_leave_cost_nothing(gallery, body):
    """After more abandoned videos than the store has threads, the next one plays."""
    app = gallery._transport.app
    for _ in range(40):
        await ask(app, until=lambda sent: len(sent) > 1)
    assert (await gallery.get(PATH)).content == body


STAT = Stat("k", 10, "t", NEVER)


@pytest.mark.parametrize("number", ["9" * 18, "9" * 19, "9" * 5000, "٣"])
def test_numbers_out_of_this_world_are_no_range(number):
    """Too many digits, or digits of another script, are refused or ignored, not computed with."""
    try:
        assert requested_range({"range": f"bytes={number}-"}, STAT) is None
    except Unsatisfiable:
        assert len(number) == 18
    assert requested_range({"range": f"bytes=0-{number[:18]}"}, STAT) in {None, ByteRange(0, 10)}


def test_a_tag_is_compared_whole():
    """A tag that only contains ours is another."""
    assert not not_modified({"if-none-match": '"tt", "at"'}, STAT)

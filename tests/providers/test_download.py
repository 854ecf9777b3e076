"""Fetching a video from wherever an answer points: safe, bounded, resumable."""

import gzip
import hashlib
import logging

import pytest

from avatar.errors import DownloadFailed, ProviderUnavailable
from avatar.providers import download
from avatar.providers.download import fetch_video
from avatar.settings_sections import DownloadSettings
from tests.providers.sockets import Visit, closed_port, serving, silence

CONTENT = b"\x00\x00\x00\x18ftypmp42" + bytes(range(256)) * 400
ETAG = '"v1"'
ANYWHERE = DownloadSettings(allow_private_hosts=True, attempts=3)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    """Attempts follow each other at once."""
    monkeypatch.setattr(download, "_backoff", lambda _attempt, _wait: 0.0)


@pytest.fixture
def target(tmp_path):
    return tmp_path / "video.mp4"


def offset(visit: Visit) -> int:
    return int(visit.headers.get("range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))


async def say_part(visit: Visit, *, content=CONTENT, upto: int | None = None, etag=ETAG) -> None:
    """The rest from the asked offset as a 206 (or all as a 200), hanging up after `upto` bytes."""
    start = offset(visit) if visit.headers.get("if-range", etag) == etag else 0
    head = f"HTTP/1.1 {206 if start else 200} -\r\nETag: {etag}\r\nContent-Length: {len(content) - start}\r\n"
    if start:
        head += f"Content-Range: bytes {start}-{len(content) - 1}/{len(content)}\r\n"
    await visit.say(head.encode() + b"\r\n" + content[start : len(content) if upto is None else start + upto])


def in_turns(*acts):
    """One act per connection; the last for all that follow."""
    turns = list(acts)

    async def act(visit: Visit) -> None:
        await (turns.pop(0) if len(turns) > 1 else turns[0])(visit)

    return act


async def test_a_video_is_written_whole(target):
    """The bytes as served, no part left over, no key and no cookie sent."""
    async with serving(say_part) as server:
        await fetch_video(server.url + "/v.mp4?sig=c0ffee", target, settings=ANYWHERE)
    assert target.read_bytes() == CONTENT
    assert list(target.parent.iterdir()) == [target]
    assert server.visits[0].line == "GET /v.mp4?sig=c0ffee HTTP/1.1"
    assert set(server.visits[0].headers) == {"host", "accept", "accept-encoding", "user-agent"}
    assert server.visits[0].headers["host"] == f"127.0.0.1:{server.port}"


@pytest.mark.parametrize("rst", [False, True])
async def test_a_cut_download_goes_on_where_it_stopped(target, rst):
    """Bytes that arrived are not fetched again, and If-Range guards against another content."""

    async def cut(visit: Visit) -> None:
        await say_part(visit, upto=30_000)
        if rst:
            visit.reset()

    async with serving(in_turns(cut, cut, say_part)) as server:
        await fetch_video(server.url, target, settings=ANYWHERE)
    assert target.read_bytes() == CONTENT
    first, *later = server.visits
    assert "range" not in first.headers
    assert all(visit.headers["if-range"] == ETAG for visit in later if "range" in visit.headers)
    assert offset(server.visits[-1]) > 0 or rst  # an RST may take with it what was sent before


async def test_a_server_without_ranges_is_read_from_the_start(target):
    """A 200 to a range request restarts from zero."""

    async def whole(visit: Visit) -> None:
        await visit.answer(200, CONTENT, "video/mp4")

    async with serving(in_turns(lambda visit: say_part(visit, upto=9000), whole)) as server:
        await fetch_video(server.url, target, settings=ANYWHERE)
    assert target.read_bytes() == CONTENT


async def test_two_contents_are_never_spliced(target):
    """If the content changed between two connections, the new one is read whole."""
    other = b"\x00\x00\x00\x18ftypnew!" + bytes(50_000)

    async def changed(visit: Visit) -> None:
        await say_part(visit, content=other, etag='"v2"')

    async with serving(in_turns(lambda visit: say_part(visit, upto=9000), changed)) as server:
        await fetch_video(server.url, target, settings=ANYWHERE)
    assert target.read_bytes() == other


@pytest.mark.parametrize(
    "answer",
    [
        f"HTTP/1.1 206 -\r\nContent-Range: bytes 0-9/{len(CONTENT)}\r\nContent-Length: 10\r\n\r\n0123456789",
        "HTTP/1.1 206 -\r\nContent-Range: bytes 9000-9009/9010\r\nContent-Length: 10\r\n\r\n0123456789",
        "HTTP/1.1 206 -\r\nContent-Length: 10\r\n\r\n0123456789",
        "HTTP/1.1 416 -\r\nContent-Range: bytes */5\r\nContent-Length: 0\r\n\r\n",
    ],
)
async def test_a_wrong_range_is_not_appended(target, answer):
    """A 206 that does not continue what is there, or a 416, restarts from zero."""
    acts = in_turns(lambda visit: say_part(visit, upto=9000), lambda visit: visit.say(answer), say_part)
    async with serving(acts) as server:
        await fetch_video(server.url, target, settings=ANYWHERE)
    assert target.read_bytes() == CONTENT


async def test_a_weak_etag_guards_nothing(target):
    """RFC 9110 forbids weak ETags in If-Range; the total length still has to agree."""

    async def cut(visit: Visit) -> None:
        await say_part(visit, upto=9000, etag='W/"v1"')

    async with serving(in_turns(cut, say_part)) as server:
        await fetch_video(server.url, target, settings=ANYWHERE)
    assert "if-range" not in server.visits[1].headers
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize("status", [401, 403, 404, 410])
async def test_an_expired_link_asks_for_a_fresh_one(target, status):
    """A refused link is told apart and not tried again here; of a fresh one it means not yet, so it is transient."""
    async with serving(lambda visit: visit.answer(status, "<Error/>")) as server:
        with pytest.raises(ProviderUnavailable) as caught:
            await fetch_video(server.url + "/v.mp4?sig=c0ffee", target, settings=ANYWHERE)
    assert (caught.value.kind, len(server.visits)) == ("expired", 1)
    assert "c0ffee" not in str(caught.value)
    assert not list(target.parent.iterdir())


@pytest.mark.parametrize("status", [400, 408, 425, 429, 500, 502, 503, 504])
async def test_what_may_pass_is_tried_again(target, status):
    """Outages, and a video that is not there yet, pass; the video arrives."""
    acts = in_turns(lambda visit: visit.answer(status, "<html>", Retry_After="0"), say_part)
    async with serving(acts) as server:
        await fetch_video(server.url, target, settings=ANYWHERE)
    assert target.read_bytes() == CONTENT


async def no_bytes(visit: Visit) -> None:
    await visit.answer(200, b"", "video/mp4")


async def hang_up(visit: Visit) -> None:
    """Say nothing."""


async def redirect_to_itself(visit: Visit) -> None:
    await visit.answer(302, Location="/again")


async def redirect_to_nowhere(visit: Visit) -> None:
    await visit.answer(302, Location="http://[")


@pytest.mark.parametrize("act", [no_bytes, hang_up, redirect_to_itself, redirect_to_nowhere])
async def test_what_does_not_pass_is_unavailable(target, act):
    """After the configured attempts the step fails as transient, and nothing is left behind."""
    async with serving(act) as server:
        with pytest.raises(ProviderUnavailable, match=r"3 times.*not paid for twice"):
            await fetch_video(server.url, target, settings=ANYWHERE)
    assert not list(target.parent.iterdir())


async def test_a_host_that_is_down_is_unavailable(target):
    """Nobody listening is an outage."""
    with pytest.raises(ProviderUnavailable):
        await fetch_video(f"http://127.0.0.1:{closed_port()}/", target, settings=ANYWHERE)


async def test_a_slow_drip_is_cut_and_counted(target, monkeypatch):
    """A connection that hangs is given up after its time, and the attempts are bounded."""
    monkeypatch.setattr(download, "CONNECTION_SECONDS", 0.1)
    async with serving(silence) as server:
        with pytest.raises(ProviderUnavailable):
            await fetch_video(server.url, target, settings=ANYWHERE)
    assert server.connections == 3


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"<!DOCTYPE html><html>Log in</html>", "video/mp4"),
        (b"\xef\xbb\xbf\n  <?xml version='1.0'?><Error/>", "application/octet-stream"),
        (b'{"error": "x"}', "video/mp4"),
        (b"Please wait: your video is on its way.", "text/html; charset=utf-8"),
    ],
)
async def test_a_page_instead_of_the_video_is_waited_out(target, body, content_type):
    """A page with status 200 is not the video, and the video may follow it."""

    async def page(visit: Visit) -> None:
        await visit.answer(200, body, content_type)

    async with serving(in_turns(page, page, say_part)) as server:
        await fetch_video(server.url, target, settings=ANYWHERE)
    assert target.read_bytes() == CONTENT
    async with serving(page) as server:
        with pytest.raises(ProviderUnavailable, match=r"a page of text.*3 times.*not paid for twice"):
            await fetch_video(server.url, target, settings=ANYWHERE)


async def test_a_video_that_is_called_a_page_is_the_video(target):
    """What was paid for is judged by its bytes."""
    async with serving(lambda visit: visit.answer(200, CONTENT, "text/html; charset=utf-8")) as server:
        await fetch_video(server.url, target, settings=ANYWHERE)
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize(("coding", "pack"), [("gzip", gzip.compress), ("aws-chunked", bytes)])
async def test_a_video_that_comes_packed_is_unpacked(target, coding, pack):
    """Nobody asked for it, and it was paid for."""
    answer = pack(CONTENT)
    async with serving(
        lambda visit: visit.answer(200, answer, "video/mp4", Content_Encoding=coding)
    ) as server:
        await fetch_video(server.url, target, settings=ANYWHERE)
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize("damage", [lambda packed: packed[:-9], lambda packed: packed[:99] + b"?" * 99])
async def test_what_came_packed_and_damaged_is_fetched_anew(target, damage):
    """A part of a packed answer is no part of the file: no range is asked for."""
    packed = gzip.compress(CONTENT)

    async def spoilt(visit: Visit) -> None:
        await visit.answer(200, damage(packed), "video/mp4", Content_Encoding="gzip")

    async with serving(in_turns(spoilt, say_part)) as server:
        await fetch_video(server.url, target, settings=ANYWHERE)
    assert target.read_bytes() == CONTENT
    assert "range" not in server.visits[1].headers


@pytest.mark.parametrize("announced", [True, False])
async def test_a_video_may_not_fill_the_disk(target, announced):
    """The size is bounded by what is announced and by what arrives."""

    async def act(visit: Visit) -> None:
        length = f"Content-Length: {len(CONTENT)}\r\n" if announced else ""
        await visit.say(f"HTTP/1.1 200 -\r\n{length}\r\n".encode() + CONTENT)

    settings = ANYWHERE.model_copy(update={"max_bytes": 50_000})
    async with serving(act) as server:
        with pytest.raises(DownloadFailed, match="larger than 50000") as caught:
            await fetch_video(server.url, target, settings=settings)
    assert caught.value.kind == "too_large"
    assert not list(target.parent.iterdir())


async def test_redirects_are_followed_without_anything_of_ours(target):
    """CDNs redirect; five hops are followed, relative ones too."""

    async def act(visit: Visit) -> None:
        hop = int(visit.line.split()[1].strip("/"))
        if hop < 5:
            await visit.answer(307, Location=f"/{hop + 1}")
        else:
            await say_part(visit)

    async with serving(act) as server:
        await fetch_video(server.url + "/0", target, settings=ANYWHERE)
    assert target.read_bytes() == CONTENT
    assert len(server.visits) == 6


async def test_no_log_tells_the_link(target, caplog):
    """A link may be a signature: what follows its host stays out of logs and errors, at every attempt."""
    caplog.set_level(logging.DEBUG)
    async with serving(hang_up) as server:
        with pytest.raises(ProviderUnavailable) as caught:
            await fetch_video(f"{server.url}/s3cret.mp4?sig=c0ffee", target, settings=ANYWHERE)
    for text in (caplog.text, str(caught.value)):
        assert "c0ffee" not in text
        assert "s3cret" not in text


@pytest.mark.parametrize("name", ["fal", "pixazo"])
async def test_a_providers_video_survives_the_way(name, sandbox, open_sandboxed, inputs, target):
    """A real MP4 arrives whole over a bad line, without the key."""
    provider = open_sandboxed(name)
    submission = await provider.submit(inputs)
    assert [snapshot async for snapshot in provider.watch(submission, 20)]
    video = await provider.collect(submission)
    digests = set()
    for do, how in [
        ("slow", {"bytes_per_second": 10**6}),
        ("cut", {"after": 4000}),
        ("unavailable", {}),
        ("rst", {}),
    ]:
        sandbox.behave("media", do, times=1 if do == "slow" else 2, **how)
        await provider.download(video, target)
        digests.add(hashlib.sha256(target.read_bytes()).digest())
    assert len(digests) == 1
    assert sandbox.state()["leaks"] == []

"""Fetching a video from wherever an answer points: safe, bounded, resumable."""

import datetime as dt
import hashlib
import logging
import socket
import ssl

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tasks.errors import DownloadFailed, ProviderUnavailable
from tasks.models import RemoteVideo
from tasks.providers import download
from tasks.providers.addresses import PrivateAddress, is_public, resolve
from tasks.providers.download import fetch_video
from tasks.settings import DownloadSettings
from tests.providers.conftest import KEY, open_at
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
    """An expired link is told apart and not tried again, so that the caller can collect a fresh one."""
    async with serving(lambda visit: visit.answer(status, "<Error/>")) as server:
        with pytest.raises(DownloadFailed) as caught:
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
        (CONTENT, "text/html; charset=utf-8"),
    ],
)
async def test_a_page_is_not_a_video(target, body, content_type):
    """An error page with status 200 is refused by its first bytes."""
    async with serving(lambda visit: visit.answer(200, body, content_type)) as server:
        with pytest.raises(DownloadFailed) as caught:
            await fetch_video(server.url, target, settings=ANYWHERE)
    assert caught.value.kind == "not_video"


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


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/v.mp4",
        "https://127.0.0.1/v.mp4",
        "https://localhost/v.mp4",
        "https://[::1]/v.mp4",
        "https://[::ffff:10.0.0.1]/v.mp4",
        "https://169.254.169.254/latest/meta-data",
        "https://2130706433/v.mp4",
        "https://0/v.mp4",
        "https://10.1.2.3/v.mp4",
        "https://user:pw@93.184.216.34/v.mp4",
        "file:///etc/passwd",
        "ftp://93.184.216.34/v.mp4",
        "/v.mp4",
        "",
        "https://",
        "https://[",
    ],
)
async def test_a_strangers_url_may_not_lead_inside(target, url):
    """By default: https, no user name, public addresses; refused before any connection."""
    with pytest.raises(DownloadFailed) as caught:
        await fetch_video(url, target, settings=DownloadSettings(attempts=1))
    assert caught.value.kind == "unsafe"


async def test_a_redirect_may_not_lead_inside(target, monkeypatch):
    """Every hop is checked on its own: a public host cannot send us to a private one."""
    checked = []

    async def public_first(host, port, *, allow_private):
        checked.append(host)
        return ["127.0.0.1"] if len(checked) == 1 else await resolve(host, port, allow_private=allow_private)

    monkeypatch.setattr(download, "resolve", public_first)
    certificate = Certificate("public.example")
    monkeypatch.setattr(download, "tls", lambda: certificate.client)
    async with (
        serving(say_part) as inside,
        serving(
            lambda visit: visit.answer(302, Location=f"https://127.0.0.1:{inside.port}/"),
            tls=certificate.server,
        ) as public,
    ):
        with pytest.raises(DownloadFailed) as caught:
            await fetch_video(
                f"https://public.example:{public.port}/", target, settings=DownloadSettings(attempts=1)
            )
    assert (caught.value.kind, inside.connections, checked) == ("unsafe", 0, ["public.example", "127.0.0.1"])


class Certificate:
    """A certificate for one name, and contexts of a server that has it and of a client that trusts only it."""

    def __init__(self, name: str) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        now = dt.datetime.now(dt.UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(key.public_key())
            .serial_number(1)
            .not_valid_before(now - dt.timedelta(days=1))
            .not_valid_after(now + dt.timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(key, hashes.SHA256())
        )
        self.pem = certificate.public_bytes(serialization.Encoding.PEM)
        self.key = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        self.client = ssl.create_default_context(cadata=self.pem.decode())

    @property
    def server(self) -> ssl.SSLContext:
        import tempfile

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        with tempfile.NamedTemporaryFile(suffix=".pem") as file:
            file.write(self.pem + self.key)
            file.flush()
            context.load_cert_chain(file.name)
        return context


@pytest.mark.parametrize(("name", "works"), [("cdn.example", True), ("other.example", False)])
async def test_a_checked_address_still_has_to_prove_the_name(target, monkeypatch, name, works):
    """We connect to the address that was checked, and TLS proves the host's name on it."""

    async def here(*_args, **_options):
        return ["127.0.0.1"]

    certificate = Certificate(name)
    monkeypatch.setattr(download, "resolve", here)
    monkeypatch.setattr(download, "tls", lambda: certificate.client)
    async with serving(say_part, tls=certificate.server) as server:
        url = f"https://cdn.example:{server.port}/v.mp4"
        if works:
            await fetch_video(url, target, settings=DownloadSettings(attempts=1))
            assert server.visits[0].headers["host"] == f"cdn.example:{server.port}"
        else:
            with pytest.raises(ProviderUnavailable, match="ConnectError"):
                await fetch_video(url, target, settings=DownloadSettings(attempts=1))
            assert server.visits == []


async def test_the_next_address_is_tried_when_one_does_not_answer(target, monkeypatch):
    """A host with several addresses is reached by the one that works."""

    async def two(*_args, **_options):
        return ["127.0.0.2", "127.0.0.1"]

    monkeypatch.setattr(download, "resolve", two)
    async with serving(say_part) as server:
        await fetch_video(f"http://cdn.example:{server.port}/", target, settings=ANYWHERE)
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1::1", True),
        ("64:ff9b::5db8:d822", True),  # NAT64 of a public one
        ("127.0.0.1", False),
        ("10.0.0.1", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("100.64.0.1", False),
        ("100.100.100.200", False),  # Alibaba's metadata
        ("169.254.169.254", False),  # everybody's metadata
        ("168.63.129.16", False),  # Azure's
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("240.0.0.1", False),
        ("255.255.255.255", False),
        ("::", False),
        ("::1", False),
        ("fe80::1%eth0", False),
        ("fd00:ec2::254", False),
        ("ff02::1", False),
        ("::ffff:127.0.0.1", False),
        ("::ffff:93.184.216.34", True),
        ("2002:7f00:1::", False),  # 6to4 of loopback
        ("64:ff9b::a00:1", False),  # NAT64 of a private one
    ],
)
def test_public_means_public(address, public):
    """Private, local, reserved and multicast addresses are refused, also inside IPv6."""
    assert is_public(address) is public


async def test_a_mixed_answer_of_the_resolver_leaves_the_public_part(monkeypatch):
    """Of a name's addresses only the public ones are used; with none left it is refused."""

    async def answers(*addresses):
        async def getaddrinfo(_loop, *_args, **_options):
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 443)) for address in addresses]

        monkeypatch.setattr("asyncio.base_events.BaseEventLoop.getaddrinfo", getaddrinfo)
        return await resolve("mixed.example", 443, allow_private=False)

    assert await answers("10.0.0.1", "93.184.216.34") == ["93.184.216.34"]
    with pytest.raises(PrivateAddress):
        await answers("10.0.0.1", "127.0.0.1")


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
        sandbox.behave("media", do, times=2, **how)
        await provider.download(video, target)
        digests.add(hashlib.sha256(target.read_bytes()).digest())
    assert len(digests) == 1
    assert sandbox.state()["leaks"] == []


async def test_a_provider_downloads_by_the_settings(target):
    """Without the test-only setting, a provider's answer cannot make us read a private address."""
    provider = open_at("https://queue.fal.run", "fal", download={"allow_private_hosts": False})
    with pytest.raises(DownloadFailed):
        await provider.download(RemoteVideo(url=f"https://127.0.0.1/{KEY}"), target)

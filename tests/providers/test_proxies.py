"""Behind a proxy: provider, download and store go through it, by name, and private addresses stay out of reach."""

import asyncio
import ssl
from contextlib import suppress

import pytest

from avatar.errors import DownloadFailed, ProviderUnavailable, StoreUnavailable
from avatar.providers import public_hosts, wire
from avatar.providers.download import fetch_video
from avatar.settings_sections import DownloadSettings, StoreSettings
from avatar.store.connection import proxy_for
from avatar.store.store import Store
from tests.providers.certificates import Certificate
from tests.providers.conftest import make_inputs, open_at
from tests.providers.sockets import Server, Visit, serving

CONTENT = b"\x00\x00\x00\x18ftypmp42" + bytes(5000)
ONCE = DownloadSettings(attempts=1)


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """None of the machine's own proxies."""
    for name in ("http", "https", "all", "no"):
        monkeypatch.delenv(f"{name}_proxy", raising=False)
        monkeypatch.delenv(f"{name.upper()}_PROXY", raising=False)


@pytest.fixture
def target(tmp_path):
    return tmp_path / "video.mp4"


def tunnel_to(server: Server):
    """A proxy that connects to `server`, whatever it is asked for."""

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()

    async def act(visit: Visit) -> None:
        await visit.say("HTTP/1.1 200 Connection established\r\n\r\n")
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        ways = [
            asyncio.create_task(pump(visit.reader, writer)),
            asyncio.create_task(pump(reader, visit.writer)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            writer.transport.abort()
            with suppress(ConnectionError):
                await writer.wait_closed()

    return act


async def say_video(visit: Visit) -> None:
    await visit.answer(200, CONTENT, "video/mp4")


async def test_a_video_is_fetched_through_the_proxy(target, monkeypatch):
    """By its name, which only the proxy can resolve; TLS proves the name end to end."""
    certificate = Certificate("cdn.example")
    monkeypatch.setattr(public_hosts, "tls", lambda: certificate.client)
    async with serving(say_video, tls=certificate.server) as cdn, serving(tunnel_to(cdn)) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        await fetch_video("https://cdn.example/v.mp4?sig=c0ffee", target, settings=ONCE)
    assert target.read_bytes() == CONTENT
    (asked,) = proxy.visits
    assert asked.line == "CONNECT cdn.example:443 HTTP/1.1"
    assert "c0ffee" not in asked.head
    assert cdn.visits[0].headers["host"] == "cdn.example"


async def test_the_proxys_own_password_goes_to_the_proxy_alone(target, monkeypatch):
    certificate = Certificate("cdn.example")
    monkeypatch.setattr(public_hosts, "tls", lambda: certificate.client)
    async with serving(say_video, tls=certificate.server) as cdn, serving(tunnel_to(cdn)) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url.replace("://", "://user:pa%40ss@"))
        await fetch_video("https://cdn.example/v.mp4", target, settings=ONCE)
    assert proxy.visits[0].headers["proxy-authorization"] == "Basic dXNlcjpwYUBzcw=="
    assert "proxy-authorization" not in cdn.visits[0].headers


@pytest.mark.parametrize(
    "url",
    ["https://10.1.2.3/v.mp4", "https://169.254.169.254/x", "https://[fd00::1]/v", "https://intranet/v.mp4",
     "http://cdn.example/v.mp4", "https://user:pw@cdn.example/v.mp4"],
)  # fmt: skip
async def test_the_proxy_is_not_asked_for_what_may_not_be_followed(target, monkeypatch, url):
    """Private addresses, names without a dot, plain http and user names are refused before the proxy hears of them."""
    async with serving(say_video) as proxy:
        monkeypatch.setenv("ALL_PROXY", proxy.url)
        with pytest.raises(DownloadFailed) as caught:
            await fetch_video(url, target, settings=ONCE)
    assert (caught.value.kind, proxy.connections) == ("unsafe", 0)


async def test_a_name_that_leads_inside_is_not_asked_for(target, monkeypatch):
    """What resolves to a private address here is refused, whatever the proxy would make of it."""

    async def inside(*_args, **_options):
        raise public_hosts.PrivateAddress

    monkeypatch.setattr(public_hosts, "resolve", inside)
    async with serving(say_video) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        with pytest.raises(DownloadFailed, match="private address"):
            await fetch_video("https://rebound.example/v.mp4", target, settings=ONCE)
    assert proxy.connections == 0


async def test_a_proxy_that_refuses_is_told_and_may_pass(target, monkeypatch):
    async with serving(lambda visit: visit.answer(403)) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        with pytest.raises(ProviderUnavailable, match="the proxy refused"):
            await fetch_video("https://cdn.example/v.mp4", target, settings=ONCE)


async def test_a_submit_goes_through_the_proxy_once(monkeypatch):
    """The same proxy as the download's; its CONNECT is not the request."""
    certificate = Certificate("queue.example")
    monkeypatch.setattr(wire, "tls", lambda: certificate.client)
    accepted = {"request_id": "r-1"}
    async with (
        serving(lambda visit: visit.answer(200, accepted), tls=certificate.server) as queue,
        serving(tunnel_to(queue)) as proxy,
    ):
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        assert (await open_at("https://queue.example", "fal").submit(make_inputs())).request_id == "r-1"
    assert (len(queue.asked("POST")), proxy.visits[0].line) == (1, "CONNECT queue.example:443 HTTP/1.1")


async def test_a_store_is_reached_through_the_proxy(monkeypatch):
    """Its host and the proxy's password, and nothing of the request, are seen by the proxy."""
    settings = StoreSettings(endpoint="store.example", access_key="a" * 8, secret_key="b" * 8)
    async with serving(lambda visit: visit.answer(502)) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url.replace("://", "://user:pw@"))
        store = Store(settings)
        with pytest.raises(StoreUnavailable):
            await store.get("some/object")
        await store.aclose()
    assert {visit.line for visit in proxy.visits} == {"CONNECT store.example:443 HTTP/1.0"} or {
        visit.line for visit in proxy.visits
    } == {"CONNECT store.example:443 HTTP/1.1"}
    assert {visit.headers["proxy-authorization"] for visit in proxy.visits} == {"Basic dXNlcjpwdw=="}
    assert "some/object" not in proxy.visits[0].head


@pytest.mark.parametrize(
    ("url", "proxied"),
    [
        ("https://cdn.example/v", True),
        ("http://cdn.example/v", True),
        ("https://inside.corp.example/v", False),
        ("https://10.0.0.9:9000", False),
        ("http://127.0.0.1:9000", False),
        ("http://[::1]:9000", False),
        ("http://localhost:9000", False),
        ("http://store.localhost:9000", False),
    ],
)
def test_exceptions_are_those_of_the_environment(monkeypatch, url, proxied):
    """NO_PROXY, by suffix and address; this machine's own addresses never need a proxy."""
    monkeypatch.setenv("ALL_PROXY", "http://proxy.example:3128")
    monkeypatch.setenv("NO_PROXY", "corp.example,10.0.0.9")
    assert (proxy_for(url) is not None) is proxied


async def test_a_custom_authority_is_trusted(target, monkeypatch, tmp_path):
    """SSL_CERT_FILE holds for downloads and calls, and for the store."""
    certificate = Certificate("localhost")
    authority = tmp_path / "authority.pem"
    authority.write_bytes(certificate.pem)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    trusted = wire.tls.__wrapped__()
    monkeypatch.setattr(public_hosts, "tls", lambda: trusted)
    async with serving(say_video, tls=certificate.server) as server:
        settings = DownloadSettings(attempts=1, allow_private_hosts=True)
        await fetch_video(f"https://localhost:{server.port}/v.mp4", target, settings=settings)
        keys = {"access_key": "a" * 8, "secret_key": "b" * 8}
        store = Store(StoreSettings(endpoint=f"localhost:{server.port}", **keys))
        assert (await store.get("some/object")).data == CONTENT
        await store.aclose()
    assert target.read_bytes() == CONTENT
    assert isinstance(trusted, ssl.SSLContext)

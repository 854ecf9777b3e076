"""Fetching from somebody else's URL: where it may lead, and what is proved on the way."""

import socket

import pytest

from avatar.errors import DownloadFailed, ProviderUnavailable
from avatar.models import RemoteVideo
from avatar.providers import public_hosts
from avatar.providers.download import fetch_video
from avatar.providers.public_hosts import PrivateAddress, is_public, resolve
from avatar.settings_sections import DownloadSettings
from tests.providers.certificates import Certificate
from tests.providers.conftest import KEY, open_at
from tests.providers.sockets import Visit, serving

CONTENT = b"\x00\x00\x00\x18ftypmp42" + bytes(5000)
ANYWHERE = DownloadSettings(allow_private_hosts=True, attempts=1)


@pytest.fixture
def target(tmp_path):
    return tmp_path / "video.mp4"


async def say_part(visit: Visit) -> None:
    await visit.answer(200, CONTENT, "video/mp4")


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
        "https://0x7f.1/v.mp4",
        "https://[64:ff9b::a9fe:a9fe]/v.mp4",
        "https://[2002:7f00:1::]/v.mp4",
        "https://[fec0::1]/v.mp4",
        "https://192.0.0.192/v.mp4",
        "https://93.184.216.34:99999/v.mp4",
        "https://10.1.2.3/v.mp4",
        "https://user:pw@93.184.216.34/v.mp4",
        "file:///etc/passwd",
        "ftp://93.184.216.34/v.mp4",
        "/v.mp4",
        "",
        "https://",
    ],
)
async def test_somebody_elses_url_may_not_lead_inside(target, url):
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

    monkeypatch.setattr(public_hosts, "resolve", public_first)
    certificate = Certificate("public.example")
    monkeypatch.setattr(public_hosts, "tls", lambda: certificate.client)
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


@pytest.mark.parametrize(("name", "works"), [("cdn.example", True), ("other.example", False)])
async def test_a_checked_address_still_has_to_prove_the_name(target, monkeypatch, name, works):
    """We connect to the address that was checked, and TLS proves the host's name on it."""

    async def here(*_args, **_options):
        return ["127.0.0.1"]

    certificate = Certificate(name)
    monkeypatch.setattr(public_hosts, "resolve", here)
    monkeypatch.setattr(public_hosts, "tls", lambda: certificate.client)
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

    monkeypatch.setattr(public_hosts, "resolve", two)
    async with serving(say_part) as server:
        await fetch_video(f"http://cdn.example:{server.port}/", target, settings=ANYWHERE)
    assert target.read_bytes() == CONTENT


async def test_a_provider_downloads_by_the_settings(target):
    """Without the test-only setting, a provider's answer cannot make us read a private address."""
    provider = open_at("https://queue.fal.run", "fal", download={"allow_private_hosts": False})
    with pytest.raises(DownloadFailed):
        await provider.download(RemoteVideo(url=f"https://127.0.0.1/{KEY}"), target)


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
        ("64:ff9b:1::1", False),  # NAT64 within a network
        ("fec0::1", False),  # site-local, deprecated, and still inside
        ("192.0.0.192", False),  # Oracle's metadata
        ("192.88.99.1", False),
        ("::127.0.0.1", False),
        ("::ffff:0:127.0.0.1", False),
        ("2001:db8::1", False),
        ("3fff::1", False),
        ("2001:0:4136:e378:8000:63bf:80ff:fffe", False),  # Teredo of loopback
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

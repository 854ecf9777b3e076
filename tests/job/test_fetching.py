"""Inputs given as addresses: fetched from public hosts, within limits, and told without their secrets."""

import asyncio
import gzip
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from avatar.errors import InvalidInput, SourceUnavailable
from avatar.job import inputs as fetching
from avatar.job.inputs import fetch_input, open_input
from avatar.providers import download, public_hosts
from avatar.providers import public_hosts as addresses
from avatar.settings import AvatarSettings
from avatar.settings_sections import DownloadSettings, LimitSettings, StoreSettings
from avatar.workspace import Workspace
from tests.cases.urls import CASES
from tests.providers.certificates import Certificate
from tests.providers.sockets import Act, Visit, closed_port, serving

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 8
SECRET = "?X-Amz-Signature=c0ffee&X-Amz-Security-Token=s3cret"
HOST, PUBLIC = "files.example", "127.0.0.2"
LIMITS = {"max_input_bytes": 50_000, "input_seconds": 5, "attempts": 2}
OPEN = LIMITS | {"allow_private_hosts": True}


async def say_png(visit: Visit) -> None:
    await visit.answer(200, PNG, "image/png")


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    """Attempts follow each other at once."""
    monkeypatch.setattr(download, "_backoff", lambda _attempt, _wait: 0.0)


@pytest.fixture
def resolver(monkeypatch) -> dict[str, list[str]]:
    """What names resolve to, one answer a look, the last for all that follow; 127.0.0.2 stands for a public host."""
    names: dict[str, list[str]] = {HOST: [PUBLIC]}
    real = asyncio.base_events.BaseEventLoop.getaddrinfo

    async def getaddrinfo(loop, host, port, **options):
        answers = names.get(host)
        if answers is None:
            return await real(loop, host, port, **options)
        address = answers.pop(0) if len(answers) > 1 else answers[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    is_public = addresses.is_public
    monkeypatch.setattr(addresses, "is_public", lambda address: address == PUBLIC or is_public(address))
    monkeypatch.setattr(asyncio.base_events.BaseEventLoop, "getaddrinfo", getaddrinfo)
    return names


@pytest.fixture
def certificate(monkeypatch) -> Certificate:
    """What the stand-in for a public host proves its name with."""
    made = Certificate(HOST)
    monkeypatch.setattr(public_hosts, "tls", lambda: made.client)
    return made


def settings(tmp_path: Path, **download: object) -> AvatarSettings:
    given = DownloadSettings.model_validate(LIMITS | download)
    nowhere = StoreSettings(endpoint="127.0.0.1:9", access_key="a", secret_key="b", secure=False)
    return AvatarSettings(_env_file=None, state_dir=tmp_path, download=given, store=nowhere)


async def refused(tmp_path: Path, link: str, seen: str, **download: object) -> str:
    """The message for an input that is not taken; it keeps the link's secrets, and leaves no file."""
    workspace = Workspace(settings(tmp_path, **download))
    with pytest.raises((InvalidInput, SourceUnavailable)) as caught:
        async with asyncio.timeout(10), open_input(workspace, link, what="portrait"):
            raise AssertionError("it was taken")
    await workspace.aclose()
    text = f"{caught.value.message} {caught.value.hint}"
    assert seen in text, text
    assert "Nothing was sent or spent." in text
    assert not any(secret in text for secret in ("c0ffee", "s3cret", "pa55word"))
    assert not any(path.is_file() for path in tmp_path.rglob("*"))
    return text


LINKS: dict[str, list[str]] = {
    "http:// instead of https://": ["http://example.com/p.png", "HTTP://example.com/p.png"],
    "file:///etc/passwd": ["file:///etc/passwd"],
    "ftp://": ["ftp://example.com/p.png"],
    "no host, spaces or control characters in it": [
        "https://", "https:///p.png", "https://exa mple.com/p", "https://a\nb/p", "https://[::1/p", "https://?p",
    ],
    "a user name in it": ["https://anna:pa55word@93.184.216.34/p.png", "https://a:pa55word\\@93.184.216.34/p.png"],
    "a port above 65535": ["https://93.184.216.34:99999/p.png"],
    "this machine, by number or by name": [
        "https://127.0.0.1/p", "https://localhost/p", "https://[::1]/p", "https://0.0.0.0/p", "https://[::]/p",
    ],
    "a private network": [
        "https://10.0.0.1/p", "https://172.16.0.1/p", "https://192.168.1.1/p", "https://100.64.0.1/p",
        "https://[fd00::1]/p", "https://[fec0::1]/p", "https://224.0.0.1/p", "https://[ff02::1]/p",
    ],
    "a cloud's metadata server": [
        "https://169.254.169.254/latest/meta-data", "https://[fd00:ec2::254]/", "https://168.63.129.16/",
        "https://100.100.100.200/", "https://192.0.0.192/",
    ],
    "a private address spelled in decimal, octal, hexadecimal, short or wide": [
        "https://2130706433/p", "https://017700000001/p", "https://0x7f000001/p", "https://127.1/p", "https://0/p",
        "https://0x7f.0.0.1/p", "https://127。0。0。1/p", "https://LOCALHOST/p",
    ],
    "an IPv4 address inside an IPv6 one": [
        "https://[::ffff:127.0.0.1]/p", "https://[::ffff:7f00:1]/p", "https://[64:ff9b::7f00:1]/p",
        "https://[64:ff9b::a9fe:a9fe]/p", "https://[2002:7f00:1::]/p", "https://[::127.0.0.1]/p",
    ],
    "a name longer than DNS allows": [f"https://{'a' * 64}.example/p", "https://a..b/p"],
    "a name that does not resolve": ["https://nowhere.invalid/p"],
}  # fmt: skip


@pytest.mark.parametrize(("case", "seen"), [case for case in CASES if case[0] in LINKS])
async def test_a_link_that_may_not_be_followed_is_refused(tmp_path, case, seen):
    """By default: https, no user, public addresses; refused before any connection, its query told to nobody."""
    for link in LINKS[case]:
        await refused(tmp_path, link + SECRET, seen)


def say(*pieces: bytes | str) -> Act:
    async def act(visit: Visit) -> None:
        for piece in pieces:
            await visit.say(piece)

    return act


async def endless(visit: Visit) -> None:
    await visit.say("HTTP/1.1 200 -\r\nContent-Type: image/png\r\n\r\n" + "\x01" * 9)
    while True:
        await visit.say(bytes(8192))


async def drip(visit: Visit) -> None:
    await visit.say("HTTP/1.1 200 -\r\nContent-Length: 4000\r\n\r\n")
    for _ in range(4000):
        await visit.say(b"\x01")
        await asyncio.sleep(0.05)


async def endless_headers(visit: Visit) -> None:
    await visit.say("HTTP/1.1 200 -\r\n")
    while True:
        await visit.say("X-More: " + "x" * 4000 + "\r\n")


ANSWERS: dict[str, Callable[[Visit], object]] = {
    "redirects without end": lambda visit: visit.answer(302, Location="/again"),
    "not there, or its link expired": lambda visit: visit.answer(404, "<Error/>"),
    "a server that fails": lambda visit: visit.answer(503, "", Retry_After="0"),
    "larger than is read, and says so": say("HTTP/1.1 200 -\r\nContent-Length: 50001\r\n\r\n\x01"),
    "larger than is read, and says nothing": endless,
    "shorter than it says": say("HTTP/1.1 200 -\r\nContent-Length: 4000\r\n\r\n", b"\x01" * 900),
    "a byte now and then": drip,
    "nothing at all": lambda visit: visit.answer(200, b"", "image/png"),
    "a web page (a login, perhaps) with an image's name": lambda visit: visit.answer(200, "<html>", "image/png"),
    "packed (gzip), though nobody asked for it": lambda visit: visit.answer(
        200, gzip.compress(PNG), "image/png", Content_Encoding="gzip"
    ),
    "an answer that is no HTTP": say("SSH-2.0-OpenSSH_9.2\r\n"),
    "headers without end": endless_headers,
}  # fmt: skip


@pytest.mark.parametrize(("case", "seen"), [case for case in CASES if case[0] in ANSWERS])
async def test_a_server_that_misbehaves_is_told(tmp_path, case, seen):
    """Whatever a server does: one error that names it, in bounded time and space."""
    limits = OPEN | ({"input_seconds": 0.3} if case == "a byte now and then" else {})
    async with serving(ANSWERS[case]) as server:
        await refused(tmp_path, f"{server.url}/p.png{SECRET}", seen, **limits)


async def redirected(tmp_path, resolver, certificate, location: str, seen: str) -> None:
    act = lambda visit: visit.answer(302, Location=location)  # noqa: E731
    async with serving(act, tls=certificate.server, host=PUBLIC) as server:
        await refused(tmp_path, f"https://{HOST}:{server.port}/{SECRET}", seen)
    assert len(server.visits) == 1


async def resolved_inside(tmp_path, resolver, certificate, seen: str) -> None:
    async with serving(say_png, tls=certificate.server) as inside:
        resolver[HOST] = ["127.0.0.1"]
        await refused(tmp_path, f"https://{HOST}:{inside.port}/p.png", seen)
    assert inside.connections == 0


async def redirected_inside(tmp_path, resolver, certificate, seen: str) -> None:
    async with serving(say_png) as inside:
        for target in (
            f"https://127.0.0.1:{inside.port}/",
            f"//localhost:{inside.port}/",
            "https://[::ffff:7f00:1]/",
        ):
            await redirected(tmp_path, resolver, certificate, target, seen)
    assert inside.connections == 0


async def redirected_to_http(tmp_path, resolver, certificate, seen: str) -> None:
    for target in (f"http://{HOST}/", "file:///etc/passwd", "ftp://example.com/"):
        await redirected(tmp_path, resolver, certificate, target, seen)


async def a_closed_port(tmp_path, resolver, certificate, seen: str) -> None:
    await refused(tmp_path, f"http://127.0.0.1:{closed_port()}/", seen, **OPEN)


async def another_name(tmp_path, resolver, certificate, seen: str) -> None:
    async with serving(say_png, tls=Certificate(HOST).server, host=PUBLIC) as server:
        await refused(tmp_path, f"https://{HOST}:{server.port}/p.png", seen)
    assert server.visits == []


ROUTES = {
    "a public name that resolves to a private address": resolved_inside,
    "a redirect to a private address": redirected_inside,
    "a redirect from https to http": redirected_to_http,
    "a server that is down": a_closed_port,
    "a certificate for another name": another_name,
}


@pytest.mark.parametrize(("case", "seen"), [case for case in CASES if case[0] in ROUTES])
async def test_a_way_that_leads_elsewhere_is_not_taken(tmp_path, resolver, certificate, case, seen):
    """Names, redirects and certificates are checked at every hop, on the address connected to."""
    await ROUTES[case](tmp_path, resolver, certificate, seen)


def test_every_case_is_tried():
    """The table in the documentation is the tests' own."""
    assert {name for name, _ in CASES} == LINKS.keys() | ANSWERS.keys() | ROUTES.keys()


async def test_a_public_file_is_fetched_as_it_is(tmp_path, resolver, certificate, monkeypatch):
    """With the default settings, over TLS: the bytes, and no key, cookie or password of the environment."""
    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine {HOST} login anna password pa55word\n")
    monkeypatch.setenv("NETRC", str(netrc))

    async def act(visit: Visit) -> None:
        if visit.line.startswith("GET /old"):
            await visit.answer(302, Location="/p.png" + SECRET, Set_Cookie="a=b")
        else:
            await say_png(visit)

    async with serving(act, tls=certificate.server, host=PUBLIC) as server:
        link = f"https://{HOST}:{server.port}/old{SECRET}"
        await fetch_input(settings(tmp_path), link, tmp_path / "got", what="portrait")
    assert (tmp_path / "got").read_bytes() == PNG
    asked = {name for visit in server.visits for name in visit.headers}
    assert asked == {"host", "accept", "accept-encoding", "user-agent"}


async def test_the_address_that_was_checked_is_the_one_connected_to(tmp_path, resolver, certificate):
    """A name that resolves to a public address first and to this machine next (rebinding) leads to the first."""
    async with (
        serving(say_png, tls=certificate.server, host=PUBLIC) as public,
        serving(say_png, tls=certificate.server) as inside,
    ):
        resolver[HOST] = [PUBLIC, "127.0.0.1"]
        await fetch_input(
            settings(tmp_path), f"https://{HOST}:{public.port}/p.png", tmp_path / "got", what="portrait"
        )
    assert (public.connections, inside.connections) == (1, 0)
    assert resolver[HOST] == ["127.0.0.1"]


async def test_a_portrait_has_a_limit_of_its_own(tmp_path):
    """Twenty times what the provider takes: a portrait may be large, but no film."""
    async with serving(lambda visit: visit.answer(200, b"\x01" * 3000, "image/png")) as server:
        given = settings(tmp_path, **OPEN).model_copy(update={"limits": LimitSettings(max_image_bytes=100)})
        with pytest.raises(InvalidInput, match="larger than 2000 bytes"):
            await fetch_input(given, server.url, tmp_path / "got", what="portrait")
        await fetch_input(given, server.url, tmp_path / "got", what="voice")
    assert (tmp_path / "got").stat().st_size == 3000


async def test_logs_tell_no_more_than_the_host(tmp_path, caplog):
    """A link is a secret at every attempt, also to a log at its lowest level."""
    caplog.set_level(0)
    async with serving(lambda visit: visit.answer(503, "")) as server:
        given = settings(tmp_path, **OPEN)
        with pytest.raises(SourceUnavailable):
            await fetch_input(given, f"{server.url}/p{SECRET}", tmp_path / "got", what="voice")
    assert "c0ffee" not in caplog.text
    assert len(server.visits) == min(fetching.ATTEMPTS, OPEN["attempts"])

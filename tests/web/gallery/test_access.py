"""Who is let in."""

import base64

import pytest
from pydantic import SecretStr

from avatar.events import player_url
from avatar.settings_sections import GallerySettings
from avatar.web.gallery import warn
from avatar.web.server import is_loopback
from avatar.web.users import is_own_name

PASSWORD = {"user": "anna", "password": SecretStr("pässword:1")}


def basic(text):
    return {"authorization": "Basic " + base64.b64encode(text.encode()).decode()}


@pytest.fixture
async def guarded(open_gallery):
    return await open_gallery(gallery=GallerySettings(**PASSWORD))


@pytest.mark.parametrize("path", ["/", "/media/assets/x", "/videos/x", "/static/style.css", "/nothing"])
@pytest.mark.parametrize(
    "headers",
    [
        {},
        basic("anna:wrong"),
        basic("other:pässword:1"),
        basic("anna"),
        basic(""),
        {"authorization": "Basic ***"},
        {"authorization": "Bearer " + basic("anna:pässword:1")["authorization"]},
    ],
)
async def test_without_the_password_nothing_is_told(guarded, path, headers):
    """401 with a challenge for every address, whether there is something or not."""
    answer = await guarded.get(path, headers=headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Basic realm=")
    assert answer.headers["x-content-type-options"] == "nosniff"


async def test_the_password_opens(guarded):
    """User and password, with a colon and an accent in it; the scheme in any case."""
    assert (await guarded.get("/", headers=basic("anna:pässword:1"))).status_code == 200
    lower = {"authorization": basic("anna:pässword:1")["authorization"].replace("Basic", "basic")}
    assert (await guarded.get("/", headers=lower)).status_code == 200


async def test_health_asks_nobody(guarded):
    """What watches over the gallery needs no password, and learns nothing."""
    answer = await guarded.get("/health")
    assert (answer.status_code, answer.text) == (200, "ok\n")


@pytest.mark.parametrize(
    "host", ["127.0.0.1:4299", "localhost:4299", "[::1]:4299", "LOCALHOST", "gallery.example"]
)
async def test_our_own_names_are_let_in(open_gallery, host):
    """Addresses, localhost, and the name in AVATAR_GALLERY__PUBLIC_URL."""
    gallery = await open_gallery(gallery={"public_url": "https://gallery.example/"})
    assert (await gallery.get("/", headers={"host": host})).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "", "[::1", "a b"]
)
async def test_a_strangers_name_for_this_machine_is_not(gallery, host):
    """Without a password, a web site cannot read the gallery by pointing its own name here (DNS rebinding)."""
    answer = await gallery.get("/", headers={"host": host})
    assert answer.status_code == 421
    assert "AVATAR_GALLERY__PUBLIC_URL" in answer.text


def test_this_machines_name_is_known():
    """The host that was asked to be listened on is a name of ours."""
    assert is_own_name("box.lan:80", GallerySettings(host="box.lan"))


@pytest.mark.parametrize(
    ("host", "safe"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("box.lan", False),
    ],
)
def test_an_open_gallery_is_warned_about(host, safe):
    """Listening to the network without a password is said loudly; with one, or on loopback, it is not."""
    said = []
    warn(GallerySettings(host=host), said.append)
    assert (is_loopback(host), bool(said)) == (safe, not safe)
    warn(GallerySettings(host=host, password=SecretStr("x")), said.append)
    assert len(said) == (0 if safe else 1)


@pytest.mark.parametrize(
    ("base", "link"),
    [
        (None, None),
        ("http://127.0.0.1:4299/", "http://127.0.0.1:4299/videos/abc"),
        ("https://studio.example/gallery", "https://studio.example/gallery/videos/abc"),
    ],
)
def test_a_players_link_needs_a_public_address(make_settings, base, link):
    """The permanent link of a video, below whatever path the gallery has; None if nobody said where it is."""
    assert player_url(make_settings(gallery={"public_url": base}), "abc") == link

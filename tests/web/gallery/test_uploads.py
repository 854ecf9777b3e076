"""Files from a browser: in parts, cut off and gone on with, limited in size, kind and number."""

import json

import pytest

from avatar.web import uploads, users
from tests.sandbox import samples
from tests.web.gallery.test_actions import ORIGIN, bring, desk, inputs, prefect, token_of

__all__ = ["desk", "inputs", "prefect"]


@pytest.fixture
async def headers(desk):
    return {"x-csrf-token": await token_of(desk)}


async def begin(desk, headers, content, name="voice.wav"):
    announced = {"name": name, "size": len(content)}
    answer = await desk.post("/uploads", json=announced, headers=headers)
    assert answer.status_code == 201
    return f"/uploads/{answer.json()['id']}"


async def test_a_cut_upload_goes_on_where_it_stopped(desk, headers, inputs):
    """A part counts once all of it is there; the rest follows from the offset that the gallery names."""
    content = (inputs / "eight.wav").read_bytes()
    at = await begin(desk, headers, content, "Grüße aus Köln.wav")
    first = await desk.patch(at, content=content[:1000], headers=headers | {"upload-offset": "0"})
    assert first.json() == {"offset": 1000}
    wrong = await desk.patch(at, content=content[500:900], headers=headers | {"upload-offset": "500"})
    assert (wrong.status_code, wrong.json()) == (409, {"offset": 1000})
    assert (await desk.get(at)).json() == {"offset": 1000}
    last = await desk.patch(at, content=content[1000:], headers=headers | {"upload-offset": "1000"})
    told = last.json()
    assert (told["what"], told["name"]) == ("voice", "Grüße aus Köln.wav")
    assert told["key"].endswith("/Grue-aus-Koln.wav")
    assert (await desk.get(at)).json() == told


async def test_its_parts_are_gone_once_it_is_whole(desk, store, inputs):
    """What stays is the file under its name, and its content."""
    told = (await bring(desk, inputs / "eight.wav", part=300_000)).json()
    keys = [stat.key for stat in await store.list("desk/uploads/")]
    assert [key.rpartition("/")[2] for key in keys] == ["upload.json"]
    kept = await store.stat(told["key"])
    assert (await store.stat(uploads.asset_key(told["key"]))).sha256 == kept.sha256


async def test_an_upload_is_of_the_browser_that_began_it(desk, headers):
    """Another session sees nothing of it, and adds nothing."""
    at = await begin(desk, headers, b"RIFF" + b"x" * 100)
    desk.cookies.set(users.COOKIE, "b" * 43)
    assert (await desk.get(at)).status_code == 404
    assert (await desk.patch(at, content=b"x", headers=headers)).status_code == 403
    own = {"x-csrf-token": users._digest_of("b" * 43), "upload-offset": "0"}
    assert (await desk.patch(at, content=b"x", headers=own)).status_code == 404


@pytest.mark.parametrize(
    ("content", "name", "status"),
    [
        (b"<html>", "a.png", 415),
        (b"MZ\x90\x00", "a.wav", 415),
        (b"\x89PNG\r\n\x1a\n" + b"x" * 5000, "a.png", 413),
        (b"", "a.png", 400),
        (b"x", "x" * 301, 400),
    ],
    ids=["html", "program", "large", "empty", "long name"],
)
async def test_what_may_be_brought_is_limited(open_gallery, prefect, content, name, status):
    """Pictures, sounds and manifests up to AVATAR_DOWNLOAD__MAX_INPUT_BYTES."""
    client = await open_gallery(gallery={"desk": True}, download={"max_input_bytes": 4096})
    client.headers.update(ORIGIN)
    headers = {"x-csrf-token": await token_of(client)}
    answer = await client.post("/uploads", json={"name": name, "size": len(content)}, headers=headers)
    if answer.status_code == 201:
        at = f"/uploads/{answer.json()['id']}"
        answer = await client.patch(at, content=content, headers=headers | {"upload-offset": "0"})
    assert answer.status_code == status


async def test_no_more_is_taken_than_was_announced(desk, headers):
    """413, and nothing of it is kept."""
    at = await begin(desk, headers, b"RIFF" + b"x" * 100)
    given = headers | {"upload-offset": "0"}
    assert (await desk.patch(at, content=b"RIFF" + b"x" * 5000, headers=given)).status_code == 413
    assert (await desk.get(at)).json() == {"offset": 0}


@pytest.mark.parametrize("token", ["", "0" * 64])
async def test_a_forged_upload_is_refused(desk, headers, token):
    """Neither begun nor gone on with."""
    at = await begin(desk, headers, b"RIFF" + b"x" * 100)
    forged = {"x-csrf-token": token, "upload-offset": "0"}
    assert (await desk.post("/uploads", json={"name": "a", "size": 1}, headers=forged)).status_code == 403
    assert (await desk.patch(at, content=b"RIFF", headers=forged)).status_code == 403


async def test_uploads_are_rationed(desk, headers, monkeypatch):
    """429 with a time to come back."""
    answers = [await desk.post("/uploads", content=json.dumps({}), headers=headers) for _ in range(301)]
    assert answers[-1].status_code == 429


async def test_a_damaged_picture_says_so_at_once(desk, tmp_path):
    """One that begins like a picture is taken, and found out when its price is asked for."""
    samples.make_inputs(tmp_path)
    answer = await bring(desk, tmp_path / "portrait.png", "portrait.jpg")
    assert answer.json()["key"].endswith("/portrait.png")

"""Who may look, make and spend: by a file of users, or by the name that a trusted proxy gives."""

import base64
import os

import httpx
import pytest

from avatar.errors import NotConfigured
from avatar.web.gallery import build_app
from avatar.web.users import Role, Users, add_user, read_users
from avatar.workspace import Workspace
from tests.web.gallery.conftest import BASE
from tests.web.gallery.manifests import FAILED, put_video
from tests.web.gallery.test_actions import (
    ORIGIN,
    RUN,
    address_of,
    desk,
    form,
    inputs,
    prefect,
    priced,
    token_of,
)

__all__ = ["desk", "inputs", "prefect", "priced"]

NAMES = ("look", "make", "spend")


@pytest.fixture
def users(tmp_path):
    path = tmp_path / "users"
    for name in NAMES:
        add_user(path, name, name, "secret")
    add_user(path, "remote", "make", "")
    return path


def basic(name, password="secret"):
    return {"authorization": "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()}


@pytest.fixture
async def shared(open_gallery, prefect, users):
    """A gallery with the file of users."""
    client = await open_gallery(gallery={"desk": True, "users": str(users)}, pixazo={"key": "k"})
    client.headers.update(ORIGIN)
    return client


@pytest.mark.parametrize(
    ("name", "password"), [("spend", "wrong"), ("nobody", "secret"), ("remote", ""), ("", "")]
)
async def test_strangers_see_nothing(shared, name, password):
    """A wrong password, an unknown name, and a user without a password are asked again."""
    assert (await shared.get("/", headers=basic(name, password))).status_code == 401


async def test_who_looks_changes_nothing(shared, store, prefect):
    """No buttons, no forms; what is sent by hand is refused."""
    video = await put_video(store, 1, state="rejected", checks=(FAILED,))
    page = await shared.get(f"/videos/{video.job_id}", headers=basic("look"))
    assert page.status_code == 200
    assert 'method="post"' not in page.text
    assert (await shared.get("/new", headers=basic("look"))).status_code == 403
    token = await token_of_user(shared, "spend")
    for path in (f"/videos/{video.job_id}/accept", f"/videos/{video.job_id}/name", "/orders"):
        assert (await shared.post(path, data={"token": token}, headers=basic("look"))).status_code == 403


async def token_of_user(client, name):
    """The token of the one browser that all of them sit at."""
    client.headers.update(basic(name))
    token = await token_of(client)
    del client.headers["authorization"]
    return token


async def test_who_makes_spends_nothing(shared, store, prefect):
    """They rename and accept; approving, settling, and another paid take are refused."""
    video = await put_video(store, 1, provider="pixazo")
    token, make = await token_of_user(shared, "make"), basic("make")
    page = (await shared.get(f"/videos/{video.job_id}", headers=make)).text
    assert "Another take" not in page
    renamed = await shared.post(
        f"/videos/{video.job_id}/name", data={"token": token, "title": "A"}, headers=make
    )
    assert renamed.status_code == 303
    assert "Approve" not in (await shared.get(f"/runs/{RUN}", headers=make)).text
    refused = {
        f"/runs/{RUN}/answer": {"answer": "approve", "amount": "11.04"},
        f"/videos/{video.job_id}/take": {"price": "1.04", "take": "1", "once": "x" * 22},
        f"/renders/{1:032x}/settle": {"not_charged": "yes"},
    }
    for path, fields in refused.items():
        answer = await shared.post(path, data=fields | {"token": token}, headers=make)
        assert answer.status_code == 403
        assert "You may not spend money here" in answer.text
    assert (prefect.runs, prefect.resumed) == ({}, [])


async def test_a_paid_order_needs_the_role(desk, prefect, priced, monkeypatch):
    """What is free may be started by those who make, what is paid may not."""
    monkeypatch.setattr("avatar.web.users.role_of", lambda request: Role.MAKE)
    paid = form(priced[1].text, priced[0], provider="pixazo")
    assert (await desk.post(address_of(priced), data=paid)).status_code == 403
    free = form(priced[1].text, priced[0], provider="preview")
    assert (await desk.post(address_of(priced), data=free)).status_code == 303
    assert len(prefect.runs) == 1


@pytest.mark.parametrize(
    ("given", "status", "makes"),
    [
        (["remote"], 200, True),
        (["look"], 200, False),
        (["stranger"], 200, False),
        ([], 401, False),
        ([""], 401, False),
        (["spend", "remote"], 401, False),
    ],
    ids=repr,
)
async def test_a_trusted_proxy_names_people(make_settings, users, given, status, makes):
    """Its users have the roles of the file, others look; a name that came twice came past the proxy."""
    settings = {
        "desk": True,
        "users": str(users),
        "proxy_header": "X-Forwarded-User",
        "proxies": "10.0.0.0/8",
    }
    answer = await ask_through(make_settings(gallery=settings), "10.1.2.3", given)
    assert (answer.status_code, "New video" in answer.text) == (status, makes)


async def test_others_cannot_name_themselves(make_settings, prefect, users):
    """The header of somebody who is no proxy of ours counts for nothing."""
    settings = {
        "desk": True,
        "users": str(users),
        "proxy_header": "X-Forwarded-User",
        "proxies": "10.0.0.0/8",
    }
    assert (await ask_through(make_settings(gallery=settings), "192.0.2.7", ["spend"])).status_code == 401


async def ask_through(settings, peer, names):
    async with Workspace(settings) as workspace:
        transport = httpx.ASGITransport(build_app(workspace), client=(peer, 1))
        async with httpx.AsyncClient(transport=transport, base_url=BASE) as client:
            return await client.get("/", headers=[("X-Forwarded-User", name) for name in names])


@pytest.mark.parametrize("line", ["anna", "anna:boss:", "anna:look:secret", "an na:look:", "anna:look:00$00"])
def test_half_a_file_of_users_lets_nobody_in(tmp_path, line):
    """A line that is none is an error, and so is a file that is not there."""
    path = tmp_path / "users"
    path.write_text(f"# users\n\n{line}\n")
    with pytest.raises(NotConfigured):
        read_users(path)
    with pytest.raises(NotConfigured):
        read_users(tmp_path / "none")


async def test_a_file_of_users_is_read_again(make_settings, users):
    """Who is taken out is out at once."""
    known = Users(make_settings(gallery={"users": str(users)}).gallery)
    assert await known.sign_in(basic("spend")["authorization"]) is Role.SPEND
    users.write_text("")
    os.utime(users, ns=(1, 1))
    assert await known.sign_in(basic("spend")["authorization"]) is None


def test_a_user_is_written_over_one_of_the_same_name(users):
    """One line for each; only the owner may read the file."""
    add_user(users, "look", "spend", "other")
    assert read_users(users)["look"].role is Role.SPEND
    assert users.stat().st_mode & 0o077 == 0

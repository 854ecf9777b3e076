"""What may be done from the gallery's pages, by whom, and how often."""

import json
import re
from decimal import Decimal
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from pydantic import SecretStr

from avatar.errors import NotConfigured
from avatar.settings import GallerySettings
from avatar.web import desk as desk_module
from avatar.web import orders
from avatar.web.gallery import check_desk
from tests.sandbox import samples
from tests.web.gallery.conftest import BASE
from tests.web.gallery.manifests import FAILED, put_video

RUN = "0190a1b2-0000-7000-8000-000000000001"
ORIGIN = {"origin": BASE, "sec-fetch-site": "same-origin"}
QUESTION = "## Pay $11.04 to fal?"


class Prefect:
    """Deployments whose runs it creates once for each idempotency key, and a run that waits for an answer."""

    def __init__(self):
        self.runs, self.resumed = {}, []
        self.state = {
            "type": "PAUSED",
            "name": "Suspended",
            "message": "",
            "state_details": {"run_input_keyset": KEYS},
        }

    def app(self):
        app = web.Application()
        app.router.add_get("/api/deployments/name/{flow}/{name}", self.deployment)
        app.router.add_post("/api/deployments/{id}/create_flow_run", self.create)
        app.router.add_get("/api/flow_runs/{id}", self.run)
        app.router.add_get("/api/flow_runs/{id}/input/{key}", self.input)
        app.router.add_post("/api/flow_runs/{id}/resume", self.resume)
        app.router.add_post("/api/flow_runs/filter", self.none)
        app.router.add_post("/api/artifacts/filter", self.none)
        return app

    async def deployment(self, request):
        return web.json_response({"id": request.match_info["flow"]})

    async def create(self, request):
        asked = await request.json()
        self.runs.setdefault(asked["idempotency_key"], asked)
        return web.json_response({"id": RUN}, status=201)

    async def run(self, request):
        return web.json_response({"id": request.match_info["id"], "name": "a run", "state": self.state})

    async def input(self, request):
        schema = {"properties": {"approved": {"type": "boolean"}, "who": {"type": "string"}}}
        return web.json_response(schema if request.match_info["key"] == "schema" else QUESTION)

    async def resume(self, request):
        self.resumed.append((await request.json())["run_input"])
        return web.json_response({"status": "ACCEPT"})

    async def none(self, request):
        return web.json_response([])


KEYS = {"schema": "schema", "description": "description", "response": "response"}


@pytest.fixture
async def prefect(monkeypatch):
    one = Prefect()
    async with TestServer(one.app()) as server:
        monkeypatch.setenv("PREFECT_API_URL", str(server.make_url("/api")))
        yield one


@pytest.fixture
async def desk(open_gallery, prefect):
    """A gallery with its desk, as a browser sees it: cookies are kept, and forms come from its own pages."""
    client = await open_gallery(gallery={"desk": True}, pixazo={"key": "k"}, budget={"per_day": Decimal(20)})
    client.headers.update(ORIGIN)
    return client


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    samples.make_inputs(folder)
    samples.write_voice(folder / "eight.wav", 8.0)
    return folder


def hidden(html, name):
    found = re.search(rf'name="{name}" value="([^"]*)"', html)
    return found[1] if found else None


def form(html, action, **change):
    """The fields of the form that goes to `action`."""
    (found,) = [
        each for each in re.findall(r"<form.*?</form>", html, re.DOTALL) if f'action="{action}"' in each
    ][-1:]
    fields = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', found))
    return fields | change


async def bring(desk, path):
    token = re.search(r'data-token="(\w+)"', (await desk.get("/new")).text)[1]
    return await desk.post("/files", content=path.read_bytes(), headers={"x-csrf-token": token})


@pytest.fixture
async def priced(desk, inputs):
    """The page of an order of one portrait and one voice."""
    portrait, voice = [(await bring(desk, inputs / name)).json() for name in ("portrait.png", "eight.wav")]
    assert (portrait["what"], voice["what"]) == ("portrait", "voice")
    return await desk.get(
        "/new", params={"portrait": portrait["key"], "voice": voice["key"], "title": "Hello"}
    )


async def test_two_files_become_a_run(desk, prefect, priced):
    """Brought, checked, priced for every provider with a key, and started with the price as its limit."""
    html = priced.text
    assert "$20.00 of today" in html
    assert "The fal key" in html
    fields = form(html, "new", provider="pixazo")
    assert Decimal(fields["price"]) > 0
    answer = await desk.post("/new", data=fields)
    assert (answer.status_code, urlsplit(answer.headers["location"]).path) == (303, f"runs/{RUN}")
    ((key, asked),) = prefect.runs.items()
    job = asked["parameters"]["job"]
    assert key == f"gallery-{fields['once']}"
    assert (job["provider"], job["max_cost"]) == ("pixazo", float(fields["price"]))
    assert job["portrait"].startswith("s3://")
    assert job["title"] == "Hello"


async def test_a_second_press_is_the_same_run(desk, prefect, priced):
    """Double clicks and reloads start nothing twice."""
    fields = form(priced.text, "new", provider="pixazo")
    for _ in range(3):
        assert (await desk.post("/new", data=fields)).status_code == 303
    assert len(prefect.runs) == 1


@pytest.mark.parametrize(
    "forged",
    [
        ({"origin": "https://evil.example"}, {}),
        ({"origin": "null"}, {}),
        ({"origin": ""}, {}),
        ({"origin": "http://127.0.0.1:4298"}, {}),
        ({"sec-fetch-site": "cross-site"}, {}),
        ({"sec-fetch-site": "same-site"}, {}),
        ({"cookie": "avatar_session="}, {}),
        ({"cookie": "avatar_session=" + "a" * 43}, {}),
        ({}, {"token": ""}),
        ({}, {"token": "0" * 64}),
        ({}, {"token": "é"}),
    ],
    ids=repr,
)
@pytest.mark.parametrize(
    "path", ["/new", f"/runs/{RUN}/answer", f"/videos/{1:032x}/accept", f"/videos/{1:032x}/take"]
)
async def test_a_forged_request_does_nothing(desk, prefect, store, path, forged):
    """Another origin, no session, or a token that is not this session's: 403, and nothing is started or changed."""
    headers, change = forged
    await put_video(store, 1, state="rejected", checks=(FAILED,))
    before = (await store.get(f"videos/{1:032x}/manifest.json")).data
    page = (await desk.get("/new")).text
    fields = {
        "token": re.search(r"data-token=\"(\w+)\"", page)[1],
        "price": "1.04",
        "take": "1",
        "once": "x" * 22,
    }
    fields |= {"answer": "approve", "amount": "11.04"} | change
    answer = await desk.post(path, data=fields, headers=headers)
    assert answer.status_code == 403
    assert (prefect.runs, prefect.resumed) == ({}, [])
    assert (await store.get(f"videos/{1:032x}/manifest.json")).data == before


@pytest.mark.parametrize("price", ["", "0", "0.01", "nonsense", "NaN", "-1", "1e9"])
async def test_another_price_than_was_shown_starts_nothing(desk, prefect, priced, price):
    """409, and the price as it is."""
    answer = await desk.post("/new", data=form(priced.text, "new", provider="pixazo", price=price))
    assert answer.status_code == 409
    assert "The price is $" in answer.text
    assert prefect.runs == {}


@pytest.mark.parametrize(
    "change",
    [{"portrait": "journal/x"}, {"voice": "../secret"}, {"provider": "nobody"}, {"once": "x"}, {"voice": ""}],
    ids=repr,
)
async def test_an_order_names_only_what_was_brought(desk, prefect, priced, change):
    """Keys elsewhere in the bucket, unknown providers and half forms start nothing."""
    answer = await desk.post("/new", data=form(priced.text, "new", provider="pixazo") | change)
    assert answer.status_code == 400
    assert prefect.runs == {}


async def test_a_form_is_bounded(desk, priced):
    """413 for a long one, 415 for another kind."""
    fields = form(priced.text, "new", prompt="x" * 70_000)
    assert (await desk.post("/new", data=fields)).status_code == 413
    assert (await desk.post("/new", json=fields)).status_code == 415


@pytest.mark.parametrize(
    ("content", "status"),
    [(b"", 400), (b"<html>", 415), (b"MZ\x90\x00", 415), (b"\x89PNG\r\n\x1a\n" + b"x" * 5000, 413)],
    ids=["empty", "html", "program", "large"],
)
async def test_what_may_be_brought_is_limited(open_gallery, prefect, content, status):
    """Pictures and sounds up to AVATAR_DOWNLOAD__MAX_INPUT_BYTES."""
    client = await open_gallery(gallery={"desk": True}, download={"max_input_bytes": 4096})
    client.headers.update(ORIGIN)
    token = re.search(r'data-token="(\w+)"', (await client.get("/new")).text)[1]
    assert (
        await client.post("/files", content=content, headers={"x-csrf-token": token})
    ).status_code == status
    assert (await client.post("/files", content=content, headers={"x-csrf-token": "x"})).status_code == 403


async def test_changes_are_rationed(desk, priced, monkeypatch):
    """429 with a time to come back."""
    monkeypatch.setattr(desk_module, "CHANGES_A_MINUTE", 2)
    fields = form(priced.text, "new", provider="pixazo")
    answers = [await desk.post("/new", data=fields) for _ in range(70)]
    assert answers[-1].status_code == 429
    assert answers[-1].headers["retry-after"] == "60"


async def test_what_cannot_be_rendered_is_said_before_anything_is_sent(desk, inputs, tmp_path):
    """A voice that is too short: the page says so, and has nothing to press for it."""
    samples.write_voice(tmp_path / "short.wav", 1.0)
    portrait = (await bring(desk, inputs / "portrait.png")).json()["key"]
    voice = (await bring(desk, tmp_path / "short.wav")).json()["key"]
    html = (await desk.get("/new", params={"portrait": portrait, "voice": voice})).text
    assert "the shortest accepted is 2 s" in html
    assert 'name="price"' not in html


@pytest.mark.parametrize(("press", "said"), [("approve", True), ("refuse", False)])
async def test_a_waiting_run_is_answered(desk, prefect, press, said):
    """The page shows what it asks and the amount; the answer goes to the run."""
    html = (await desk.get(f"/runs/{RUN}")).text
    assert "Waiting for you" in html
    assert "Approve $11.04" in html
    answer = await desk.post(f"/runs/{RUN}/answer", data=form(html, f"{RUN}/answer", answer=press))
    assert (answer.status_code, prefect.resumed) == (303, [{"approved": said}])


async def test_an_answer_to_another_amount_is_refused(desk, prefect):
    """And so is one to a run that does not wait any more."""
    html = (await desk.get(f"/runs/{RUN}")).text
    fields = form(html, f"{RUN}/answer", answer="approve")
    assert (await desk.post(f"/runs/{RUN}/answer", data=fields | {"amount": "1.00"})).status_code == 409
    prefect.state = {"type": "RUNNING", "name": "Running"}
    assert (await desk.post(f"/runs/{RUN}/answer", data=fields)).status_code == 409
    assert prefect.resumed == []


async def test_a_rejected_video_is_accepted(desk, store):
    """It is published as it is, with a note, and costs nothing."""
    video = await put_video(store, 1, state="rejected", checks=(FAILED,))
    html = (await desk.get(f"/videos/{video.job_id}")).text
    answer = await desk.post(f"/videos/{video.job_id}/accept", data=form(html, f"{video.job_id}/accept"))
    assert answer.status_code == 303
    assert json.loads((await store.get(video.manifest_key)).data)["state"] == "published"


async def test_another_take_has_its_price(desk, prefect, store):
    """The page shows it, the run gets it as its limit, and the next number."""
    video = await put_video(store, 1, provider="pixazo")
    html = (await desk.get(f"/videos/{video.job_id}")).text
    fields = form(html, f"{video.job_id}/take")
    assert f"Another take for ${Decimal(fields['price']):.2f}" in html
    assert (
        await desk.post(f"/videos/{video.job_id}/take", data=fields | {"price": "0.01"})
    ).status_code == 409
    assert (await desk.post(f"/videos/{video.job_id}/take", data=fields)).status_code == 303
    ((_, asked),) = prefect.runs.items()
    assert (asked["parameters"]["job"]["take"], asked["parameters"]["job"]["max_cost"]) == (
        1,
        float(fields["price"]),
    )


async def test_a_video_is_renamed(desk, store):
    """The list, the page and the download have the new title at once; it is text, whatever it is."""
    video = await put_video(store, 1)
    html = (await desk.get(f"/videos/{video.job_id}")).text
    fields = form(html, f"{video.job_id}/name", title="Spring <b>2026</b>")
    assert (await desk.post(f"/videos/{video.job_id}/name", data=fields)).status_code == 303
    assert "Spring &lt;b&gt;2026&lt;/b&gt;" in (await desk.get("/", params={"q": "spring"})).text
    assert "Spring_b_2026_b.mp4" in (await desk.get(f"/videos/{video.job_id}")).text


async def test_what_needs_a_person_is_on_one_page(desk, store):
    """Rejected videos, with what waits for approval and what is unknown."""
    await put_video(store, 1, state="rejected", checks=(FAILED,))
    assert "hello number 1" in (await desk.get("/attention")).text


async def test_without_the_desk_nothing_can_be_pressed(gallery, store):
    """A gallery only reads unless it is told otherwise: no forms, and no such addresses."""
    video = await put_video(store, 1, state="rejected", checks=(FAILED,))
    assert 'method="post"' not in (await gallery.get(f"/videos/{video.job_id}")).text
    for path in ("/new", "/files", f"/videos/{video.job_id}/accept", f"/runs/{RUN}/answer"):
        assert (await gallery.post(path, headers=ORIGIN)).status_code in {404, 405}


async def test_prefect_away_is_said(open_gallery, monkeypatch, store):
    """503, with what to do; nothing is started."""
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    client = await open_gallery(gallery={"desk": True})
    assert "PREFECT_API_URL" in (await client.get(f"/runs/{RUN}")).text


@pytest.mark.parametrize(
    ("settings", "refused"),
    [
        ({"host": "0.0.0.0", "desk": True}, True),
        ({"host": "0.0.0.0", "desk": True, "password": SecretStr("x")}, False),
        ({"host": "127.0.0.1", "desk": True}, False),
        ({"host": "0.0.0.0"}, False),
    ],
)
def test_others_start_nothing_without_a_password(settings, refused):
    """Off loopback the desk needs one."""
    if refused:
        with pytest.raises(NotConfigured):
            check_desk(GallerySettings(**settings))
    else:
        check_desk(GallerySettings(**settings))


def test_an_address_holds_the_order():
    """What the page was asked for, so that it can be loaded again."""
    key = "assets/" + "a" * 64 + ".png"
    order = orders.Order(key, (key.replace("a" * 64, "b" * 64),), {key: "anna=1.png"}, "smiles", "Hi")
    again = orders.Order.of([(n, v) for n, vs in parse_qs(urlencode(order.pairs())).items() for v in vs])
    assert again == order

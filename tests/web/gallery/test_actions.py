"""What may be done from the gallery's pages, by whom, and how often."""

import hashlib
import json
import re
from datetime import UTC, datetime
from decimal import Decimal
from urllib.parse import urlsplit

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from pydantic import SecretStr

from avatar.errors import NotConfigured
from avatar.job.consent import write_consent
from avatar.money.commit import plan_key
from avatar.money.entries import Failure, RenderState
from avatar.money.journal import Journal
from avatar.settings_sections import GallerySettings
from avatar.stored_models import Consent, ProviderName
from avatar.web.gallery import check_actions
from avatar.workspace import Workspace
from tests.money.scripted import make_plan
from tests.sandbox import samples
from tests.web.gallery.conftest import BASE
from tests.web.gallery.manifests import FAILED, asset, put_video

RUN = "0190a1b2-0000-7000-8000-000000000001"
ORIGIN = {"origin": BASE, "sec-fetch-site": "same-origin"}
QUESTION = (
    "## Pay $11.04 to fal?\n\n96 s billed.\n\n| segment |\n| --- |\n\n"
    "[Watch the free preview](http://127.0.0.1:4299/videos/abc): of `a.mp3` [<b>](javascript:1)."
)


class Prefect:
    """Deployments whose runs it creates once for each idempotency key, and a run that waits for an answer."""

    def __init__(self):
        self.runs, self.resumed, self.artifacts = {}, [], []
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
        app.router.add_post("/api/flow_runs/filter", self.list)
        app.router.add_post("/api/artifacts/filter", self.shown)
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

    async def list(self, request):
        paused = self.state["type"] == "PAUSED"
        return web.json_response([{"id": RUN, "name": "anna", "state": self.state}] if paused else [])

    async def shown(self, request):
        return web.json_response(self.artifacts)


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


def form(html, action, **change):
    """The fields of the form that goes to `action`; of several, those of the one with `change`'s provider."""
    forms = [each for each in re.findall(r"<form.*?</form>", html, re.DOTALL) if f'action="{action}"' in each]
    found = [dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', each)) for each in forms]
    wanted = [each for each in found if each.get("provider") == change.get("provider")] or found
    return wanted[0] | change


async def token_of(desk):
    return re.search(r'data-token="(\w+)"', (await desk.get("/new")).text)[1]


async def bring(desk, path, name="", part=4 * 1024 * 1024):
    """A file in parts, as the page's script sends it; the last answer."""
    headers, content = {"x-csrf-token": await token_of(desk)}, path.read_bytes()
    announced = {"name": name or path.name, "size": len(content)}
    answer = await desk.post("/uploads", json=announced, headers=headers)
    if answer.status_code != 201:
        return answer
    address = f"/uploads/{answer.json()['id']}"
    for start in range(0, len(content), part):
        given = headers | {"upload-offset": str(start)}
        answer = await desk.patch(address, content=content[start : start + part], headers=given)
    return answer


async def priced_order(desk, fields):
    """The address of an order's page, and the page once every price is known."""
    kept = await desk.post("/orders", data=fields | {"token": await token_of(desk)})
    assert kept.status_code == 303, kept.text
    address = kept.headers["location"].partition("#")[0]
    while True:
        page = await desk.get(address)
        if "data-live" not in page.text:
            return f"../{address}/start", page


@pytest.fixture
async def priced(desk, inputs):
    """An order of one portrait and one voice: where it is started, and its page."""
    portrait, voice = [(await bring(desk, inputs / name)).json() for name in ("portrait.png", "eight.wav")]
    assert (portrait["what"], voice["what"]) == ("portrait", "voice")
    fields = {"portrait": portrait["key"], "voice": voice["key"], "title": "Hello"}
    return await priced_order(desk, fields)


def address_of(priced):
    return priced[0].removeprefix("..")


async def test_a_face_without_consent_is_not_offered(open_gallery, prefect, inputs, make_settings):
    """The page says which and how to record it, and has a price once that is done; the preview is free of it."""
    desk = await open_gallery(gallery={"desk": True}, pixazo={"key": "k"}, consent="required")
    desk.headers.update(ORIGIN)
    portrait, voice = [(await bring(desk, inputs / name)).json() for name in ("portrait.png", "eight.wav")]
    fields = {"portrait": portrait["key"], "voice": voice["key"]}
    start, page = await priced_order(desk, fields)
    assert "no consent is recorded" in page.text
    assert "avatar consent add PORTRAIT" in page.text
    assert re.findall(r'name="provider" value="(\w+)"', page.text) == ["preview"]
    sha256 = hashlib.sha256((inputs / "portrait.png").read_bytes()).hexdigest()
    facts = {"who": "Anna", "purpose": "spring", "until": "2999-12-31", "paper": "folder 12"}
    async with Workspace(make_settings()) as workspace:
        consent = Consent(portrait=sha256, written_at=datetime.now(UTC), **facts)
        await write_consent(workspace, consent)
    again = (await priced_order(desk, fields))[1].text
    assert "no consent is recorded" not in again
    assert Decimal(form(again, start, provider="pixazo")["price"]) > 0


async def test_two_files_become_a_run(desk, prefect, priced):
    """Brought, checked, priced for every provider with a key, and started with the price as its limit."""
    html = priced[1].text
    assert "$20.00 of today" in html
    assert "The fal key" in html
    assert 'class="wave"' in html
    fields = form(html, priced[0], provider="pixazo")
    assert Decimal(fields["price"]) > 0
    answer = await desk.post(address_of(priced), data=fields)
    assert (answer.status_code, urlsplit(answer.headers["location"]).path) == (303, f"../../runs/{RUN}")
    ((key, asked),) = prefect.runs.items()
    job = asked["parameters"]["job"]
    assert key == f"gallery-{fields['once']}"
    assert (job["provider"], job["max_cost"]) == ("pixazo", float(fields["price"]))
    assert job["portrait"].endswith("/portrait.png")
    assert job["voice"].endswith("/eight.wav")
    assert job["title"] == "Hello"


async def test_a_second_press_is_the_same_run(desk, prefect, priced):
    """Double clicks and reloads start nothing twice."""
    fields = form(priced[1].text, priced[0], provider="pixazo")
    for _ in range(3):
        assert (await desk.post(address_of(priced), data=fields)).status_code == 303
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
    "path",
    [
        "/orders",
        f"/orders/{1:032x}/start",
        f"/runs/{RUN}/answer",
        f"/renders/{1:032x}/settle",
        f"/videos/{1:032x}/accept",
        f"/videos/{1:032x}/take",
        f"/videos/{1:032x}/name",
    ],
)
async def test_a_forged_request_does_nothing(desk, prefect, store, path, forged):
    """Another origin, no session, or a token that is not this session's: 403, and nothing is started or changed."""
    headers, change = forged
    await put_video(store, 1, state="rejected", checks=(FAILED,))
    before = (await store.get(f"videos/{1:032x}/manifest.json")).data
    fields = {
        "token": await token_of(desk),
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
    fields = form(priced[1].text, priced[0], provider="pixazo", price=price)
    answer = await desk.post(address_of(priced), data=fields)
    assert answer.status_code == 409
    assert "The price is $" in answer.text
    assert prefect.runs == {}


@pytest.mark.parametrize(
    "change",
    [
        {"portrait": "journal/x"},
        {"voice": "../secret"},
        {"manifest": "assets/" + "a" * 64 + ".csv"},
        {"language": "not a language"},
        {"labels": "no value"},
    ],
    ids=repr,
)
async def test_an_order_names_only_what_was_brought(desk, change):
    """Keys elsewhere in the bucket and half forms are not kept."""
    answer = await desk.post("/orders", data={"token": await token_of(desk)} | change)
    assert answer.status_code == 400


@pytest.mark.parametrize("change", [{"provider": "nobody"}, {"model": "x"}, {"once": "x"}], ids=repr)
async def test_half_a_form_starts_nothing(desk, prefect, priced, change):
    """A provider, a model, a button that the page does not have."""
    fields = form(priced[1].text, priced[0], provider="pixazo") | change
    assert (await desk.post(address_of(priced), data=fields)).status_code == 400
    assert prefect.runs == {}


async def test_a_form_is_bounded(desk, prefect, priced):
    """413 for a long one and for one with many fields, 415 for another kind."""
    fields = form(priced[1].text, priced[0], provider="pixazo")
    many = fields | {f"field{number}": "x" for number in range(200)}
    assert (await desk.post(address_of(priced), data=fields | {"x": "x" * 70_000})).status_code == 413
    assert (await desk.post(address_of(priced), data=many)).status_code == 413
    assert (await desk.post(address_of(priced), json=fields)).status_code == 415
    assert prefect.runs == {}


async def test_changes_are_rationed(desk, priced):
    """429 with a time to come back."""
    fields = form(priced[1].text, priced[0], provider="pixazo")
    answers = [await desk.post(address_of(priced), data=fields) for _ in range(70)]
    assert answers[-1].status_code == 429
    assert answers[-1].headers["retry-after"] == "60"


@pytest.mark.parametrize(("press", "said"), [("approve", True), ("refuse", False)])
async def test_a_waiting_run_is_answered(desk, prefect, press, said):
    """The page shows what it asks and the amount; the answer goes to the run."""
    html = (await desk.get(f"/runs/{RUN}")).text
    assert "Waiting for you" in html
    assert "Approve $11.04" in html
    assert (
        '<a href="http://127.0.0.1:4299/videos/abc">Watch the free preview</a>: of a.mp3 [&lt;b&gt;]' in html
    )
    assert "segment" not in html
    answer = await desk.post(f"/runs/{RUN}/answer", data=form(html, f"../runs/{RUN}/answer", answer=press))
    assert (answer.status_code, prefect.resumed) == (303, [{"approved": said}])


async def test_an_answer_to_another_amount_is_refused(desk, prefect):
    """And so is one to a run that does not wait any more."""
    html = (await desk.get(f"/runs/{RUN}")).text
    fields = form(html, f"../runs/{RUN}/answer", answer="approve")
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
    change = {"title": "Spring <b>2026</b>", "language": "de", "labels": "campaign=spring, client=acme"}
    fields = form(html, f"{video.job_id}/name", **change)
    assert (await desk.post(f"/videos/{video.job_id}/name", data=fields)).status_code == 303
    assert "Spring &lt;b&gt;2026&lt;/b&gt;" in (await desk.get("/", params={"q": "spring"})).text
    assert "Spring_b_2026_b_de.mp4" in (await desk.get(f"/videos/{video.job_id}")).text
    assert "Spring &lt;b&gt;2026&lt;/b&gt;" in (await desk.get("/", params={"label": "client=acme"})).text
    fields["language"] = "nonsense!"
    assert (await desk.post(f"/videos/{video.job_id}/name", data=fields)).status_code == 400


async def test_what_needs_a_person_is_on_one_page(desk, store):
    """Rejected videos, runs that wait for approval with their amount, and renders that nobody knows the fate of."""
    await put_video(store, 1, state="rejected", checks=(FAILED,))
    render_id = await leave_unknown(store)
    html = (await desk.get("/attention")).text
    assert "hello number 1" in html
    assert "asks before it pays $11.04" in html
    assert f'action="renders/{render_id}/settle"' in html


@pytest.mark.parametrize(
    ("kept", "called"), [("title", "Spring"), ("voice", "hello.mp3"), ("damaged", "Job " + "cd" * 6)]
)
async def test_a_render_to_be_settled_is_called_as_its_job_is(desk, store, kept, called):
    """By its title, else by its voice's file; where its plan cannot be read the rest of the page is there."""
    sound, face = asset(1, "mp3", "audio/mpeg"), asset(2, "png", "image/png")
    names = {"title": "Spring" if kept == "title" else "", "files": {"voice": "hello.mp3"}}
    plan = make_plan(face, sound).model_copy(update={"job_id": "cd" * 16, **names})
    body = b"{" if kept == "damaged" else plan.model_dump_json().encode()
    await store.put(plan_key(plan.job_id), body, content_type="application/json")
    await leave_unknown(store)
    assert f"<h3>{called}: $1.04 at pixazo</h3>" in (await desk.get("/attention")).text


async def test_progress_says_whose_it_is(desk, prefect):
    """The free preview's beside that of the render that it is shown before."""
    prefect.state = {"type": "RUNNING", "name": "Running", "message": ""}
    prefect.artifacts = [
        {"key": "preview-abc", "description": "done, 1 s since submit", "data": 100.0},
        {"key": "render-abc", "description": "in queue, 3 s since submit", "data": 0.0},
    ]
    html = (await desk.get(f"/runs/{RUN}")).text
    assert "Free preview: done, 1 s since submit" in html
    assert "Render: in queue, 3 s since submit" in html


async def leave_unknown(store):
    """A render whose answer was lost."""
    journal, render_id = Journal(store, lease_seconds=60), "ab" * 16
    facts = {"job_id": "cd" * 16, "provider": ProviderName.PIXAZO, "quoted": Decimal("1.04")}
    intent = await journal.begin(None, render_id=render_id, **facts)
    await journal.append(intent, RenderState.UNKNOWN, failure=Failure(kind="answer_lost", message="cut"))
    return render_id


async def test_an_unknown_render_is_settled_from_its_page(desk, store):
    """As not charged: it may be bought again, and the journal says on whose word. Half a form changes nothing."""
    render_id = await leave_unknown(store)
    html = (await desk.get("/attention")).text
    fields = {"token": re.search(r'name="token" value="(\w+)"', html)[1]}
    address = f"/renders/{render_id}/settle"
    for half in ({}, {"request_id": "x", "not_charged": "yes"}):
        assert (await desk.post(address, data=fields | half)).status_code == 400
    assert (await desk.post(address, data=fields | {"not_charged": "yes"})).status_code == 303
    head = await Journal(store, lease_seconds=60).head(render_id)
    assert head.state is RenderState.RESOLVED
    assert head.entry.settled_by.startswith("the gallery at ")
    assert "Nothing waits" not in (await desk.get("/attention")).text  # the run still does


async def test_a_compared_pair_is_on_one_page(gallery, store):
    """Two takes beside one another; a stranger's id is not here."""
    for number in (1, 2):
        await put_video(store, number, title=f"Take {number}")
    html = (await gallery.get(f"/compare/{1:032x}/{2:032x}")).text
    assert html.count("<video") == 2
    assert re.findall(r"<figcaption><a [^>]*>([^<]+)", html) == ["Take 1", "Take 2"]
    assert (await gallery.get(f"/compare/{1:032x}/{9:032x}")).status_code == 404


async def test_without_the_desk_nothing_can_be_pressed(gallery, store):
    """A gallery only reads unless it is told otherwise: no forms, and no such addresses."""
    video = await put_video(store, 1, state="rejected", checks=(FAILED,))
    assert 'method="post"' not in (await gallery.get(f"/videos/{video.job_id}")).text
    for path in ("/new", "/uploads", "/orders", f"/videos/{video.job_id}/accept", f"/runs/{RUN}/answer"):
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
        ({"host": "0.0.0.0", "desk": True, "users": "users"}, False),
        ({"host": "127.0.0.1", "desk": True}, False),
        ({"host": "0.0.0.0"}, False),
    ],
)
def test_others_start_nothing_without_a_password(settings, refused):
    """Off loopback the desk needs one."""
    if refused:
        with pytest.raises(NotConfigured):
            check_actions(GallerySettings(**settings))
    else:
        check_actions(GallerySettings(**settings))

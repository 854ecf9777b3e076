"""The bridge's door for providers: what is let in, what it leaves behind, and what a flood does."""

import asyncio
import gc
import json
from collections import Counter
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from avatar.errors import StoreUnavailable
from avatar.models import RemoteState, Snapshot, Submission
from avatar.money.entries import Failure, RenderState
from avatar.money.webhooks import SECRET_KEY, WebhookTarget, path_of
from avatar.stored_models import ProviderName
from avatar.web import bridge as serving
from avatar.web.bridge import Bridge, build_app
from avatar.workspace import Workspace
from tests.cases.webhooks import CASES
from tests.providers.signing import BODY, SigningFal, publishing
from tests.web.bridge.conftest import TOKEN

RENDER_ID = "5e" * 16
PUBLIC = "https://bridge.example"
FORGER = Ed25519PrivateKey.generate()


@pytest.fixture
async def fal():
    one = SigningFal()
    async with publishing(one):
        yield one


@pytest.fixture
async def open_bridge(make_settings, fal):
    """Opens bridges to be asked without a network, each with its workspace; keywords are settings of the bridge."""
    opened = []

    def make(**changes):
        given = {"public_url": PUBLIC, "jwks_url": fal.url, "max_body_bytes": 4096}
        workspace = Workspace(make_settings(bridge=given | changes))
        transport = httpx.ASGITransport(build_app(Bridge(workspace, frozenset({TOKEN}), lambda _: None)))
        client = httpx.AsyncClient(transport=transport, base_url="http://bridge")
        opened.append((workspace, client))
        return workspace, client

    yield make
    for workspace, client in opened:
        await client.aclose()
        await workspace.aclose()


@pytest.fixture
def opened(open_bridge):
    return open_bridge()


@pytest.fixture
def workspace(opened):
    return opened[0]


@pytest.fixture
def bridge(opened):
    return opened[1]


async def address(workspace, provider="fal", attempt=1):
    asked = WebhookTarget(ProviderName(provider), RENDER_ID, attempt)
    return f"{path_of(asked)}/{(await workspace.webhook_addresses())._mac(asked)}"


async def begun(workspace, provider="fal"):
    return await workspace.journal.begin(
        None, render_id=RENDER_ID, job_id="1" * 32, provider=ProviderName(provider), quoted=Decimal(1)
    )


async def submitted(workspace, provider="fal", request_id="r-1"):
    receipt = Submission(
        render_id=RENDER_ID, provider=provider, request_id=request_id, submitted_at=datetime.now(UTC)
    )
    intent = await begun(workspace, provider)
    return await workspace.journal.append(intent, RenderState.SUBMITTED, submission=receipt)


async def kept(workspace):
    """The hints in the store."""
    stats = await workspace.store.list("hints/")
    return [json.loads((await workspace.store.get(stat.key)).data) for stat in stats]


async def test_what_fal_signed_leaves_a_hint(bridge, workspace, fal):
    """204; the hint has provider, request id and time, and nothing else of the body. Again, nothing changes."""
    await submitted(workspace)
    for _ in range(3):
        answer = await bridge.post(await address(workspace), content=BODY, headers=fal.deliver())
        assert (answer.status_code, answer.content) == (204, b"")
    (hint,) = await kept(workspace)
    assert hint.pop("received_at")
    assert hint == {"render_id": RENDER_ID, "attempt": 1, "provider": "fal", "request_id": "r-1"}
    assert fal.fetches == 1


async def test_an_address_that_was_not_made_here_is_not_found(bridge, workspace, fal):
    """404 before anything is read, verified or looked up, however well it is signed."""
    await submitted(workspace)
    right = await address(workspace)
    wrong = [right[:-1] + ("0" if right[-1] != "0" else "1"), right.replace("/fal/", "/pixazo/"),
             right.replace(RENDER_ID, "6e" * 16), right.replace("/1/", "/2/"), right[:-40], right + "/",
             right.replace("/1/", "/%31%00/"), right.replace(RENDER_ID, "%2e%2e")]  # fmt: skip
    for path in wrong:
        answer = await bridge.post(path, content=BODY, headers=fal.deliver())
        assert answer.status_code in {404, 307}, path
    assert (await bridge.get(right)).status_code == 405
    assert (await kept(workspace), fal.fetches) == ([], 0)


def posts(fal: Any) -> dict[str, tuple[str, bytes, dict[str, str]]]:
    """What is posted in each case of tests/cases/webhooks.py to a right address: provider, body and headers."""
    forged = {
        "fal's webhook without a signature": {},
        "fal's webhook signed with another key": fal.deliver(key=FORGER),
        "fal's signature of another body": fal.deliver(b"{}"),
        "fal's webhook of long ago, sent again": fal.deliver(at=1_700_000_000),
        "a signature that is no hexadecimal number": fal.deliver(Signature="no hex"),
    }
    pixazo = {
        "request id has slashes and dots": b'{"request_id": "../../etc"}',
        "request id is an object": b'{"request_id": {"a": 1}}',
        "without a body": b"",
        "that is no JSON": b"\xff\x00 no json",
        "of 4,000 nested lists": b"[" * 4000,
    }
    told = {name: ("fal", BODY, headers) for name, headers in forged.items()}
    for name, body in pixazo.items():
        told[f"Pixazo's webhook {'whose ' * name.startswith('request')}{name}"] = ("pixazo", body, {})
    return told


#: Those of the addresses and of long bodies have tests of their own below and above.
POSTED = [case for case in CASES if "'s " in case[0] or "signature" in case[0]]


@pytest.mark.parametrize(("case", "seen"), POSTED)
async def test_what_is_posted_to_a_right_address_is_not_believed(bridge, workspace, fal, case, seen):
    """As tests/cases/webhooks.py tells it, however often; fal's keys are asked for once at most."""
    provider, body, headers = posts(fal)[case]
    await (submitted if provider == "fal" else begun)(workspace, provider)
    status, _, said = seen.partition("; ")
    for _ in range(3):
        answer = await bridge.post(await address(workspace, provider), content=body, headers=headers)
        assert answer.status_code == int(status)
    expected = {"nothing is kept": [], "a hint without a request id": [None]}[said]
    assert [hint["request_id"] for hint in await kept(workspace)] == expected
    assert fal.fetches <= 1


@pytest.mark.parametrize("name", ["request_id", "id"])
async def test_pixazo_s_are_only_ever_a_hint(bridge, workspace, name):
    """Unsigned, and of no documented form: the address says which render to look at, the body under which id."""
    await begun(workspace, "pixazo")
    body = json.dumps({name: "kling-ai-avatar-v2-pro-789_019d", "status": "COMPLETED"})
    answer = await bridge.post(await address(workspace, "pixazo"), content=body)
    assert answer.status_code == 204
    assert [hint["request_id"] for hint in await kept(workspace)] == ["kling-ai-avatar-v2-pro-789_019d"]


async def chunks(count):
    for _ in range(count):
        yield b"x" * 1024


@pytest.mark.parametrize("content", [b"x" * 4097, chunks(1000)], ids=["announced", "in chunks"])
async def test_a_long_body_is_not_read(bridge, workspace, fal, content):
    """413 beyond AVATAR_BRIDGE__MAX_BODY_BYTES, at a right address as well."""
    await submitted(workspace)
    answer = await bridge.post(await address(workspace), content=content, headers=fal.deliver())
    assert (answer.status_code, await kept(workspace)) == (413, [])


async def test_where_no_webhooks_are_asked_for_none_are_taken(open_bridge, workspace, fal):
    """Without a public URL every address is unknown, and no secret is made for a stranger."""
    _, closed = open_bridge(public_url=None)
    answer = await closed.post(f"/webhooks/fal/{RENDER_ID}/1/{'0' * 40}", content=BODY, headers=fal.deliver())
    assert answer.status_code == 404
    assert await workspace.store.exists(SECRET_KEY) is None
    answer = await closed.post(await address(workspace), content=BODY, headers=fal.deliver())
    assert answer.status_code == 404


async def test_what_cannot_be_judged_or_kept_may_come_again(bridge, workspace, fal, monkeypatch, caplog):
    """503 while fal's keys or the store cannot be had: a 401 or 204 would end the deliveries."""
    await submitted(workspace)
    path = await address(workspace)
    fal.status = 500
    answer = await bridge.post(path, content=BODY, headers=fal.deliver())
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "30")

    async def away(*_):
        raise StoreUnavailable("The store is away.")

    monkeypatch.setattr(workspace.journal, "head", away)
    answer = await bridge.post(await address(workspace, "pixazo"), content=b"{}")
    assert answer.status_code == 503
    assert path.rsplit("/", 1)[1] not in caplog.text


async def test_a_slow_store_does_not_hold_a_provider_up(bridge, workspace, monkeypatch):
    """An answer comes before fal's first attempt ends: 503, and it may come again."""

    async def endless(*_):
        await asyncio.Event().wait()

    monkeypatch.setattr(serving, "ANSWER_SECONDS", 0.05)
    monkeypatch.setattr(workspace.journal, "head", endless)
    answer = await bridge.post(await address(workspace, "pixazo"), content=b"{}")
    assert answer.status_code == 503


async def test_an_unknown_render_is_settled_at_once(bridge, workspace, fal, monkeypatch):
    """The answer was lost; fal's webhook brings the id, the API confirms it, and the journal has it."""
    intent = await begun(workspace)
    lost = Failure(kind="answer_lost", message="cut")
    await workspace.journal.append(intent, RenderState.UNKNOWN, failure=lost)

    class Known:
        async def poll(self, submission):
            return Snapshot(state=RemoteState.DONE)

    monkeypatch.setattr(workspace, "provider", lambda name=None, model=None: Known())
    await bridge.post(await address(workspace), content=BODY, headers=fal.deliver())
    while (head := await workspace.journal.head(RENDER_ID)).state is not RenderState.SUBMITTED:
        await asyncio.sleep(0.01)
    assert head.entry.submission.request_id == "r-1"
    assert head.entry.settled_by.startswith("fal webhook")


FLOOD = 5000


async def test_a_flood_of_forgeries_changes_nothing(bridge, workspace, fal):
    """5,000 forged posts, some to a right address: no hint, one look at fal's keys, no memory, and it still answers."""
    await submitted(workspace)
    right = await address(workspace)
    forged = fal.deliver(key=FORGER)
    seen = Counter()

    async def post(number):
        path = right if number % 5 == 0 else f"/webhooks/fal/{RENDER_ID}/1/{number:040x}"
        seen[(await bridge.post(path, content=BODY, headers=forged)).status_code] += 1

    async def wave(numbers):
        await asyncio.gather(*map(post, numbers))

    await wave(range(250))
    gc.collect()
    before = len(gc.get_objects())
    for start in range(250, FLOOD, 250):
        await wave(range(start, start + 250))
    gc.collect()
    assert len(gc.get_objects()) - before < 1000
    assert seen == {404: FLOOD * 4 // 5, 401: FLOOD // 5}
    assert (await kept(workspace), fal.fetches) == ([], 1)
    assert (await bridge.post(right, content=BODY, headers=fal.deliver())).status_code == 204

"""fal's Platform API: what the account asked for, its prices and bills, and what is made of answers that tell nothing."""

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from urllib.parse import parse_qs, urlsplit

import pytest

from avatar.errors import ProviderUnavailable
from avatar.models import RemoteState
from tests.providers.conftest import KEY, make_inputs, make_settings, open_at
from tests.providers.sockets import serving
from tests.sandbox.running import ADMIN_KEY

ENDPOINT = "fal-ai/kling-video/ai-avatar/v2/pro"
SENT = datetime(2026, 11, 25, 12, 0, 0, tzinfo=UTC)
WINDOW = SENT - timedelta(minutes=5), SENT + timedelta(minutes=5)
INPUT = {"image_url": "https://s/a.png?X-Amz-Signature=c0ffee", "audio_url": "https://s/a.wav", "prompt": "."}
ITEM = {"request_id": "r-1", "endpoint_id": ENDPOINT, "sent_at": "2026-11-25T12:00:01Z", "json_input": INPUT}


def admin(url: str) -> dict:
    fal = make_settings(url).fal.model_dump() | {"key": KEY, "admin_key": ADMIN_KEY}
    return {"fal": fal}


def listing(name: str, *entries: dict, **more: object) -> dict:
    return {name: list(entries), "next_cursor": None, "has_more": False} | more


async def history(status: int, body: object):
    async with serving(lambda visit: visit.answer(status, body)) as server:
        return await open_at(server.url, "fal").history(*WINDOW)


async def test_a_request_is_found_by_what_was_sent(sandbox, open_sandboxed, inputs):
    """The account's list has the request with its inputs, before and after it has ended; the key goes nowhere else."""
    fal, since = open_sandboxed("fal"), datetime.now(UTC) - timedelta(minutes=1)
    submission = await fal.submit(inputs)
    for _ in range(2):
        (found,) = await fal.history(since, datetime.now(UTC) + timedelta(minutes=1))
        assert found.request_id == submission.request_id
        sent = (inputs.portrait_url, inputs.voice_url, inputs.prompt)
        assert (found.image_url, found.audio_url, found.prompt) == sent
        assert abs(found.sent_at - submission.submitted_at) < timedelta(seconds=5)
        looks = [look async for look in fal.watch(submission, 30)]
        assert looks[-1].state is RemoteState.DONE
    assert sandbox.state()["leaks"] == []


async def test_a_request_is_looked_for_in_a_window():
    """Endpoint, widened window and inputs are asked for; what was sent outside the window is left out."""
    early = ITEM | {"request_id": "r-0", "sent_at": "2026-11-25T11:00:00Z"}
    async with serving(lambda visit: visit.answer(200, listing("items", early, ITEM))) as server:
        (found,) = await open_at(server.url, "fal").history(*WINDOW)
    (visit,) = server.visits
    url = urlsplit(visit.line.split()[1])
    asked = parse_qs(url.query)
    assert url.path == "/v1/models/requests/by-endpoint"
    assert (asked["endpoint_id"], asked["expand"]) == ([ENDPOINT], ["payloads"])
    assert asked["start"][0] < "2026-11-25T11:55:00Z"
    assert visit.headers["authorization"] == f"Key {KEY}"
    assert found.request_id == "r-1"
    assert "c0ffee" not in repr(found)


async def test_every_page_is_read():
    """A list goes on where `next_cursor` says."""

    async def act(visit):
        cursor = parse_qs(urlsplit(visit.line.split()[1]).query).get("cursor", ["0"])[0]
        item = ITEM | {"request_id": f"r-{cursor}"}
        await visit.answer(
            200, listing("items", item, has_more=cursor != "2", next_cursor=str(int(cursor) + 1))
        )

    async with serving(act) as server:
        found = await open_at(server.url, "fal").history(*WINDOW)
    assert [one.request_id for one in found] == ["r-0", "r-1", "r-2"]


async def test_a_list_without_end_tells_nothing():
    """One request among those that were read would not be the only one."""
    body = listing("items", ITEM, has_more=True, next_cursor="again")
    assert await history(200, body) is None


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
async def test_a_list_that_is_refused_tells_nothing(status):
    """No permission and no such page are no answer, and no error."""
    assert await history(status, {"error": {"message": "no"}}) is None


@pytest.mark.parametrize(
    ("status", "body"), [(500, "<html>"), (429, {}), (200, "<html>"), (200, {}), (200, {"items": "none"})]
)
async def test_a_list_that_cannot_be_read_now_may_be_later(status, body):
    with pytest.raises(ProviderUnavailable):
        await history(status, body)


async def test_requests_without_their_inputs_tell_nothing():
    """Inputs are not kept for ever, nor everywhere: a request of ours may be among those."""
    assert await history(200, listing("items", {**ITEM, "json_input": None})) is None
    assert await history(200, listing("items")) == []


@pytest.mark.parametrize(
    "item",
    [
        ITEM | {"json_input": json.dumps(INPUT)},
        ITEM | {"sent_at": "2026-11-25T12:00:01.123456+00:00"},
        ITEM | {"sent_at": None},
        ITEM | {"sent_at": "yesterday"},
    ],
)
async def test_an_item_of_another_shape_is_read(item):
    """Inputs as text, other forms of a moment, and none at all."""
    (found,) = await history(200, listing("items", item, {"request_id": 7}, {}))
    assert (found.request_id, found.audio_url) == ("r-1", INPUT["audio_url"])


async def test_the_accounts_own_price_is_told(sandbox, open_sandboxed):
    sandbox.reset(price_factor=0.9)
    price = await open_sandboxed("fal").listed_price()
    assert (price.amount, price.per_second) == (Decimal("0.1035"), True)


@pytest.mark.parametrize(
    ("unit", "currency", "comparable"),
    [
        ("second", "USD", True),
        ("video_second", "usd", True),
        ("seconds", "USD", True),
        ("megapixel", "USD", False),
        ("second", "EUR", False),
        ("compute_second", "USD", False),
        ("", "USD", False),
    ],
)
async def test_only_a_price_per_second_of_video_is_compared(unit, currency, comparable):
    """Units are named differently from model to model."""
    price = {"endpoint_id": ENDPOINT, "unit_price": 0.115, "unit": unit, "currency": currency}
    async with serving(lambda visit: visit.answer(200, listing("prices", price))) as server:
        told = await open_at(server.url, "fal").listed_price()
    assert (told.amount, told.per_second) == (Decimal("0.115"), comparable)


async def test_bills_are_read_with_the_admin_key(sandbox, open_sandboxed, inputs):
    """What was billed, by request; the admin key is for bills alone."""
    sandbox.reset(render_seconds=0, bill_factor=2)
    fal = open_sandboxed("fal", **admin(sandbox.url))
    submission = await fal.submit(inputs)
    sandbox.wait_for("ended")
    billed = await fal.bills([submission.request_id, "another"])
    seconds = Decimal(str(sandbox.state()["charged_seconds"]))
    assert billed == {
        submission.request_id: pytest.approx(2 * seconds * Decimal("0.115"), abs=Decimal("0.001"))
    }
    with_admin_key = {one["path"] for one in sandbox.state()["credentials"] if ADMIN_KEY in one["value"]}
    assert with_admin_key == {"/v1/models/billing-events"}


async def test_bills_of_several_events_are_added_up():
    """A correction is an event of its own."""
    events = [{"request_id": "r-1", "cost_total": cost} for cost in (9.2, -0, 0.0, None, "x")]
    async with serving(lambda visit: visit.answer(200, listing("billing_events", *events))) as server:
        fal = open_at(server.url, "fal", **admin(server.url))
        assert await fal.bills(["r-1", "r-2"]) == {"r-1": Decimal("9.2")}


async def test_without_the_admin_key_nothing_is_asked():
    """An ordinary key is not tried: fal refuses it."""
    async with serving(lambda visit: visit.answer(403, {})) as server:
        assert await open_at(server.url, "fal").bills(["r-1"]) == {}
        assert await open_at(server.url, "fal", **admin(server.url)).bills(["r-1"]) == {}
    assert len(server.visits) == 1


async def test_other_providers_list_nothing():
    pixazo = open_at("http://127.0.0.1:9", "pixazo")
    assert await pixazo.history(*WINDOW) is None
    assert await pixazo.bills(["r-1"]) == {}


async def test_a_render_is_dropped_when_nobody_asks_for_it_any_more():
    """A request that has not begun by the deadline of polling is not begun at all, and not charged."""
    async with serving(lambda visit: visit.answer(200, {"request_id": "r-1"})) as server:
        await open_at(server.url, "fal", polling={"deadline_seconds": 900}).submit(make_inputs())
    assert server.visits[0].headers["x-fal-request-start-timeout"] == "900"

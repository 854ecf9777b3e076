"""Events out as webhooks: verified as their receivers do, sent once, tried again, never where they may not go."""

import base64
import json
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from avatar.errors import NotConfigured
from avatar.settings_sections import EventSettings
from avatar.web.outgoing_webhooks import PAUSES, WAITING, Hooks, check_hooks
from avatar.workspace import Workspace

SECRET, OTHER = ("whsec_" + base64.b64encode(bytes([n]) * 32).decode() for n in (1, 2))


class Receiver:
    """Takes webhooks, or answers otherwise."""

    def __init__(self):
        self.taken, self.answers = [], []

    async def take(self, request):
        status = self.answers.pop(0) if self.answers else 200
        self.taken.append((dict(request.headers), await request.text()))
        return web.Response(status=status, headers={"location": "/elsewhere"} if status == 302 else {})

    @property
    def ids(self):
        return [headers["webhook-id"] for headers, _ in self.taken]


class Events:
    """A Prefect server's events, fifty at a time."""

    def __init__(self):
        self.all = []

    def happen(self, count=1, at=None):
        at = at or datetime.now(UTC)
        for number in range(count):
            when = (at + timedelta(microseconds=number // 2)).isoformat()
            self.all.append(
                {
                    "id": str(uuid4()),
                    "event": "avatar.video.published",
                    "occurred": when,
                    "resource": {"prefect.resource.id": "avatar.video.1"},
                    "payload": {"job_id": "1", "billed": "0.3496"},
                }
            )

    async def filter(self, request):
        wanted = (await request.json())["filter"]
        since = datetime.fromisoformat(wanted["occurred"]["since"])
        found = [each for each in self.all if datetime.fromisoformat(each["occurred"]) >= since]
        return web.json_response({"events": sorted(found, key=lambda each: each["occurred"])[:50]})


@asynccontextmanager
async def listening(path, take):
    app = web.Application()
    app.router.add_post(path, take)
    async with TestServer(app) as server:
        yield str(server.make_url("/")).rstrip("/")


@pytest.fixture
async def stage(make_settings):
    """Events, a receiver, and hooks between them, each like a process of its own."""
    events, receiver, said, opened = Events(), Receiver(), [], []
    async with (
        listening("/api/events/filter", events.filter) as prefect,
        listening("/hook", receiver.take) as url,
    ):

        def hooks(ahead=0.0, **more):
            given = {"urls": f"{url}/hook?token=abc", "secret": SECRET, "allow_private_hosts": True} | more
            workspace = Workspace(make_settings(events=given))
            opened.append(workspace)
            return Hooks(
                workspace, f"{prefect}/api", said.append, lambda: datetime.now(UTC) + timedelta(seconds=ahead)
            )

        yield events, receiver, hooks, said
        for workspace in opened:
            await workspace.aclose()


async def test_each_event_is_sent_once_and_verifies(stage):
    """Also after the bridge was started anew; what happened before the first look is no news."""
    from standardwebhooks import Webhook, WebhookVerificationError

    events, receiver, hooks, _ = stage
    events.happen(at=datetime.now(UTC) - timedelta(minutes=1))
    first = hooks()
    await first.look()
    events.happen(120)
    await first.look()
    await first.look()
    await hooks().look()
    events.happen()
    await hooks().look()
    assert receiver.ids == [event["id"] for event in events.all[1:]]
    headers, body = receiver.taken[0]
    told = Webhook(SECRET).verify(body, headers)
    assert told == json.loads(body)
    assert told["type"] == "avatar.video.published"
    assert told["data"] == {"resource": "avatar.video.1", "job_id": "1", "billed": "0.3496"}
    with pytest.raises(WebhookVerificationError):
        Webhook(OTHER).verify(body, headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(body.replace("0.34", "0.35"), headers)


async def test_a_secret_that_changes_signs_with_both(stage):
    from standardwebhooks import Webhook

    events, receiver, hooks, _ = stage
    await hooks().look()
    events.happen()
    await hooks(secret=f"{OTHER} {SECRET}").look()
    headers, body = receiver.taken[0]
    assert Webhook(SECRET).verify(body, headers) == Webhook(OTHER).verify(body, headers)


async def test_what_fails_is_tried_again_ever_later(stage):
    """With the same id, by another process too; it holds up no other event, and ends after the last pause."""
    events, receiver, hooks, said = stage
    await hooks().look()
    events.happen(2)
    one, other = (event["id"] for event in events.all)
    receiver.answers = [500, 302, 200]
    await hooks().look()
    assert receiver.ids == [one]
    assert "token" not in said[0]
    assert "answered 500" in said[0]
    await hooks().look()
    assert receiver.ids == [one, other]
    await hooks(ahead=1 + PAUSES[0]).look()
    assert (receiver.ids[2], len(receiver.ids)) in {(one, 4), (other, 4)}
    events.happen()
    receiver.answers = [503] * 20
    ahead, last = 10.0, hooks(ahead=10.0)
    await last.look()
    for pause in PAUSES:
        ahead += pause + 1
        last._now = lambda ahead=ahead: datetime.now(UTC) + timedelta(seconds=ahead)
        await last.look()
    assert receiver.ids.count(events.all[2]["id"]) == len(PAUSES) + 1
    assert await last.store.list(WAITING) == []


async def test_nothing_goes_to_private_addresses_unless_allowed(stage):
    """It is kept and told by host alone; where the receiver says it is gone, it is given up."""
    events, receiver, hooks, said = stage
    await hooks().look()
    events.happen()
    await hooks(allow_private_hosts=False).look()
    assert receiver.taken == []
    assert "not https" in said[-1]
    assert "/hook" not in said[-1]
    receiver.answers = [410]
    held = hooks(ahead=10)
    await held.look()
    assert (len(receiver.taken), await held.store.list(WAITING)) == (1, [])


@pytest.mark.parametrize(
    "secret", [None, "no base64 in here", "whsec_" + base64.b64encode(b"a short one").decode()]
)
def test_a_secret_that_cannot_sign_is_refused(secret):
    with pytest.raises(NotConfigured, match="AVATAR_EVENTS__SECRET"):
        check_hooks(EventSettings(urls="https://example.com/hook", secret=secret))

"""A bridge over a store of its own, and a Prefect that writes down what it is told."""

import json
from contextlib import asynccontextmanager

import httpx
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from avatar.inbox.uploads import Inbox
from avatar.web.bridge import Bridge, build_app
from avatar.web.outbox import Outbox, Settling, Uploads
from avatar.workspace import Workspace
from tests.money.conftest import inputs, plan  # noqa: F401 - fixtures

TOKEN = "a-token-for-tests"
BEARER = {"authorization": f"Bearer {TOKEN}"}
SETTLE = 3.0


def s3_notice(key, *, bucket="avatar", name="s3:ObjectCreated:Put", etag="e1", sequencer="1"):
    """As MinIO and S3 send it; the key is encoded as in a form."""
    thing = {"key": key, "size": 1, "eTag": etag, "sequencer": sequencer}
    record = {"eventVersion": "2.0", "eventName": name, "s3": {"bucket": {"name": bucket}, "object": thing}}
    return {"EventName": name, "Key": f"{bucket}/{key}", "Records": [record]}


@pytest.fixture
def outbox(tmp_path):
    opened = Outbox(tmp_path / "bridge.db")
    yield opened
    opened.close()


@pytest.fixture
async def workspace(make_settings):
    opened = Workspace(make_settings(bridge={"token": TOKEN, "max_body_bytes": 4096}))
    yield opened
    await opened.aclose()


@pytest.fixture
async def bridge(workspace, outbox):
    """Asked without a network. It tells nobody."""
    app = build_app(Bridge(workspace, outbox, frozenset({TOKEN}), lambda: None))
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://bridge", headers=BEARER) as client:
        yield client


class Prefect:
    """A server that takes events as Prefect does, or refuses them."""

    def __init__(self):
        self.status, self.asked, self.events, self.headers = 204, 0, [], {}
        self.page = ""

    async def take(self, request):
        self.asked += 1
        self.headers = dict(request.headers)
        if self.status == 204:
            self.events += await request.json()
        return web.Response(status=self.status)

    async def csrf_token(self, request):
        if self.page:
            return web.Response(text=self.page, content_type="text/html")
        return web.json_response({"token": "csrf-1", "client": request.query["client"]})

    @property
    def told(self):
        return [event["payload"]["uploads"] for event in self.events]


@asynccontextmanager
async def listening(prefect):
    """The server, and the address of its API."""
    app = web.Application()
    app.router.add_post("/api/events", prefect.take)
    app.router.add_get("/api/csrf-token", prefect.csrf_token)
    async with TestServer(app) as server:
        yield str(server.make_url("/api"))


@pytest.fixture
async def prefect():
    one = Prefect()
    async with listening(one) as one.api_url:
        yield one


@pytest.fixture
def said():
    return []


@pytest.fixture
def settling(outbox, workspace, prefect, said):
    return Settling(outbox, Uploads(Inbox(workspace)), prefect.api_url, SETTLE, said.append)


@pytest.fixture
def drop(store):
    """Puts files into an upload."""

    async def put(upload, *names, data=b"1"):
        for name in names:
            await store.put(f"inbox/{upload}/{name}", data, content_type="application/octet-stream")

    return put


def dumped(notice):
    return json.dumps(notice).encode()

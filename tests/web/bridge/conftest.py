"""A bridge over a store of its own, and a Prefect that writes down what it is told."""

import json
from contextlib import asynccontextmanager

import httpx
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from avatar.inbox.uploads import Inbox
from avatar.web.bridge import Bridge, build_app
from avatar.web.bucket_notifications import UploadEvents, WaitingUploads
from avatar.workspace import Workspace
from tests.money.conftest import inputs, plan  # noqa: F401 - fixtures

TOKEN = "a-token-for-tests"
BEARER = {"authorization": f"Bearer {TOKEN}"}
SETTLE = 3.0


def s3_notification(key, *, bucket="avatar", name="s3:ObjectCreated:Put", etag="e1", sequencer="1"):
    """As MinIO and S3 send it; the key is encoded as in a form."""
    thing = {"key": key, "size": 1, "eTag": etag, "sequencer": sequencer}
    record = {"eventVersion": "2.0", "eventName": name, "s3": {"bucket": {"name": bucket}, "object": thing}}
    return {"EventName": name, "Key": f"{bucket}/{key}", "Records": [record]}


@pytest.fixture
async def workspace(make_settings):
    opened = Workspace(make_settings(bridge={"token": TOKEN, "max_body_bytes": 4096}))
    yield opened
    await opened.aclose()


@pytest.fixture
def noted():
    """Names of the uploads that the bridge noted."""
    return set()


@pytest.fixture
async def bridge(workspace, noted):
    """Asked without a network. What it notes is in `noted`."""
    app = build_app(Bridge(workspace, frozenset({TOKEN}), noted.update))
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://bridge", headers=BEARER) as client:
        yield client


class Prefect:
    """A server that takes events as Prefect does, or refuses them."""

    def __init__(self):
        self.status, self.asked, self.events, self.headers = 204, 0, [], {}
        self.page = ""
        #: How many events it takes without saying so.
        self.keeps_quiet = 0

    async def take(self, request):
        self.asked += 1
        self.headers = dict(request.headers)
        if self.status == 204:
            self.events += await request.json()
        if self.keeps_quiet:
            self.keeps_quiet -= 1
            return web.Response(status=502)
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
def events(workspace, prefect, said):
    return UploadEvents(WaitingUploads(Inbox(workspace)), prefect.api_url, SETTLE, said.append)


@pytest.fixture
def drop(store):
    """Puts files into an upload."""

    async def put(upload, *names, data=b"1"):
        for name in names:
            await store.put(f"inbox/{upload}/{name}", data, content_type="application/octet-stream")

    return put


def dumped(notification):
    return json.dumps(notification).encode()

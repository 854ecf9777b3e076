"""The bridge as an ASGI application: notifications come in, nothing goes out but to the store and to Prefect."""

import asyncio
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from flows.bridge import notices
from flows.bridge.access import BodyLimit, check_token, read_body
from flows.bridge.notices import Written
from flows.bridge.outbox import Outbox
from flows.bridge.webhooks import webhook_routes
from tasks.errors import InvalidInput
from tasks.workspace import Workspace

#: Asked by `avatar up` and by load balancers; it tells nothing.
HEALTH = "/health"


@dataclass
class Bridge:
    """What the requests share.

    Attributes:
        tokens: any of them opens the door.
        notice: called when there is something new in the outbox.
    """

    workspace: Workspace
    outbox: Outbox
    tokens: frozenset[str]
    notice: Callable[[], None]

    async def from_s3(self, request: Request) -> Response:
        return await self._take(request, notices.from_s3)

    async def from_filer(self, request: Request) -> Response:
        return await self._take(request, notices.from_filer)

    async def _take(self, request: Request, read: Callable[[bytes], list[Written]]) -> Response:
        """Answer 204 when what concerns the inbox is on disk: whoever sent it may forget it."""
        check_token(request, self.tokens)
        settings = self.workspace.settings
        written = read(await read_body(request))
        changes = list(notices.changes(written, settings.store.bucket, settings.inbox.prefix))
        if changes:
            await asyncio.to_thread(self.outbox.note, changes, time.time())
            self.notice()
        return Response(status_code=HTTPStatus.NO_CONTENT)


def build_app(bridge: Bridge) -> Starlette:
    """The application. What `bridge` holds stays the caller's to close."""
    return Starlette(
        routes=[
            Route("/events/s3", bridge.from_s3, methods=["POST"]),
            Route("/events/seaweedfs", bridge.from_filer, methods=["POST"]),
            Route(HEALTH, _health),
            *webhook_routes(bridge.workspace),
        ],
        middleware=[Middleware(BodyLimit, bridge.workspace.settings.bridge.max_body_bytes)],
        exception_handlers={InvalidInput: _bad_request, sqlite3.Error: _unavailable},
    )


async def _health(_: Request) -> Response:
    return PlainTextResponse("ok\n", headers={"cache-control": "no-store"})


async def _bad_request(_: Request, error: Exception) -> Response:
    return PlainTextResponse(f"{error}\n", HTTPStatus.BAD_REQUEST)


async def _unavailable(_: Request, error: Exception) -> Response:
    return PlainTextResponse(
        f"It could not be kept: {error}. Send it again.\n", HTTPStatus.SERVICE_UNAVAILABLE
    )

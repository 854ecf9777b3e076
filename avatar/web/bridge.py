"""The bridge as a server, until SIGINT or SIGTERM."""

import asyncio
import socket
import sqlite3
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from http import HTTPStatus

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from avatar.errors import AvatarError, InvalidInput, NotConfigured
from avatar.inbox.uploads import Inbox
from avatar.local.record import StateDirectory, local_url
from avatar.local.web import bridge_token, store_port
from avatar.settings import AvatarSettings
from avatar.web import notifications as notices
from avatar.web.access import BodyLimit, check_token, read_body
from avatar.web.notifications import Written
from avatar.web.outbox import Outbox, Settling, Uploads
from avatar.web.serving import Server, is_loopback, listen
from avatar.web.webhooks import webhook_routes
from avatar.workspace import Workspace

# The bridge as an ASGI application: notifications come in, nothing goes out but to the store and to Prefect.
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


Say = Callable[[str], None]


def serve(settings: AvatarSettings, api_url: str, *, say: Say) -> int:
    """Serve until SIGINT or SIGTERM; returns the exit code.

    Args:
        settings: with the store's address and keys.
        api_url: the Prefect API that is told, whether it answers now or not.
        say: told where the bridge is, and when it is in trouble.

    Raises:
        NotConfigured: it would be open to other machines without a token that somebody chose.
        AvatarError: nothing can listen at the address that was asked for.
    """
    check_reach(settings)
    state = StateDirectory(settings.state_dir)
    tokens = {bridge_token(state)}
    if settings.bridge.token:
        tokens.add(settings.bridge.token.get_secret_value())
    with ExitStack() as stack:
        listeners = [stack.enter_context(listen("bridge", settings.bridge.host, settings.bridge.port))]
        own_port = listeners[0].getsockname()[1]
        listeners += _for_the_store(stack, store_port(state, settings), own_port, say)
        say(f"Bridge {local_url(settings.bridge.host, own_port)}")
        asyncio.run(_serve(settings, api_url, frozenset(tokens), listeners, say))
    return 0


def check_reach(settings: AvatarSettings) -> None:
    """Raise `NotConfigured` if other machines could reach a bridge that has no token of theirs."""
    if settings.bridge.token is None and not is_loopback(settings.bridge.host):
        raise NotConfigured(
            f"The bridge would listen on {settings.bridge.host} without a token to ask for. Nothing was started.",
            hint="Set AVATAR_BRIDGE__TOKEN to what the store sends, or AVATAR_BRIDGE__HOST to 127.0.0.1.",
        )


def _for_the_store(stack: ExitStack, port: int | None, own_port: int, say: Say) -> list[socket.socket]:
    """Also listen where the embedded store sends its events, if it is not where we are anyway."""
    if port in {None, own_port}:
        return []
    try:
        return [stack.enter_context(listen("bridge", "127.0.0.1", port or 0))]
    except AvatarError as error:
        say(f"{error} Uploads are found by the sweep only, until the embedded store is started anew.")
        return []


async def _serve(
    settings: AvatarSettings,
    api_url: str,
    tokens: frozenset[str],
    listeners: list[socket.socket],
    say: Say,
) -> None:
    workspace = Workspace(settings)
    outbox = Outbox(StateDirectory(settings.state_dir).outbox)
    uploads = Uploads(Inbox(workspace))
    settling = Settling(outbox, uploads, api_url, settings.inbox.settle_seconds, say)
    app = build_app(Bridge(workspace, outbox, tokens, settling.notice))
    try:
        async with asyncio.TaskGroup() as group:
            work = group.create_task(settling.run())
            await Server(app).serve(sockets=listeners)
            work.cancel()
    finally:
        outbox.close()
        await workspace.aclose()

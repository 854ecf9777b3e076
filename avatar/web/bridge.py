"""The bridge: bucket notifications and webhooks come in; nothing goes out but to the store and to Prefect."""

import asyncio
import socket
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
from avatar.local.state import StateDirectory, local_url
from avatar.settings import AvatarSettings
from avatar.web.notifications import UploadEvents, Uploads, Written, from_filer, from_s3, uploads_in
from avatar.web.server import (
    HEALTH,
    BodyLimit,
    Server,
    check_token,
    health,
    is_loopback,
    listen,
    read_body,
)
from avatar.web.webhooks import webhook_routes
from avatar.workspace import Workspace


@dataclass
class Bridge:
    """What the requests share.

    Attributes:
        tokens: any of them is accepted.
        note: called with the names of uploads that changed.
    """

    workspace: Workspace
    tokens: frozenset[str]
    note: Callable[[set[str]], None]

    async def s3(self, request: Request) -> Response:
        return await self._take(request, from_s3)

    async def filer(self, request: Request) -> Response:
        return await self._take(request, from_filer)

    async def _take(self, request: Request, read: Callable[[bytes], list[Written]]) -> Response:
        """Answer 204 to whatever can be read: whoever sent it may forget it, since the sweep looks by itself."""
        check_token(request, self.tokens)
        settings = self.workspace.settings
        written = read(await read_body(request))
        if changed := uploads_in(written, settings.store.bucket, settings.inbox.prefix):
            self.note(changed)
        return Response(status_code=HTTPStatus.NO_CONTENT)


def build_app(bridge: Bridge) -> Starlette:
    """The application. What `bridge` holds stays the caller's to close."""
    return Starlette(
        routes=[
            Route("/events/s3", bridge.s3, methods=["POST"]),
            Route("/events/seaweedfs", bridge.filer, methods=["POST"]),
            Route(HEALTH, health),
            *webhook_routes(bridge.workspace),
        ],
        middleware=[Middleware(BodyLimit, bridge.workspace.settings.bridge.max_body_bytes)],
        exception_handlers={InvalidInput: _bad_request},
    )


async def _bad_request(_: Request, error: Exception) -> Response:
    return PlainTextResponse(f"{error}\n", HTTPStatus.BAD_REQUEST)


Say = Callable[[str], None]


def serve(settings: AvatarSettings, api_url: str, *, say: Say) -> int:
    """Serve until SIGINT or SIGTERM; returns the exit code.

    Args:
        settings: with the store's address and keys.
        api_url: the Prefect API that is told, whether it answers now or not.
        say: called with where the bridge is, and with what goes wrong.

    Raises:
        NotConfigured: it would be open to other machines without a token that somebody chose.
        AvatarError: nothing can listen at the address that was asked for.
    """
    check_reach(settings)
    state = StateDirectory(settings.state_dir)
    tokens = {state.bridge_token()}
    if settings.bridge.token:
        tokens.add(settings.bridge.token.get_secret_value())
    with ExitStack() as stack:
        listeners = [stack.enter_context(listen("bridge", settings.bridge.host, settings.bridge.port))]
        own_port = listeners[0].getsockname()[1]
        listeners += _for_the_store(stack, state.bridge_port(settings.store.endpoint), own_port, say)
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
    events = UploadEvents(Uploads(Inbox(workspace)), api_url, settings.inbox.settle_seconds, say)
    app = build_app(Bridge(workspace, tokens, events.note))
    try:
        async with asyncio.TaskGroup() as group:
            work = group.create_task(events.run())
            await Server(app).serve(sockets=listeners)
            work.cancel()
    finally:
        await workspace.aclose()

"""The bridge: bucket notifications and webhooks come in; nothing goes out but to the store and to Prefect.

It also starts the flow runs that look after the others, when there is work for them, and sends events on to where
AVATAR_EVENTS__URLS says.

What a provider's webhook says is only a hint: the result is always fetched through the provider's API. An address that
was not made here is not found (404). fal's signature must hold as well (401); Pixazo documents none, so that the address
is all there is. 204 says that the hint is kept, or of no use; 503 asks for another delivery. The address is a secret: a
server of these routes logs no request lines.
"""

import asyncio
import logging
import socket
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from avatar.errors import AvatarError, InvalidInput, NotConfigured
from avatar.inbox.uploads import Inbox
from avatar.local.state_directory import StateDirectory, local_url
from avatar.money.entries import RenderState
from avatar.money.state import read_current
from avatar.money.webhooks import OPEN_ENDED, WebhookNote, WebhookTarget, keep_note, valid_request_id
from avatar.providers.answers import parse_object
from avatar.providers.fal_webhooks import FalSignatures, delivered_id
from avatar.settings import AvatarSettings
from avatar.stored_models import ProviderName
from avatar.web.bucket_notifications import (
    UploadEvents,
    WaitingUploads,
    WrittenObject,
    from_filer,
    from_s3,
    uploads_in,
)
from avatar.web.metrics import METRICS, Metrics
from avatar.web.outgoing_webhooks import Hooks, check_hooks
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
from avatar.web.start_due_runs import FlowRuns, OpenWork
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

    def __post_init__(self) -> None:
        self._metrics = Metrics(self.workspace)

    async def metrics(self, request: Request) -> Response:
        check_token(request, self.tokens)
        return await self._metrics.answer(request)

    async def s3(self, request: Request) -> Response:
        return await self._take(request, from_s3)

    async def filer(self, request: Request) -> Response:
        return await self._take(request, from_filer)

    async def _take(self, request: Request, read: Callable[[bytes], list[WrittenObject]]) -> Response:
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
            Route(METRICS, bridge.metrics),
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
    check_hooks(settings.events)
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
    events = UploadEvents(WaitingUploads(Inbox(workspace)), api_url, settings.inbox.settle_seconds, say)
    runs = FlowRuns(api_url, settings.recovery.stale_seconds)
    work = OpenWork(workspace, runs, say)
    hooks = [Hooks(workspace, api_url, say).run()] if settings.events.urls else []
    app = build_app(Bridge(workspace, tokens, events.note))
    try:
        async with asyncio.TaskGroup() as group:
            working = [group.create_task(running) for running in (events.run(), work.run(), *hooks)]
            await Server(app).serve(sockets=listeners)
            for each in working:
                each.cancel()
    finally:
        await workspace.aclose()


log = logging.getLogger("avatar.webhooks")

#: Seconds in which a webhook is answered: fal's first attempt ends after 15.
ANSWER_SECONDS = 12.0
#: Renders settled at a time.
ABREAST = 4
#: Seconds after which a provider may try again.
RETRY_SECONDS = "30"
#: Names under which Pixazo's siblings put the id of a request; its webhook's body is not documented.
_PIXAZO_IDS = ("request_id", "requestId", "id", "prediction_id")


def webhook_routes(workspace: Workspace) -> list[Route]:
    """The routes; `BodyLimit` in front of them limits what is read. `workspace` stays the caller's to close."""
    hooks = Webhooks(workspace)
    return [Route("/webhooks/{provider}/{render_id}/{attempt}/{mac}", hooks.take, methods=["POST"])]


class Webhooks:
    """What the deliveries share."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self._signatures = FalSignatures(str(workspace.settings.bridge.jwks_url))
        self._opening = asyncio.Lock()
        self._turns = asyncio.Semaphore(ABREAST)
        self._settling: dict[str, asyncio.Task[None]] = {}

    async def take(self, request: Request) -> Response:
        """Answer one delivery."""
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return Response(status_code=await self._take(request))
        except AvatarError as error:
            return _later(str(error))
        except TimeoutError:
            return _later(f"It took longer than {ANSWER_SECONDS:.0f} s.")

    async def _take(self, request: Request) -> HTTPStatus:
        asked = await self._asked(request)
        if asked is None:
            return HTTPStatus.NOT_FOUND
        body = await read_body(request)
        if asked.provider is ProviderName.FAL and not await self._signatures.accepts(request.headers, body):
            return HTTPStatus.UNAUTHORIZED
        note = WebhookNote(
            render_id=asked.render_id,
            attempt=asked.attempt,
            provider=asked.provider,
            request_id=valid_request_id(_named(asked.provider, body)),
            received_at=datetime.now(UTC),
        )
        record = await keep_note(self.workspace.store, self.workspace.journal, note)
        if record is not None and record.state in OPEN_ENDED | {RenderState.INTENT}:
            self._settle_soon(note.render_id)
        return HTTPStatus.NO_CONTENT

    async def _asked(self, request: Request) -> WebhookTarget | None:
        """What the address stands for. Where no webhooks are asked for, there are no addresses."""
        if self.workspace.settings.bridge.public_url is None:
            return None
        async with self._opening:  # one look for the secret at a time, however much comes in
            addresses = await self.workspace.webhook_addresses()
        return addresses.verified(**request.path_params)

    def _settle_soon(self, render_id: str) -> None:
        """Settle the render after the answer: the provider's API may be slow, and `reconcile` would do it too."""
        if render_id not in self._settling:
            task = asyncio.create_task(self._settle(render_id))
            self._settling[render_id] = task
            task.add_done_callback(lambda _: self._settling.pop(render_id, None))

    async def _settle(self, render_id: str) -> None:
        async with self._turns:
            try:
                await read_current(self.workspace, render_id)
            except AvatarError as error:
                log.warning("Render %s is left to `reconcile`: %s", render_id, error)


def _later(why: str) -> Response:
    log.warning("A webhook could not be taken, and may come again: %s", why)
    return Response(status_code=HTTPStatus.SERVICE_UNAVAILABLE, headers={"retry-after": RETRY_SECONDS})


def _named(provider: ProviderName, body: bytes) -> Any:
    """The request id that a delivery names, as it stands there."""
    if provider is ProviderName.FAL:
        return delivered_id(body)
    data = parse_object(body) or {}
    return next((data[name] for name in _PIXAZO_IDS if isinstance(data.get(name), str)), None)

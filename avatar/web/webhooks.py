"""Webhooks of providers. What they say is only a hint: the result is always fetched through the provider's API.

An address that was not made here is not found (404). fal's signature must hold as well (401); Pixazo documents none,
so that the address is all there is. 204 says that the hint is kept, or of no use; 503 asks for another delivery.
The address is a secret: a server of these routes logs no request lines.
"""

import asyncio
import logging
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from avatar.errors import AvatarError
from avatar.models import ProviderName
from avatar.money.journal import RenderState
from avatar.money.state import current
from avatar.money.webhooks import OPEN_ENDED, Asked, Hint, keep_hint, plain_id
from avatar.providers.answers import parse_object
from avatar.providers.fal_webhooks import FalSignatures, delivered_id
from avatar.web.server import read_body
from avatar.workspace import Workspace

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
        hint = Hint(
            render_id=asked.render_id,
            attempt=asked.attempt,
            provider=asked.provider,
            request_id=plain_id(_named(asked.provider, body)),
            received_at=datetime.now(UTC),
        )
        record = await keep_hint(self.workspace.store, self.workspace.journal, hint)
        if record is not None and record.state in OPEN_ENDED | {RenderState.INTENT}:
            self._settle_soon(hint.render_id)
        return HTTPStatus.NO_CONTENT

    async def _asked(self, request: Request) -> Asked | None:
        """What the address stands for. Where no webhooks are asked for, there are no addresses."""
        if self.workspace.settings.bridge.public_url is None:
            return None
        async with self._opening:  # one look for the secret at a time, however much comes in
            callbacks = await self.workspace.callbacks()
        return callbacks.verified(**request.path_params)

    def _settle_soon(self, render_id: str) -> None:
        """Settle the render after the answer: the provider's API may be slow, and `reconcile` would do it too."""
        if render_id not in self._settling:
            task = asyncio.create_task(self._settle(render_id))
            self._settling[render_id] = task
            task.add_done_callback(lambda _: self._settling.pop(render_id, None))

    async def _settle(self, render_id: str) -> None:
        async with self._turns:
            try:
                await current(self.workspace, render_id)
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

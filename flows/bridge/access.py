"""Who may send notifications, and how much of one is read."""

import asyncio
import secrets
from collections.abc import Collection
from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

#: Seconds in which a body has to arrive.
PATIENCE = 30.0
_TOO_LARGE = HTTPStatus.REQUEST_ENTITY_TOO_LARGE


class BodyLimit:
    """Refuses (413) a body that is longer than `most` bytes, before more of it is read, announced or not."""

    def __init__(self, app: ASGIApp, most: int) -> None:
        self.app, self.most = app, most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        read = 0

        async def receive_within_limit() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self.most:
                raise HTTPException(_TOO_LARGE, self._told)
            return message

        announced = Headers(scope=scope).get("content-length", "") if scope["type"] == "http" else ""
        if announced.isdecimal() and int(announced) > self.most:
            await PlainTextResponse(self._told, _TOO_LARGE)(scope, receive, send)
        else:
            await self.app(scope, receive_within_limit, send)

    @property
    def _told(self) -> str:
        return f"More than {self.most} bytes are not read (AVATAR_BRIDGE__MAX_BODY_BYTES).\n"


def check_token(request: Request, tokens: Collection[str]) -> None:
    """Raise 401 unless the request carries one of `tokens` as a bearer token; compared in constant time."""
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    known = [secrets.compare_digest(given.strip().encode(), token.encode()) for token in tokens]
    if scheme.lower() != "bearer" or not any(known):
        challenge = {"www-authenticate": "Bearer"}
        raise HTTPException(HTTPStatus.UNAUTHORIZED, "The shared token is needed.\n", challenge)


async def read_body(request: Request) -> bytes:
    """The whole body. Raises 408 if it does not arrive in time, and 413 where `BodyLimit` says so."""
    try:
        async with asyncio.timeout(PATIENCE):
            return await request.body()
    except TimeoutError:
        raise HTTPException(HTTPStatus.REQUEST_TIMEOUT, "The body did not arrive.\n") from None

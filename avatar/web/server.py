"""What the gallery and the bridge share: a socket, uvicorn until SIGINT or SIGTERM, what is read and sent.

Plain ASGI where bodies stream through.
"""

import asyncio
import ipaddress
import secrets
import signal
import socket
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from http import HTTPStatus

import uvicorn
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from avatar.errors import AvatarError
from avatar.local import prefect_client

#: Seconds that requests under way get when a server is told to end.
GRACE_SECONDS = 2
_ENDING = (signal.SIGINT, signal.SIGTERM)


class Server(uvicorn.Server):
    """Uvicorn that ends by returning: by itself it would raise the signal again, and skip what is to be closed."""

    def __init__(self, app: ASGIApp) -> None:
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            ws="none",
            lifespan="on",
            timeout_graceful_shutdown=GRACE_SECONDS,
        )
        super().__init__(config)
        self._ending = asyncio.Event()

    async def main_loop(self) -> None:
        """Set the date of answers once a second; uvicorn's own loop looks ten times whether it is to end."""
        while not await self.on_tick(0):
            with suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await self._ending.wait()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in _ENDING:
            loop.add_signal_handler(number, self._told_to_end, number)
        try:
            yield
        finally:
            for number in _ENDING:
                loop.remove_signal_handler(number)

    def _told_to_end(self, number: int) -> None:
        prefect_client.lose_patience()  # threads that ask Prefect are waited for
        self.handle_exit(number, None)
        self._ending.set()


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens on `host`."""
    return host == "localhost" or (is_address(host) and ipaddress.ip_address(host).is_loopback)


def is_address(name: str) -> bool:
    """Whether a host is named by its number."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


#: Asked by `avatar up` and by load balancers; it tells nothing.
HEALTH = "/health"


async def health(_: Request) -> Response:
    return PlainTextResponse("ok\n", headers={"cache-control": "no-store"})


def listen(who: str, host: str, port: int) -> socket.socket:
    """A listening socket for the gallery or the bridge. Raises `AvatarError` if it cannot be had."""
    try:
        family, *_, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[
            0
        ]
        return socket.create_server(where[:2], family=family, backlog=128)
    except OSError as error:
        raise AvatarError(
            f"The {who} cannot listen on {host} port {port}: {error.strerror or error}.",
            hint=f"Choose another with --port (0 takes any free one) or AVATAR_{who.upper()}__PORT.",
        ) from error


# What is read of a request.
#: Seconds in which a body has to arrive.
BODY_SECONDS = 30.0
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
                raise HTTPException(_TOO_LARGE, self._text)
            return message

        announced = Headers(scope=scope).get("content-length", "") if scope["type"] == "http" else ""
        if announced.isdecimal() and int(announced) > self.most:
            await PlainTextResponse(self._text, _TOO_LARGE)(scope, receive, send)
        else:
            await self.app(scope, receive_within_limit, send)

    @property
    def _text(self) -> str:
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
        async with asyncio.timeout(BODY_SECONDS):
            return await request.body()
    except TimeoutError:
        raise HTTPException(HTTPStatus.REQUEST_TIMEOUT, "The body did not arrive.\n") from None


#: What a browser may do with a page: nothing from elsewhere, no script but the gallery's own file, in nobody's frame.
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; img-src 'self'; media-src 'self'; style-src 'self'; script-src 'self'; form-action 'self'; connect-src 'self'; "
        "base-uri 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}


class SecurityHeaders:
    """Adds `HEADERS` to every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        await self.app(scope, receive, send_with_headers)

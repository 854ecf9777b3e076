"""What the gallery and the bridge share: a socket, uvicorn until SIGINT or SIGTERM, who is let in, what is read.

Plain ASGI where bodies stream through.
"""

import asyncio
import base64
import binascii
import hashlib
import ipaddress
import re
import secrets
import signal
import socket
import time
from collections import deque
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from urllib.parse import urlsplit

import uvicorn
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from avatar.errors import AvatarError
from avatar.settings import GallerySettings

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

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in _ENDING:
            loop.add_signal_handler(number, self.handle_exit, number, None)
        try:
            yield
        finally:
            for number in _ENDING:
                loop.remove_signal_handler(number)


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


class AccessControl:
    """Asks for the password if there is one; if there is none, lets in whoever came by one of our own names."""

    def __init__(self, app: ASGIApp, settings: GallerySettings) -> None:
        self.app, self.settings = app, settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = None
        if scope["type"] == "http" and scope["path"] != HEALTH:
            refusal = self._refusal(Headers(scope=scope))
        await (refusal or self.app)(scope, receive, send)

    def _refusal(self, headers: Headers) -> Response | None:
        if self.settings.password is not None:
            return None if knows_password(headers.get("authorization", ""), self.settings) else _ask()
        # Otherwise any web site could have its own name point at 127.0.0.1, and read us through a visitor's browser.
        return None if is_own_name(headers.get("host", ""), self.settings) else _unknown_host()


def knows_password(authorization: str, settings: GallerySettings) -> bool:
    """Whether a Basic `Authorization` header has user and password right; compared in constant time."""
    scheme, _, token = authorization.partition(" ")
    try:
        given = base64.b64decode(token.strip(), validate=True) if scheme.lower() == "basic" else b""
    except (binascii.Error, ValueError):
        given = b""
    password = settings.password.get_secret_value() if settings.password else ""
    return secrets.compare_digest(given, f"{settings.user}:{password}".encode())


def is_own_name(host: str, settings: GallerySettings) -> bool:
    """Whether a `Host` header is an address, localhost, or a name we are known by."""
    try:
        name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return False
    public = settings.public_url.host if settings.public_url else None
    return is_address(name) or name in {"localhost", settings.host, public, socket.gethostname().lower()}


def _ask() -> Response:
    challenge = {"www-authenticate": 'Basic realm="avatar gallery", charset="UTF-8"'}
    return PlainTextResponse(
        "A user name and a password are needed.\n", HTTPStatus.UNAUTHORIZED, headers=challenge
    )


def _unknown_host() -> Response:
    return PlainTextResponse(
        "The gallery is not known by this name. Set AVATAR_GALLERY__PUBLIC_URL to its address, or a password.\n",
        HTTPStatus.MISDIRECTED_REQUEST,
    )


# Who may change something, from which page.
COOKIE = "avatar_session"
_SESSION = re.compile(r"[A-Za-z0-9_-]{43}")


class Visitors:
    """Ties a page's forms to the browser that was shown it.

    The session is a random cookie that no page and no script can read; a form carries a digest of it. Whoever cannot
    read our pages knows neither, and their requests also name another origin.
    """

    def __init__(self, settings: GallerySettings) -> None:
        self.public_url = settings.public_url

    def token(self, request: Request) -> str:
        """What forms of a page carry."""
        return _digest_of(self._session(request))

    def remember(self, request: Request, response: Response) -> Response:
        """Set the session's cookie, if the browser has none."""
        if request.cookies.get(COOKIE) != self._session(request):
            secure = bool(self.public_url and self.public_url.scheme == "https")
            response.set_cookie(
                COOKIE, self._session(request), httponly=True, samesite="lax", secure=secure, path="/"
            )
        return response

    def check(self, request: Request, token: str) -> None:
        """Raise 403 unless a request comes from a page that this browser was shown here."""
        known = request.cookies.get(COOKIE, "")
        same = secrets.compare_digest(_digest_of(known).encode(), token.encode("utf-8", "replace"))
        if not _SESSION.fullmatch(known) or not same or not self._is_own_origin(request):
            raise HTTPException(
                HTTPStatus.FORBIDDEN,
                "This did not come from a page of the gallery. Load the page again; nothing was done.",
            )

    def _is_own_origin(self, request: Request) -> bool:
        if request.headers.get("sec-fetch-site", "same-origin") != "same-origin":
            return False
        try:
            origin = urlsplit(request.headers.get("origin", "")).netloc
        except ValueError:
            return False
        public = urlsplit(str(self.public_url)).netloc if self.public_url else ""
        return bool(origin) and origin in {request.headers.get("host"), public}

    @staticmethod
    def _session(request: Request) -> str:
        known = request.cookies.get(COOKIE, "")
        if _SESSION.fullmatch(known):
            return known
        if not hasattr(request.state, "session"):
            request.state.session = secrets.token_urlsafe(32)
        return str(request.state.session)


def _digest_of(session: str) -> str:
    return hashlib.sha256(f"form of {session}".encode()).hexdigest()


class Rate:
    """So many a minute. Raises 429 beyond."""

    def __init__(self, most: int) -> None:
        self.most, self._spent = most, deque[float]()

    def spend(self) -> None:
        now = time.monotonic()
        while self._spent and now - self._spent[0] > 60:  # noqa: PLR2004 - a minute
            self._spent.popleft()
        if len(self._spent) >= self.most:
            raise HTTPException(
                HTTPStatus.TOO_MANY_REQUESTS,
                "Too many at once. Try again in a minute.",
                {"retry-after": "60"},
            )
        self._spent.append(now)

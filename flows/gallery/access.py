"""Who may look, and what every answer says to the browser. Plain ASGI, so that bodies stream through."""

import base64
import binascii
import secrets
import socket
from http import HTTPStatus
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flows.serving import is_address
from tasks.settings import GallerySettings

#: Told to every browser: nothing from elsewhere, no script at all, in nobody's frame.
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; img-src 'self'; media-src 'self'; style-src 'self'; form-action 'self'; "
        "base-uri 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}
#: Asked by `avatar up` and by load balancers; it tells nothing.
HEALTH = "/health"


class BrowserRules:
    """Adds `HEADERS` to every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_rules(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        await self.app(scope, receive, send_with_rules)


class Door:
    """Asks for the password if there is one; if there is none, lets in whoever came by one of our own names."""

    def __init__(self, app: ASGIApp, settings: GallerySettings) -> None:
        self.app, self.settings = app, settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = None
        if scope["type"] == "http" and scope["path"] != HEALTH:
            answer = self._turned_away(Headers(scope=scope))
        await (answer or self.app)(scope, receive, send)

    def _turned_away(self, headers: Headers) -> Response | None:
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

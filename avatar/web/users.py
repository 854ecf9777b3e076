"""Who is let in, what they may do, and from which page: users and roles, the session behind a form, rates."""

import asyncio
import base64
import binascii
import hashlib
import ipaddress
import re
import secrets
import socket
import time
from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from avatar.errors import NotConfigured
from avatar.settings_sections import GallerySettings
from avatar.web.server import HEALTH, is_address


class Role(IntEnum):
    """What a person may do. Each may do what those before may."""

    LOOK = 0  #: see everything
    MAKE = 1  #: bring files, see prices, start what is free, name, accept
    SPEND = 2  #: start what is paid, approve, settle


@dataclass(frozen=True)
class User:
    role: Role
    password: str  #: as `hash_password` writes it; empty for those who only come through the proxy


# The file of users: `name:role:password` in each line.
_SCRYPT = {"n": 2**14, "r": 8, "p": 1}


def hash_password(password: str) -> str:
    salt = secrets.token_bytes(16)
    return f"{salt.hex()}${hashlib.scrypt(password.encode(), salt=salt, **_SCRYPT).hex()}"


def is_password(given: str, kept: str) -> bool:
    """Whether it is the one that was kept; compared in constant time."""
    salt, _, digest = kept.partition("$")
    made = hashlib.scrypt(given.encode(), salt=bytes.fromhex(salt), **_SCRYPT).hex()
    return secrets.compare_digest(made, digest)


_USER = re.compile(r"([^:\s]{1,100}):(look|make|spend):((?:[0-9a-f]{32}\$[0-9a-f]{128})?)")


def read_users(path: Path) -> dict[str, User]:
    """The users of a file, by name. Raises `NotConfigured` if it cannot be read: nobody is let in by half of it."""
    try:
        lines = path.expanduser().read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise NotConfigured(
            f"The file of users {path} cannot be read: {error}.", hint="See AVATAR_GALLERY__USERS."
        ) from None
    users = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        found = _USER.fullmatch(line.strip())
        if found is None:
            raise NotConfigured(
                f"Line {number} of the file of users {path} is not `name:role:password`.",
                hint="`avatar gallery --add-user NAME:ROLE` writes such a line; roles are look, make and spend.",
            )
        users[found[1]] = User(Role[found[2].upper()], found[3])
    return users


def add_user(path: Path, name: str, role: str, password: str) -> None:
    """Write a user into the file, over one of the same name. Raises `NotConfigured` for what is no name or role."""
    line = f"{name}:{role}:{hash_password(password) if password else ''}"
    if not _USER.fullmatch(line):
        raise NotConfigured(
            f"{name}:{role} is no user: a name without spaces or colons, then look, make or spend."
        )
    path = path.expanduser()
    kept = path.read_text("utf-8").splitlines() if path.exists() else []
    kept = [each for each in kept if not each.startswith(f"{name}:")]
    path.touch(mode=0o600)
    path.write_text("\n".join([*kept, line]) + "\n", "utf-8")


class Users:
    """The users of the settings: those of the file, read again when it changes, and the one with the password."""

    def __init__(self, settings: GallerySettings) -> None:
        self.settings = settings
        self._read: dict[str, User] = {}
        self._changed = 0.0
        self._known: OrderedDict[str, Role] = OrderedDict()
        self._wrong = RateLimit(30)

    def all(self) -> Mapping[str, User]:
        if self.settings.users is None:
            return {}
        path = Path(self.settings.users).expanduser()
        changed = path.stat().st_mtime_ns if path.exists() else -1.0
        if changed != self._changed:
            self._read = read_users(path)
            self._changed = changed
            self._known.clear()
        return self._read

    async def sign_in(self, authorization: str) -> Role | None:
        """The role of who sends a Basic `Authorization` header; None for a wrong one. Raises 429."""
        users = self.all()
        key = hashlib.sha256(authorization.encode("utf-8", "replace")).hexdigest()
        if key in self._known:
            return self._known[key]
        name, password = _name_and_password(authorization)
        role = await self._check(users, name, password)
        if role is None:
            if authorization:
                self._wrong.spend()
            return None
        self._known[key] = role
        if len(self._known) > 1000:  # noqa: PLR2004
            self._known.popitem(last=False)
        return role

    async def _check(self, users: Mapping[str, User], name: str, password: str) -> Role | None:
        if self.settings.password is not None:
            one = f"{self.settings.user}:{self.settings.password.get_secret_value()}".encode()
            if secrets.compare_digest(f"{name}:{password}".encode(), one):
                return Role.SPEND
        user = users.get(name)
        if user is None or not user.password:
            return None
        return user.role if await asyncio.to_thread(is_password, password, user.password) else None


def _name_and_password(authorization: str) -> tuple[str, str]:
    scheme, _, token = authorization.partition(" ")
    try:
        given = base64.b64decode(token.strip(), validate=True) if scheme.lower() == "basic" else b""
        name, _, password = given.decode().partition(":")
    except (binascii.Error, ValueError):
        return "", ""
    return name, password


class AccessControl:
    """Lets in whom the settings name, with their role; if they name nobody, whoever came by one of our own names."""

    def __init__(self, app: ASGIApp, settings: GallerySettings) -> None:
        self.app, self.settings, self.users = app, settings, Users(settings)
        self.proxies = [ipaddress.ip_network(each.strip()) for each in settings.proxies.split(",") if each]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] == HEALTH:
            await self.app(scope, receive, send)
            return
        try:
            found = await self._role(Headers(scope=scope), (scope.get("client") or ("", 0))[0])
        except (HTTPException, NotConfigured) as error:
            found = _closed(error)
        if isinstance(found, Role):
            scope.setdefault("state", {})["role"] = found
            await self.app(scope, receive, send)
        else:
            await found(scope, receive, send)

    async def _role(self, headers: Headers, peer: str) -> Role | Response:
        given = headers.getlist(self.settings.proxy_header) if self.settings.proxy_header else []
        # Two of them: one came from outside, past a proxy that adds its own.
        if len(given) == 1 and given[0] and self._is_proxy(peer):
            user = self.users.all().get(given[0])
            return user.role if user else Role.LOOK
        if has_users(self.settings):
            role = await self.users.sign_in(headers.get("authorization", ""))
            return _ask() if role is None else role
        # Otherwise any web site could have its own name point at 127.0.0.1, and read us through a visitor's browser.
        return Role.SPEND if is_own_name(headers.get("host", ""), self.settings) else _unknown_host()

    def _is_proxy(self, peer: str) -> bool:
        return is_address(peer) and any(ipaddress.ip_address(peer) in network for network in self.proxies)


def has_users(settings: GallerySettings) -> bool:
    """Whether people have to say who they are."""
    return bool(settings.password or settings.users or settings.proxy_header)


def role_of(request: Request) -> Role:
    return Role(request.scope.get("state", {}).get("role", Role.LOOK))


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


def _closed(error: HTTPException | NotConfigured) -> Response:
    if isinstance(error, HTTPException):
        return PlainTextResponse(f"{error.detail}\n", error.status_code, headers=dict(error.headers or {}))
    return PlainTextResponse(
        "The file of users cannot be read; nobody is let in.\n", HTTPStatus.SERVICE_UNAVAILABLE
    )


def _unknown_host() -> Response:
    return PlainTextResponse(
        "The gallery is not known by this name. Set AVATAR_GALLERY__PUBLIC_URL to its address, or a password.\n",
        HTTPStatus.MISDIRECTED_REQUEST,
    )


# Who may change something, from which page.
COOKIE = "avatar_session"
_SESSION = re.compile(r"[A-Za-z0-9_-]{43}")


class FormTokens:
    """Ties a page's forms to the browser that was shown it.

    The session is a random cookie that no page and no script can read; a form carries a digest of it. Whoever cannot
    read our pages knows neither, and their requests also name another origin.
    """

    def __init__(self, settings: GallerySettings) -> None:
        self.public_url = settings.public_url

    def token(self, request: Request) -> str:
        """What forms of a page carry; nothing for those who only look."""
        return _digest_of(self._session(request)) if role_of(request) >= Role.MAKE else ""

    def remember(self, request: Request, response: Response) -> Response:
        """Set the session's cookie, if the browser has none."""
        if request.cookies.get(COOKIE) != self._session(request):
            secure = bool(self.public_url and self.public_url.scheme == "https")
            response.set_cookie(
                COOKIE, self._session(request), httponly=True, samesite="lax", secure=secure, path="/"
            )
        return response

    def check(self, request: Request, token: str) -> None:
        """Raise 403 unless a request comes from a page that this browser was shown here, by one who may do things."""
        known = request.cookies.get(COOKIE, "")
        same = secrets.compare_digest(_digest_of(known).encode(), token.encode("utf-8", "replace"))
        if not _SESSION.fullmatch(known) or not same or not self._is_own_origin(request):
            raise HTTPException(
                HTTPStatus.FORBIDDEN,
                "This did not come from a page of the gallery. Load the page again; nothing was done.",
            )
        require(request, Role.MAKE)

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


def require(request: Request, role: Role) -> None:
    """Raise 403 unless the visitor may do as much."""
    if role_of(request) < role:
        what = "spend money" if role is Role.SPEND else "change anything"
        raise HTTPException(
            HTTPStatus.FORBIDDEN, f"You may not {what} here. Ask someone who may; nothing was done."
        )


@dataclass
class RateLimit:
    """So many a minute. Raises 429 beyond."""

    most: int
    _spent: deque[float] = field(default_factory=deque)

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

"""The gallery as a server, until SIGINT or SIGTERM."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, Response
from starlette.routing import Route

from avatar.errors import AvatarError, InvalidInput, ObjectNotFound, StoreUnavailable
from avatar.local.state import local_url
from avatar.models import Render
from avatar.money.journal import Journal
from avatar.settings import AvatarSettings, GallerySettings
from avatar.web.catalogue import Catalogue, Wanted, read_video, shelve
from avatar.web.media import serve_media
from avatar.web.pages import Links, Pages, Story
from avatar.web.server import HEALTH, AccessControl, SecurityHeaders, Server, health, is_loopback, listen
from avatar.workspace import Workspace

# The gallery as an ASGI application: GET and HEAD, nothing else.
STATIC = Path(__file__).with_name("static")
STATIC_FILES = ("style.css", "icon.svg")
#: Pages are asked for anew each time; the browser may show an old one only on the way back.
PAGE_HEADERS = {"cache-control": "private, no-cache"}
RETRY_SECONDS = 5


@dataclass
class Gallery:
    """What the requests share."""

    workspace: Workspace
    pages: Pages = field(default_factory=Pages)

    def __post_init__(self) -> None:
        self.catalogue = Catalogue(self.workspace.store)

    async def index(self, request: Request) -> Response:
        shelf = shelve(await self.catalogue.cards(), Wanted.of(request.query_params))
        return _page(self.pages.index(shelf, links_from(request)))

    async def player(self, request: Request) -> Response:
        """Straight from the manifest: a video plays here the moment it is published."""
        video = await read_video(self.workspace.store, request.path_params["job_id"])
        stories = await tell_stories(self.workspace.journal, video.renders)
        return _page(self.pages.player(video, stories, links_from(request)))

    async def media(self, request: Request) -> Response:
        return await serve_media(self.workspace.store, request)

    async def fault(self, request: Request, error: Exception) -> Response:
        """An error as a page that says what happened."""
        status, title, told = explain(error)
        html = self.pages.fault(title, told, links_from(request))
        retry = {"retry-after": str(RETRY_SECONDS)} if status == HTTPStatus.SERVICE_UNAVAILABLE else {}
        allow = getattr(error, "headers", None) or {}
        return HTMLResponse(html, status, headers={**allow, **retry, "cache-control": "no-store"})


def build_app(workspace: Workspace) -> Starlette:
    """The site over the store and journal of `workspace`, which stays the caller's to close."""
    gallery = Gallery(workspace)
    return Starlette(
        routes=_routes(gallery),
        middleware=[Middleware(SecurityHeaders), Middleware(AccessControl, workspace.settings.gallery)],
        exception_handlers={AvatarError: gallery.fault, HTTPException: gallery.fault},
        lifespan=partial(_lifespan, gallery),
    )


@asynccontextmanager
async def _lifespan(gallery: Gallery, _: Starlette) -> AsyncIterator[None]:
    gallery.catalogue.begin()
    yield
    await gallery.catalogue.aclose()


def _routes(gallery: Gallery) -> list[Route]:
    routes = [
        Route("/", gallery.index),
        Route("/videos/{job_id}", gallery.player),
        Route("/media/{key:path}", gallery.media),
        Route(HEALTH, health),
    ]
    return routes + [Route(f"/static/{name}", _file(STATIC / name)) for name in STATIC_FILES]


def _file(path: Path) -> Callable[[Request], Awaitable[Response]]:
    async def serve(_: Request) -> Response:
        return FileResponse(path, headers={"cache-control": "public, max-age=300"})

    return serve


async def tell_stories(journal: Journal, renders: tuple[Render, ...]) -> list[Story]:
    """Each render with its journal; one that cannot be read says so, and hides nothing else."""
    return list(await asyncio.gather(*(_tell(journal, render) for render in renders)))


async def _tell(journal: Journal, render: Render) -> Story:
    try:
        return Story(render, await journal.history(render.render_id))
    except (StoreUnavailable, ObjectNotFound, InvalidInput) as error:
        return Story(render, fault=error.message)


def links_from(request: Request) -> Links:
    """Links of a page, by how deep its address is."""
    return Links(root="../" * (request.url.path.count("/") - 1))


def explain(error: Exception) -> tuple[int, str, AvatarError]:
    """Status, title and text of the page that stands for an error."""
    if isinstance(error, ObjectNotFound):
        hint = "It may still be rendering (`avatar status`), or the address is mistyped."
        return HTTPStatus.NOT_FOUND, "Not here", AvatarError("There is no such video or file.", hint=hint)
    if isinstance(error, HTTPException):
        if error.status_code == HTTPStatus.NOT_FOUND:
            return error.status_code, "Not here", AvatarError("There is no such page.")
        return error.status_code, "Not possible", AvatarError(error.detail)
    if isinstance(error, InvalidInput):
        return HTTPStatus.NOT_FOUND, "Not to be shown", error
    status, title = HTTPStatus.SERVICE_UNAVAILABLE, "The store does not answer"
    return status, title, error if isinstance(error, AvatarError) else AvatarError(str(error))


def _page(html: str) -> Response:
    return HTMLResponse(html, headers=PAGE_HEADERS)


def serve(settings: AvatarSettings, *, say: Callable[[str], None]) -> int:
    """Serve until SIGINT or SIGTERM; returns the exit code.

    Raises:
        AvatarError: nothing can listen at the address that was asked for.
    """
    with listen("gallery", settings.gallery.host, settings.gallery.port) as listener:
        warn(settings.gallery, say)
        say(f"Gallery {local_url(settings.gallery.host, listener.getsockname()[1])}")
        asyncio.run(_serve(settings, listener))
    return 0


async def _serve(settings: AvatarSettings, listener: socket.socket) -> None:
    workspace = Workspace(settings)
    try:
        await Server(build_app(workspace)).serve(sockets=[listener])
    finally:
        await workspace.aclose()


def warn(settings: GallerySettings, say: Callable[[str], None]) -> None:
    if settings.password is None and not is_loopback(settings.host):
        say(
            f"WARNING: the gallery listens on {settings.host} without a password: whoever reaches this machine sees "
            "every video, portrait and voice. Set AVATAR_GALLERY__PASSWORD."
        )

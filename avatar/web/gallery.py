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

from avatar.errors import AvatarError, InvalidInput, NotConfigured, ObjectNotFound, StoreUnavailable
from avatar.job.index import in_turns, read_video, rebuild
from avatar.local.prefect_api import PrefectAccess
from avatar.local.state import local_url
from avatar.models import AvatarJob, Render, Video, job_id
from avatar.money.journal import Journal, is_indexed
from avatar.settings import AvatarSettings, GallerySettings
from avatar.store.store import Store
from avatar.web.catalogue import Catalogue, Query
from avatar.web.desk import Desk
from avatar.web.media import serve_media
from avatar.web.pages import History, Links, Pages
from avatar.web.server import (
    HEALTH,
    AccessControl,
    SecurityHeaders,
    Server,
    Visitors,
    health,
    is_loopback,
    listen,
)
from avatar.workspace import Workspace

# The gallery as an ASGI application: GET and HEAD, nothing else.
STATIC = Path(__file__).with_name("static")
STATIC_FILES = ("style.css", "icon.svg", "gallery.js")
#: Pages are asked for anew each time; the browser may show an old one only on the way back.
PAGE_HEADERS = {"cache-control": "private, no-cache"}
RETRY_SECONDS = 5
#: Takes that are looked for on either side of the one that is shown.
TAKES = 4


@dataclass
class Gallery:
    """What the requests share."""

    workspace: Workspace
    pages: Pages = field(default_factory=Pages)
    #: What people may do here besides looking; None for a gallery that only reads.
    desk: Desk | None = None
    #: What is said of the index while it is not complete.
    indexing: str = ""

    def __post_init__(self) -> None:
        self.catalogue = Catalogue(self.workspace.store)

    async def index(self, request: Request) -> Response:
        page = await self.catalogue.page(Query.of(request.query_params))
        html = self.pages.index(page, links_from(request), indexing=self.indexing, **self._visitor(request))
        return self._page(request, html)

    def _visitor(self, request: Request) -> dict[str, str]:
        return {"visitor": self.desk.visitors.token(request)} if self.desk else {}

    def _page(self, request: Request, html: str) -> Response:
        response = HTMLResponse(html, headers=PAGE_HEADERS)
        return self.desk.visitors.remember(request, response) if self.desk else response

    async def player(self, request: Request) -> Response:
        """Straight from the manifest: a video plays here the moment it is published."""
        video = await read_video(self.workspace.store, request.path_params["job_id"])
        histories = await read_histories(self.workspace.journal, video.renders)
        takes = await find_takes(self.workspace.store, video)
        facts = self._visitor(request) | (self.desk.player_facts(video, takes) if self.desk else {})
        html = self.pages.player(video, histories, links_from(request), takes=takes, **facts)
        return self._page(request, html)

    async def media(self, request: Request) -> Response:
        return await serve_media(self.workspace.store, request)

    async def complete_index(self) -> None:
        """Index what was stored before there was an index, once for a store. Pages are there meanwhile."""
        try:
            if not await is_indexed(self.workspace.store):
                self.indexing = "Older videos are still being added to this list."
                await rebuild(self.workspace.store, self.workspace.journal)
                self.indexing = ""
        except AvatarError as error:
            self.indexing = f"Older videos are missing here until `avatar repair` has run: {error.message}"

    async def fault(self, request: Request, error: Exception) -> Response:
        """An error as a page that says what happened."""
        status, title, told = explain(error)
        if isinstance(error, InvalidInput) and not request.url.path.startswith(("/videos/", "/media/")):
            status, title = HTTPStatus.BAD_REQUEST, "Not possible"
        html = self.pages.fault(title, told, links_from(request))
        retry = {"retry-after": str(RETRY_SECONDS)} if status == HTTPStatus.SERVICE_UNAVAILABLE else {}
        allow = getattr(error, "headers", None) or {}
        return HTMLResponse(html, status, headers={**allow, **retry, "cache-control": "no-store"})


def build_app(workspace: Workspace) -> Starlette:
    """The site over the store and journal of `workspace`, which stays the caller's to close."""
    gallery = Gallery(workspace)
    if workspace.settings.gallery.desk:
        api_url = (PrefectAccess().api_url or "").rstrip("/")
        visitors = Visitors(workspace.settings.gallery)
        gallery.desk = Desk(workspace, gallery.pages, gallery.catalogue, api_url, visitors)
    return Starlette(
        routes=_routes(gallery),
        middleware=[Middleware(SecurityHeaders), Middleware(AccessControl, workspace.settings.gallery)],
        exception_handlers={AvatarError: gallery.fault, HTTPException: gallery.fault},
        lifespan=partial(_lifespan, gallery),
    )


@asynccontextmanager
async def _lifespan(gallery: Gallery, _: Starlette) -> AsyncIterator[None]:
    work = asyncio.create_task(gallery.complete_index())
    yield
    work.cancel()
    await asyncio.wait({work})


def _routes(gallery: Gallery) -> list[Route]:
    routes = [
        Route("/", gallery.index),
        Route("/videos/{job_id}", gallery.player),
        Route("/media/{key:path}", gallery.media),
        Route(HEALTH, health),
    ]
    routes += gallery.desk.routes() if gallery.desk else []
    return routes + [Route(f"/static/{name}", _file(STATIC / name)) for name in STATIC_FILES]


def _file(path: Path) -> Callable[[Request], Awaitable[Response]]:
    async def serve(_: Request) -> Response:
        return FileResponse(path, headers={"cache-control": "public, max-age=300"})

    return serve


async def read_histories(journal: Journal, renders: tuple[Render, ...]) -> list[History]:
    """Each render with its journal; one that cannot be read says so, and hides nothing else."""
    return list(await asyncio.gather(*(_read_history(journal, render) for render in renders)))


async def _read_history(journal: Journal, render: Render) -> History:
    try:
        return History(render, await journal.history(render.render_id))
    except (StoreUnavailable, ObjectNotFound, InvalidInput) as error:
        return History(render, fault=error.message)


async def find_takes(store: Store, video: Video) -> list[tuple[int, str]]:
    """Takes of the same job that have a video: this one, those before it and the next few."""
    numbers = range(max(0, video.take - TAKES), video.take + TAKES + 1)
    ids = [(number, take_id(video, number)) for number in numbers]
    there = await in_turns(lambda each: store.exists(f"videos/{each[1]}/manifest.json"), ids)
    return [pair for pair, stat in zip(ids, there, strict=True) if stat is not None or pair[0] == video.take]


def take_id(video: Video, take: int) -> str:
    """The job that another take of a video is."""
    job = AvatarJob(portrait="-", voice="-", prompt=video.prompt, continuity=video.continuity, take=take)
    shas = {"portrait_sha256": video.portrait.source.sha256, "voice_sha256": video.voice.source.sha256}
    return video.job_id if take == video.take else job_id(job, model=video.model, **shas)


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


def serve(settings: AvatarSettings, *, say: Callable[[str], None]) -> int:
    """Serve until SIGINT or SIGTERM; returns the exit code.

    Raises:
        NotConfigured: others could start jobs without a password.
        AvatarError: nothing can listen at the address that was asked for.
    """
    check_desk(settings.gallery)
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


def check_desk(settings: GallerySettings) -> None:
    """Raise `NotConfigured` if others could start jobs without a password."""
    if settings.desk and settings.password is None and not is_loopback(settings.host):
        raise NotConfigured(
            f"The gallery would listen on {settings.host}, and whoever reaches it could start jobs. Nothing was started.",
            hint="Set AVATAR_GALLERY__PASSWORD, or AVATAR_GALLERY__HOST to 127.0.0.1, or AVATAR_GALLERY__DESK to false.",
        )


def warn(settings: GallerySettings, say: Callable[[str], None]) -> None:
    if settings.password is None and not is_loopback(settings.host):
        say(
            f"WARNING: the gallery listens on {settings.host} without a password: whoever reaches this machine sees "
            "every video, portrait and voice. Set AVATAR_GALLERY__PASSWORD."
        )

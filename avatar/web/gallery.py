"""The gallery as a server, until SIGINT or SIGTERM."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, Response
from starlette.routing import Route

from avatar.batch.manifest import batch_prefix
from avatar.errors import AvatarError, InvalidInput, NotConfigured, ObjectNotFound, StoreUnavailable
from avatar.job.index import read_video, rebuild, title_of
from avatar.job.month_index import bundle_months
from avatar.local.prefect_client import PrefectAccess
from avatar.local.state_directory import local_url
from avatar.models import PREVIEW, AvatarJob, Video, job_id
from avatar.money.journal import Journal, is_indexed
from avatar.settings import AvatarSettings
from avatar.settings_sections import GallerySettings
from avatar.store.store import Store
from avatar.stored_models import Render
from avatar.waiting import in_turns
from avatar.web.actions import Actions
from avatar.web.batches import list_batches, read_batch_rows
from avatar.web.media import send_object, serve_media
from avatar.web.metrics import METRICS, Metrics
from avatar.web.pages import History, Links, Pages
from avatar.web.runs import Runs
from avatar.web.server import HEALTH, SecurityHeaders, Server, health, is_loopback, listen
from avatar.web.users import AccessControl, FormTokens, Role, has_users, role_of
from avatar.web.video_list import Query, VideoList
from avatar.workspace import Workspace

log = logging.getLogger("avatar.gallery")

# The gallery as an ASGI application: GET and HEAD, nothing else.
STATIC = Path(__file__).with_name("static")
STATIC_FILES = ("style.css", "icon.svg", "gallery.js")
#: Pages are asked for anew each time; the browser may show an old one only on the way back.
PAGE_HEADERS = {"cache-control": "private, no-cache"}
RETRY_SECONDS = 5
#: Between two times that the index is bundled.
BUNDLED_SECONDS = 60
#: Takes that are looked for on either side of the one that is shown.
TAKES = 4


@dataclass
class Gallery:
    """What the requests share."""

    workspace: Workspace
    pages: Pages = field(default_factory=Pages)
    #: What people may do here besides looking; None for a gallery that only reads.
    actions: Actions | None = None
    #: What is said of the index while it is not complete.
    indexing: str = ""

    def __post_init__(self) -> None:
        self.catalogue = VideoList(self.workspace.store)

    async def index(self, request: Request) -> Response:
        page = await self.catalogue.page(Query.of(request.query_params))
        html = self.pages.index(page, links_from(request), indexing=self.indexing, **self._visitor(request))
        return self._page(request, html)

    def _visitor(self, request: Request) -> dict[str, Any]:
        """What a page's forms carry, and whether they may cost money; nothing for those who only look."""
        if self.actions is None:
            return {}
        return {
            "visitor": self.actions.visitors.token(request),
            "may_spend": role_of(request) >= Role.SPEND,
        }

    def _page(self, request: Request, html: str) -> Response:
        response = HTMLResponse(html, headers=PAGE_HEADERS)
        return self.actions.visitors.remember(request, response) if self.actions else response

    async def player(self, request: Request) -> Response:
        """Straight from the manifest: a video plays here the moment it is published."""
        video = await read_video(self.workspace.store, request.path_params["job_id"])
        histories = await read_histories(self.workspace.journal, video.renders)
        takes = await find_takes(self.workspace.store, video)
        facts = self._visitor(request)
        facts |= self.actions.player_facts(request, video, takes) if self.actions else {}
        preview = await find_preview(self.workspace.store, video)
        links = links_from(request)
        html = self.pages.player(video, histories, links, takes=takes, preview=preview, **facts)
        return self._page(request, html)

    async def compare(self, request: Request) -> Response:
        """Two videos side by side: takes of a job, or its preview beside the paid one."""
        pair = [await read_video(self.workspace.store, request.path_params[name]) for name in ("one", "two")]
        facts = {"pair": pair, "title_of": title_of, "links": links_from(request)} | self._visitor(request)
        return self._page(request, self.pages.render("compare.html", **facts))

    async def batches(self, request: Request) -> Response:
        """All batches, those that changed last first."""
        number = max(1, _number(request))
        batches, more = await list_batches(self.workspace, number)
        facts = {"batches": batches, "number": number, "more": more, "links": links_from(request)}
        return self._page(request, self.pages.render("batches.html", **facts, **self._visitor(request)))

    async def batch(self, request: Request) -> Response:
        """The rows of a batch as cards, a hundred to a page."""
        cards = await read_batch_rows(self.workspace, request.path_params["id"], _number(request) - 1)
        facts = {"batch": cards, "links": links_from(request)} | self._visitor(request)
        return self._page(request, self.pages.render("batch.html", **facts))

    async def report(self, request: Request) -> Response:
        """The report of a batch as a table for spreadsheets."""
        batch_id = request.path_params["id"]
        stat = await self.workspace.store.stat(f"{batch_prefix(batch_id)}report.csv")
        name = f"{(await read_batch_rows(self.workspace, batch_id, 0)).name}.csv"
        return send_object(self.workspace.store, request, stat, download=name)

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

    async def keep_bundled(self) -> None:
        """Bundle the index whenever a search found it far behind, so that the next one is answered at once."""
        while True:
            await self.catalogue.behind.wait()
            try:
                await bundle_months(self.workspace.store)
            except AvatarError as error:
                log.warning("The index could not be bundled, and searches stay slow: %s", error.message)
            await asyncio.sleep(BUNDLED_SECONDS)
            self.catalogue.behind.clear()

    async def fault(self, request: Request, error: Exception) -> Response:
        """An error as a page that says what happened."""
        status, title, told = explain(error)
        shown = request.method == "GET" and request.url.path.startswith(("/videos/", "/media/"))
        if isinstance(error, InvalidInput) and not shown:
            status, title = HTTPStatus.BAD_REQUEST, "Not possible"
        places = {"visitor": "yes"} if self.actions else {}
        html = self.pages.fault(title, told, links_from(request), **places)
        retry = {"retry-after": str(RETRY_SECONDS)} if status == HTTPStatus.SERVICE_UNAVAILABLE else {}
        allow = getattr(error, "headers", None) or {}
        return HTMLResponse(html, status, headers={**allow, **retry, "cache-control": "no-store"})


def build_app(workspace: Workspace) -> Starlette:
    """The site over the store and journal of `workspace`, which stays the caller's to close."""
    gallery = Gallery(workspace)
    if workspace.settings.gallery.desk:
        runs = Runs((PrefectAccess().api_url or "").rstrip("/"))
        visitors = FormTokens(workspace.settings.gallery)
        gallery.actions = Actions(workspace, gallery.pages, gallery.catalogue, runs, visitors)
    return Starlette(
        routes=_routes(gallery),
        middleware=[Middleware(SecurityHeaders), Middleware(AccessControl, workspace.settings.gallery)],
        exception_handlers={AvatarError: gallery.fault, HTTPException: gallery.fault},
        lifespan=partial(_lifespan, gallery),
    )


@asynccontextmanager
async def _lifespan(gallery: Gallery, _: Starlette) -> AsyncIterator[None]:
    work = {asyncio.create_task(gallery.complete_index()), asyncio.create_task(gallery.keep_bundled())}
    yield
    for each in work:
        each.cancel()
    await asyncio.wait(work)
    if gallery.actions:
        await gallery.actions.offers.aclose()


def _routes(gallery: Gallery) -> list[Route]:
    routes = [
        Route("/", gallery.index),
        Route("/videos/{job_id}", gallery.player),
        Route("/media/{key:path}", gallery.media),
        Route("/compare/{one}/{two}", gallery.compare),
        Route("/batches", gallery.batches),
        Route("/batches/{id}", gallery.batch),
        Route("/batches/{id}/report.csv", gallery.report),
        Route(HEALTH, health),
        Route(METRICS, Metrics(gallery.workspace).answer),
    ]
    routes += gallery.actions.routes() if gallery.actions else []
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


def take_id(video: Video, take: int, model: str = "") -> str:
    """The job that another take of a video is, or the same with another model."""
    job = AvatarJob(portrait="-", voice="-", prompt=video.prompt, continuity=video.continuity, take=take)
    shas = {"portrait_sha256": video.portrait.source.sha256, "voice_sha256": video.voice.source.sha256}
    same = take == video.take and not model
    return video.job_id if same else job_id(job, model=model or video.model, **shas)


async def find_preview(store: Store, video: Video) -> str:
    """The job that is the free preview of a video, if it has one; empty if not."""
    if video.model == PREVIEW:
        return ""
    preview = take_id(video, video.take, model=PREVIEW)
    return preview if await store.exists(f"videos/{preview}/manifest.json") else ""


def _number(request: Request) -> int:
    """The page that is asked for, from 1; 0 for what is none."""
    number = request.query_params.get("page", "1")
    return int(number) if number.isdecimal() and len(number) < 6 else 0  # noqa: PLR2004


def links_from(request: Request) -> Links:
    """Links of a page, by how deep its address is."""
    return Links(root="../" * (request.url.path.count("/") - 1))


def explain(error: Exception) -> tuple[int, str, AvatarError]:
    """Status, title and text of the page that stands for an error."""
    if isinstance(error, ObjectNotFound):
        hint = "It may still be rendering, may have been deleted by a rule, or its address is mistyped."
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
    check_actions(settings.gallery)
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


def check_actions(settings: GallerySettings) -> None:
    """Raise `NotConfigured` if others could start jobs without a password."""
    if settings.desk and not has_users(settings) and not is_loopback(settings.host):
        raise NotConfigured(
            f"The gallery would listen on {settings.host}, and whoever reaches it could start jobs. Nothing was started.",
            hint="Set AVATAR_GALLERY__PASSWORD or AVATAR_GALLERY__USERS, or AVATAR_GALLERY__HOST to 127.0.0.1, or AVATAR_GALLERY__DESK to false.",
        )


def warn(settings: GallerySettings, say: Callable[[str], None]) -> None:
    if not has_users(settings) and not is_loopback(settings.host):
        say(
            f"WARNING: the gallery listens on {settings.host} without a password: whoever reaches this machine sees "
            "every video, portrait and voice. Set AVATAR_GALLERY__PASSWORD."
        )

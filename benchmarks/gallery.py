"""The gallery with 2,000 videos: how long a page takes, first and later."""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from functools import partial

import httpx

from avatar.job.month_index import bundle_months
from avatar.web.gallery import build_app
from avatar.workspace import Workspace
from benchmarks.rows import Row, median, quantile
from benchmarks.stage import Stage
from tests.web.gallery.manifests import make_video, put_manifest

BENCH = "gallery"
VIDEOS, PAGES, WRITERS = 2000, 40, 16
#: As many objects beside each manifest as there are in life, so that the listing is as long.
BESIDE = ("video.mp4", "poster.jpg", "contact.jpg")


def measure(stage: Stage) -> list[Row]:
    settings = stage.services.applied_to(stage.settings)
    settings = settings.model_copy(
        update={"store": settings.store.model_copy(update={"bucket": "bench-gallery"})}
    )
    return asyncio.run(_measure(Workspace(settings)))


async def _measure(workspace: Workspace) -> list[Row]:
    await _fill(workspace)
    await bundle_months(workspace.store)
    app = build_app(workspace)
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client,
    ):
        first = await _timed(lambda: client.get("/"))
        pages = await _each(client, "/?page={}")
        searches = await _each(client, "/?q=hello+req-{}")
        players = await _each(client, "/videos/{:032x}")
    await workspace.aclose()
    return [
        _row("first page", (first,), "", median),
        _row("a page of 2,000 videos, p95", pages, "≤ 0.2 s", _p95),
        _row("a search in 2,000 videos, p95", searches, "≤ 0.2 s", _p95),
        _row("a player's page, p95", players, "≤ 0.2 s", _p95),
    ]


def _row(what: str, times: tuple[float, ...], goal: str, of: Callable[[tuple[float, ...]], float]) -> Row:
    return Row(BENCH, f"gallery: {what}", "s", of(times), None, goal, samples=times)


def _p95(times: tuple[float, ...]) -> float:
    return quantile(times, 0.95)


async def _each(client: httpx.AsyncClient, path: str) -> tuple[float, ...]:
    return tuple([await _timed(partial(client.get, path.format(number))) for number in range(1, PAGES)])


async def _timed(ask: Callable[[], Awaitable[object]]) -> float:
    began = time.monotonic()
    answer = await ask()
    took = time.monotonic() - began
    if isinstance(answer, httpx.Response):
        answer.raise_for_status()
    return took


async def _fill(workspace: Workspace) -> None:
    await workspace.store.ensure_bucket()
    gate = asyncio.Semaphore(WRITERS)

    async def write(number: int) -> None:
        async with gate:
            video = make_video(number)
            for name in BESIDE:
                await workspace.store.put(
                    f"videos/{video.job_id}/{name}", b"x", content_type="application/octet-stream"
                )
            await put_manifest(workspace.store, video)

    print(f"gallery: writing {VIDEOS} videos", file=sys.stderr, flush=True)
    await asyncio.gather(*map(write, range(1, VIDEOS + 1)))

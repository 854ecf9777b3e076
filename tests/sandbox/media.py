"""Finished videos, served as a CDN serves them: ranges, ETag, no key."""

from pathlib import Path

from aiohttp import web

from tests.sandbox.world import world_of


def add_routes(router: web.UrlDispatcher) -> None:
    router.add_get("/media/{media_id}.mp4", serve, name="media.media")


def video_of(request: web.Request) -> Path:
    """The video asked for; raises 404 for one that is not there."""
    job = world_of(request).studio.by_media.get(request.match_info["media_id"])
    if job is None or job.video is None:
        raise web.HTTPNotFound
    return job.video


async def serve(request: web.Request) -> web.StreamResponse:
    return web.FileResponse(video_of(request), headers={"Content-Type": "video/mp4"})

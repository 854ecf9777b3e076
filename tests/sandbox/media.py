"""Finished videos, served as a CDN serves them: ranges, ETag, no key."""

import re
from dataclasses import dataclass

from aiohttp import web

from tests.sandbox.jobs import digest
from tests.sandbox.world import world_of

RANGE = re.compile(r"bytes=(\d+)-(\d*)$")


def add_routes(router: web.UrlDispatcher) -> None:
    router.add_get("/media/{media_id}.mp4", serve, name="media.media")


@dataclass(frozen=True)
class Slice:
    """The part of a video that was asked for."""

    data: bytes
    status: int
    headers: dict[str, str]


def slice_of(request: web.Request, *, whole: bool = False, version: str = "") -> Slice:
    """What a request is owed: RFC 9110 ranges of the form `bytes=a-b` and `If-Range`. Raises 404 and 416."""
    job = world_of(request).studio.by_media.get(request.match_info["media_id"])
    if job is None or job.video is None:
        raise web.HTTPNotFound
    data = job.video.read_bytes() + version.encode()
    total, etag = len(data), f'"{digest(data)[:32]}"'
    headers = {"Content-Type": "video/mp4", "ETag": etag, "Accept-Ranges": "bytes"}
    asked = RANGE.match(request.headers.get("Range", ""))
    if whole or not asked or request.headers.get("If-Range", etag) != etag:
        return Slice(data, 200, headers | {"Content-Length": str(total)})
    first, last = int(asked[1]), min(int(asked[2] or total - 1), total - 1)
    if first > last:
        raise web.HTTPRequestRangeNotSatisfiable(headers={"Content-Range": f"bytes */{total}"})
    part = data[first : last + 1]
    return Slice(
        part,
        206,
        headers | {"Content-Length": str(len(part)), "Content-Range": f"bytes {first}-{last}/{total}"},
    )


async def serve(request: web.Request) -> web.StreamResponse:
    piece = slice_of(request)
    return web.Response(body=piece.data, status=piece.status, headers=piece.headers)

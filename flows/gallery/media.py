"""Media from the store, same-origin: what a browser plays, shows and downloads."""

from email.utils import format_datetime
from http import HTTPStatus

import anyio
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Send

from flows.gallery.ranges import Span, Unsatisfiable, not_modified, wanted_span
from tasks.errors import InvalidInput
from tasks.storage.objects import Stat, check_readable
from tasks.storage.store import Store

#: The rest of the bucket (journal, budget, results) is nobody's business here.
SERVED = ("videos/", "renders/", "assets/")
#: Types a browser may show by itself: none of them can run a script. Anything else is downloaded.
SHOWN = frozenset(
    {
        "video/mp4",
        "image/jpeg",
        "image/png",
        "image/gif",
        "image/webp",
        "audio/mpeg",
        "audio/wav",
        "audio/ogg",
        "audio/flac",
        "audio/mp4",
        "application/json",
    }
)
OPAQUE = "application/octet-stream"
#: Objects named by their content (seconds: a year), and those that are not (seconds).
FOR_EVER, SHORT = "private, max-age=31536000, immutable", "private, max-age=30"


class StoredBody(StreamingResponse):
    """Bytes of an object on their way; the connection to the store is given back however it ends."""

    async def stream_response(self, send: Send) -> None:
        try:
            await super().stream_response(send)
        finally:
            with anyio.CancelScope(shield=True):
                await self.body_iterator.aclose()  # type: ignore[attr-defined] # it is a generator


def served_key(key: str) -> str:
    """The key itself, if it may be shown; `InvalidInput` otherwise."""
    if not key.startswith(SERVED):
        raise InvalidInput("Only what lies under videos/, renders/ and assets/ is shown here.")
    return check_readable(key)


async def serve_media(store: Store, request: Request) -> Response:
    """GET or HEAD of one object, or of a range of it.

    Raises:
        InvalidInput, ObjectNotFound: there is nothing to be shown under that key.
        StoreUnavailable: the store failed; in the middle of a body, the connection is cut.
    """
    stat = await store.stat(served_key(request.path_params["key"]))
    headers = describe(stat, download="download" in request.query_params)
    if not_modified(request.headers, stat):
        kept = {name: headers[name] for name in ("etag", "cache-control", "last-modified")}
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=kept)
    if request.method == "HEAD":
        return Response(headers=headers | {"content-length": str(stat.size)})
    try:
        span = wanted_span(request.headers, stat)
    except Unsatisfiable:
        refused = {"content-range": f"bytes */{stat.size}", "accept-ranges": "bytes"}
        return Response(status_code=HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, headers=refused)
    return _body(store, stat, span, headers)


def _body(store: Store, stat: Stat, span: Span | None, headers: dict[str, str]) -> Response:
    # Never without a length: an object that grew since the look must not send more than was announced.
    sent = span or Span(0, stat.size)
    headers["content-length"] = str(sent.length)
    if span:
        headers["content-range"] = span.content_range(stat.size)
    status = HTTPStatus.PARTIAL_CONTENT if span else HTTPStatus.OK
    chunks = store.stream(stat.key, offset=sent.start, length=sent.length)
    return StoredBody(chunks, status_code=status, headers=headers)


def describe(stat: Stat, *, download: bool) -> dict[str, str]:
    """The headers of an object, whichever part of it is sent."""
    stated = stat.content_type.partition(";")[0].strip().lower()
    shown = stated in SHOWN
    way = "inline" if shown and not download else "attachment"
    return {
        "content-type": stated if shown else OPAQUE,
        "content-disposition": f'{way}; filename="{file_name(stat.key)}"',
        "etag": f'"{stat.etag}"',
        "last-modified": format_datetime(stat.modified, usegmt=True),
        "accept-ranges": "bytes",
        "cache-control": FOR_EVER if stat.key.startswith("assets/") else SHORT,
    }


def file_name(key: str) -> str:
    """What a download is called: `<job>.mp4` for the video of a job, `<job>-poster.jpg` for what is beside it."""
    _, owner, *rest = key.split("/")
    name = f"{owner}-{rest[-1]}" if rest else owner
    if name.endswith("-video.mp4"):
        name = name.removesuffix("-video.mp4") + ".mp4"
    return "".join(char if char.isascii() and (char.isalnum() or char in "._-") else "_" for char in name)

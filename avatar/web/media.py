"""Media from the store, same-origin: what a browser plays, shows and downloads."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import format_datetime
from http import HTTPStatus
from urllib.parse import quote

import anyio
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Send

from avatar.errors import InvalidInput
from avatar.store.objects import Stat, check_readable, parse_date
from avatar.store.store import Store

# Conditional and partial requests (RFC 9110 §13, §14): whether to send, and which bytes.
_RANGE = re.compile(r"bytes=[ \t]*(\d{0,18})[ \t]*-[ \t]*(\d{0,18})[ \t]*", re.ASCII | re.IGNORECASE)
_TAG = re.compile(r'(?:W/)?"([^"]*)"')


class Unsatisfiable(Exception):
    """The range asked for lies outside the object: 416."""


@dataclass(frozen=True)
class ByteRange:
    """Bytes of an object: `length` of them from `start`."""

    start: int
    length: int

    def content_range(self, size: int) -> str:
        return f"bytes {self.start}-{self.start + self.length - 1}/{size}"


def requested_range(headers: Mapping[str, str], stat: Stat) -> ByteRange | None:
    """The bytes a GET asks for; None for the whole: no Range, one not understood, several, or an outdated If-Range.

    Raises:
        Unsatisfiable: it is understood, and the object has no such byte.
    """
    asked = _RANGE.fullmatch(headers.get("range", "").strip())
    if asked is None or asked.groups() == ("", "") or not _still_valid(headers.get("if-range"), stat):
        return None
    first, last = asked.groups()
    if not first:
        length = min(int(last), stat.size)
        start = stat.size - length
    elif last and int(last) < int(first):
        return None  # not a range at all, so the header is to be ignored
    else:
        start = int(first)
        length = min(int(last or stat.size), stat.size - 1) - start + 1
    if length <= 0:
        raise Unsatisfiable
    return ByteRange(start, length)


def not_modified(headers: Mapping[str, str], stat: Stat) -> bool:
    """Whether what the browser has is still right. If-None-Match is decisive where it is given."""
    if (tags := headers.get("if-none-match")) is not None:
        return tags.strip() == "*" or stat.etag in _TAG.findall(tags)
    since = parse_date(headers.get("if-modified-since"))
    return since is not None and stat.modified <= since


def _still_valid(if_range: str | None, stat: Stat) -> bool:
    """A strong comparison: the very tag, or the very date."""
    if if_range is None:
        return True
    if '"' in if_range:
        return if_range.strip() == f'"{stat.etag}"'
    return parse_date(if_range) == stat.modified


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
        "text/vtt",
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
    return send_object(store, request, stat, download=request.query_params.get("download"))


def send_object(store: Store, request: Request, stat: Stat, *, download: str | None) -> Response:
    """What was asked for of an object: all, a range, its head, or that nothing has changed."""
    headers = describe(stat, download=download)
    if not_modified(request.headers, stat):
        kept = {name: headers[name] for name in ("etag", "cache-control", "last-modified")}
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=kept)
    if request.method == "HEAD":
        return Response(headers=headers | {"content-length": str(stat.size)})
    try:
        span = requested_range(request.headers, stat)
    except Unsatisfiable:
        refused = {"content-range": f"bytes */{stat.size}", "accept-ranges": "bytes"}
        return Response(status_code=HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, headers=refused)
    return _body(store, stat, span, headers)


def _body(store: Store, stat: Stat, span: ByteRange | None, headers: dict[str, str]) -> Response:
    # Never without a length: an object that grew since the look must not send more than was announced.
    sent = span or ByteRange(0, stat.size)
    headers["content-length"] = str(sent.length)
    if span:
        headers["content-range"] = span.content_range(stat.size)
    status = HTTPStatus.PARTIAL_CONTENT if span else HTTPStatus.OK
    chunks = store.stream(stat.key, offset=sent.start, length=sent.length)
    return StoredBody(chunks, status_code=status, headers=headers)


def describe(stat: Stat, *, download: str | None) -> dict[str, str]:
    """The headers of an object, whichever part of it is sent. `download`: the name to save it under; empty: its own."""
    stated = stat.content_type.partition(";")[0].strip().lower()
    shown = stated in SHOWN
    way = "inline" if shown and download is None else "attachment"
    return {
        "content-type": stated if shown else OPAQUE,
        "content-disposition": f"{way}; {as_parameters(download or file_name(stat.key))}",
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
    return _plain(name)


def as_parameters(name: str) -> str:
    """A file name in a Content-Disposition header (RFC 6266): in ASCII for all, as it is for those who can."""
    kept = "".join(char for char in name if char.isprintable() and char not in "/\\")[:120]
    exact = f"; filename*=UTF-8''{quote(kept, safe='')}" if kept != _plain(kept) else ""
    return f'filename="{_plain(kept) or "download"}"{exact}'


def _plain(name: str) -> str:
    return "".join(char if char.isascii() and (char.isalnum() or char in "._-") else "_" for char in name)

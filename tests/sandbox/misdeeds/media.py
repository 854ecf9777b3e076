"""A finished video that does not arrive as it should."""

import asyncio

from aiohttp import web

from tests.sandbox.call import Call, Misdeed
from tests.sandbox.media import Slice, slice_of
from tests.sandbox.transport import cut, reset

OTHER_CONTENT = {
    "text": b"This is not a video.\n" * 100,
    "zeros": bytes(4096),
    "png": b"\x89PNG\r\n\x1a\n" + bytes(2048),
    "empty": b"",
}


async def begin(call: Call, piece: Slice, **headers: str) -> web.StreamResponse:
    answer = web.StreamResponse(status=piece.status, headers=piece.headers | headers)
    await answer.prepare(call.request)
    return answer


async def cut_after(call: Call) -> web.StreamResponse:
    """Close (rst=true: reset) after=1000 bytes of the announced length; ranges are honoured."""
    piece = slice_of(call.request)
    answer = await begin(call, piece)
    await answer.write(piece.data[: call.args.get("after", 1000)])
    return reset(call.request, answer) if call.args.get("rst") else cut(call.request, answer)


async def truncated(call: Call) -> web.StreamResponse:
    """Only the first after=1000 bytes, with a Content-Length that says so: nothing looks wrong."""
    piece = slice_of(call.request)
    data = piece.data[: call.args.get("after", 1000)]
    answer = await begin(call, piece, **{"Content-Length": str(len(data))})
    await answer.write(data)
    return answer


async def slow(call: Call) -> web.StreamResponse:
    """At most bytes_per_second=20000."""
    piece, rate = slice_of(call.request), call.args.get("bytes_per_second", 20_000)
    answer = await begin(call, piece)
    step = max(1, rate // 10)
    for start in range(0, len(piece.data), step):
        await answer.write(piece.data[start : start + step])
        await asyncio.sleep(0.1)
    return answer


async def wrong_content(call: Call) -> web.StreamResponse:
    """200 and video/mp4, but the body is content=text, zeros, png or empty."""
    body = OTHER_CONTENT[call.args.get("content", "text")]
    return web.Response(body=body, content_type="video/mp4")


async def ignore_range(call: Call) -> web.StreamResponse:
    """200 and the whole file, whatever range was asked for."""
    piece = slice_of(call.request, whole=True)
    answer = await begin(call, piece)
    await answer.write(piece.data)
    return answer


async def wrong_range(call: Call) -> web.StreamResponse:
    """206, but from the start of the file, whatever range was asked for."""
    piece = slice_of(call.request, whole=True)
    total = len(piece.data)
    headers = piece.headers | {"Content-Range": f"bytes 0-{total - 1}/{total}"}
    return web.Response(body=piece.data, status=206, headers=headers)


async def changed(call: Call) -> web.StreamResponse:
    """Another file under the same URL: other bytes, other ETag; a range is honoured unless If-Range differs."""
    piece = slice_of(call.request, version="changed")
    answer = await begin(call, piece)
    await answer.write(piece.data)
    return answer


async def no_length(call: Call) -> web.StreamResponse:
    """Chunked, without a Content-Length or ETag; after=N closes in the middle."""
    piece = slice_of(call.request, whole=True)
    answer = web.StreamResponse(headers={"Content-Type": "video/mp4"})
    answer.enable_chunked_encoding()
    await answer.prepare(call.request)
    await answer.write(piece.data[: call.args.get("after", len(piece.data))])
    return cut(call.request, answer) if "after" in call.args else answer


DEEDS: dict[str, Misdeed] = {
    "cut": cut_after,
    "truncated": truncated,
    "slow": slow,
    "wrong_content": wrong_content,
    "ignore_range": ignore_range,
    "wrong_range": wrong_range,
    "changed": changed,
    "no_length": no_length,
}

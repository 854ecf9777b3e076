"""A status stream that cannot be relied on: armed on `stream`. (404: `unknown`.)"""

from aiohttp import web

from tests.sandbox.call import Call, Misdeed
from tests.sandbox.misdeeds.connection import pause
from tests.sandbox.transport import cut


async def opened(call: Call) -> web.StreamResponse:
    answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await answer.prepare(call.request)
    return answer


async def silent(call: Call) -> web.StreamResponse:
    """Headers, then nothing for seconds=120, then close."""
    answer = await opened(call)
    await pause(call, call.args.get("seconds", 120))
    return cut(call.request, answer)


async def drop_after(call: Call) -> web.StreamResponse:
    """Close after events=1 (clean=true: end it properly), the job still running."""
    call.request["events_left"] = call.args.get("events", 1)
    call.request["ends_cleanly"] = bool(call.args.get("clean"))
    return await call.honest()


async def garbage(call: Call) -> web.StreamResponse:
    """Events that are no JSON, no object, no status; then the end."""
    answer = await opened(call)
    for line in (
        b"data: {not json\n\n",
        b"event: noise\ndata: []\n\n",
        b'data: {"status": 7}\n\n',
        b"\xff\xfe\n\n",
    ):
        await answer.write(line)
    return answer


async def no_content_type(call: Call) -> web.StreamResponse:
    """Honest events under no Content-Type at all."""
    call.request["no_content_type"] = True
    return await call.honest()


async def strip_content_type(request: web.Request, answer: web.StreamResponse) -> None:
    """A response signal: the framework would fill in a type of its own."""
    if request.get("no_content_type"):
        answer.headers.popall("Content-Type", None)


DEEDS: dict[str, Misdeed] = {
    "silent": silent,
    "drop_after": drop_after,
    "garbage": garbage,
    "no_content_type": no_content_type,
}

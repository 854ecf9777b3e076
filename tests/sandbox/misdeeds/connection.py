"""The connection breaks, stalls or comes late."""

import asyncio
from contextlib import suppress

from aiohttp import web

from tests.sandbox.call import Call, Misdeed
from tests.sandbox.transport import cut, reset


async def drop(call: Call) -> web.StreamResponse:
    """Close without an answer; the request is accepted first unless accept=false."""
    if call.accept:
        await call.honest()
    return cut(call.request)


async def rst(call: Call) -> web.StreamResponse:
    """Reset the connection (RST) without an answer; the request is accepted first unless accept=false."""
    if call.accept:
        await call.honest()
    return reset(call.request)


async def half(call: Call) -> web.StreamResponse:
    """Accept, send the headers and half of the body, then close."""
    honest = await call.honest()
    body = bytes(getattr(honest, "body", b"") or b"")
    answer = web.StreamResponse(status=honest.status, headers={"Content-Type": honest.content_type})
    answer.content_length = len(body)
    await answer.prepare(call.request)
    await answer.write(body[: len(body) // 2])
    return cut(call.request, answer)


async def delay(call: Call) -> web.StreamResponse:
    """Accept at once, answer after seconds=5."""
    honest = await call.honest()
    await pause(call, call.args.get("seconds", 5))
    return honest


async def stall(call: Call) -> web.StreamResponse:
    """Look at the request only after seconds=5, then answer as usual."""
    await pause(call, call.args.get("seconds", 5))
    return await call.honest()


async def hang(call: Call) -> web.StreamResponse:
    """Read nothing of the body, answer nothing, for seconds=120, then close."""
    if call.request.transport is not None:
        call.request.transport.pause_reading()
    await pause(call, call.args.get("seconds", 120))
    return cut(call.request)


async def pause(call: Call, seconds: float) -> None:
    """Wait, but not beyond a reset of the sandbox."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await call.world.ended.wait()


DEEDS: dict[str, Misdeed] = {
    "drop": drop,
    "rst": rst,
    "half": half,
    "delay": delay,
    "stall": stall,
    "hang": hang,
}

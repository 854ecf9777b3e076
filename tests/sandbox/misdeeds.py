"""What can go wrong between a request and its answer: one small named function each."""

from aiohttp import web

from tests.sandbox.call import Call, Misdeed

MISDEEDS: dict[str, Misdeed] = {}


async def commit(call: Call) -> web.StreamResponse:
    return await MISDEEDS[call.behaviour.do](call)

"""The server: routes, the record of every request, and the two listening sockets."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
from aiohttp import web

from tests.sandbox import control, fal, fal_platform, fal_storage, media, pixazo
from tests.sandbox.behaviours import names_of
from tests.sandbox.call import Call, Handler
from tests.sandbox.jobs import Fate
from tests.sandbox.ledger import KEYED
from tests.sandbox.misdeeds import MISDEEDS
from tests.sandbox.misdeeds.stream import strip_content_type
from tests.sandbox.options import Options
from tests.sandbox.world import WORLD, World, world_of

LONG_LINE = 64 * 1024  # a request id may be 10 kB


@web.middleware
async def witness(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Record the request, then let it be answered honestly or not."""
    world, route = world_of(request), request.match_info.route.name or "unknown.unknown"
    names = names_of(route)
    if "control" in names:
        return await handler(request)
    foreign = arrived_at(request) != world.base_url.rpartition(":")[2]
    coarse = next((name for name in names if name in KEYED), route.split(".")[1])
    world.ledger.saw(request, coarse, foreign=foreign)
    try:
        return await answer(request, handler, names)
    except ConnectionResetError:  # the client left while it was answered: nobody to tell
        return web.Response()


async def answer(request: web.Request, handler: Handler, names: frozenset[str]) -> web.StreamResponse:
    """Honestly, or as the behaviour armed for it has it."""
    world = world_of(request)
    behaviour = world.armed.take(names, request)
    if behaviour is None:
        return await handler(request)
    world.ledger.misdeeds.append({"path": request.path, "on": behaviour.on, "do": behaviour.do})
    if "fate" in behaviour.args:
        request["fate"] = Fate.parse(behaviour.args["fate"])
    return await MISDEEDS[behaviour.do](Call(world, request, handler, behaviour))


def arrived_at(request: web.Request) -> str:
    """The port a request came in by, whatever host it names."""
    return str(request.transport.get_extra_info("sockname")[1]) if request.transport else ""


def build(world: World) -> web.Application:
    app = web.Application(middlewares=[witness], client_max_size=64 * 1024 * 1024)
    app[WORLD] = world
    app.on_response_prepare.append(strip_content_type)
    for wire in (fal, fal_storage, fal_platform, pixazo, media, control):
        wire.add_routes(app.router)
    return app


@asynccontextmanager
async def serving(options: Options) -> AsyncIterator[World]:
    """A listening sandbox, on one address of its own and on a foreign one."""
    world = World(options, aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=100)))
    runner = web.AppRunner(build(world), access_log=None, shutdown_timeout=0.5, max_line_size=LONG_LINE)
    await runner.setup()
    try:
        for port in (options.port, 0):
            await web.TCPSite(runner, "127.0.0.1", port).start()
        own, foreign = (address[1] for address in runner.addresses)
        world.base_url, world.foreign_url = f"http://127.0.0.1:{own}", f"http://localhost:{foreign}"
        yield world
    finally:
        await world.close()
        await runner.cleanup()


async def run(options: Options) -> None:
    """Serve until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)
    if options.leash:
        asyncio.get_running_loop().add_reader(sys.stdin.fileno(), stop.set)
    async with serving(options) as world:
        print(f"sandbox listening on {world.base_url}", flush=True)
        await stop.wait()

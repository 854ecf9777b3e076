"""The sandbox's own pages, for tests: what it saw, how to misbehave, and starting afresh."""

from functools import partial
from typing import Any

from aiohttp import web

from tests.sandbox import misdeeds
from tests.sandbox.behaviours import OPERATIONS, Behaviour
from tests.sandbox.jobs import Fate
from tests.sandbox.world import world_of


def add_routes(router: web.UrlDispatcher) -> None:
    router.add_get("/__sandbox__/state", state, name="control.state")
    router.add_get("/__sandbox__/behave", catalogue, name="control.catalogue")
    router.add_post("/__sandbox__/behave", behave, name="control.behave")
    router.add_post("/__sandbox__/reset", reset, name="control.reset")
    router.add_post("/__sandbox__/rotate", rotate, name="control.rotate")


async def state(request: web.Request) -> web.Response:
    return web.json_response(world_of(request).state(brief="brief" in request.query))


async def catalogue(request: web.Request) -> web.Response:
    """Every operation and misdeed by name, with what it does."""
    deeds = {name: deed.__doc__ for name, deed in misdeeds.MISDEEDS.items() if not isinstance(deed, partial)}
    deeds |= {
        name: str(deed.keywords) for name, deed in misdeeds.MISDEEDS.items() if isinstance(deed, partial)
    }
    return web.json_response({"on": OPERATIONS, "do": deeds})


async def behave(request: web.Request) -> web.Response:
    """Arm one behaviour or a list of them; a name that does not exist is a 400 that lists those that do."""
    orders = await request.json()
    try:
        behaviours = [parse(order) for order in (orders if isinstance(orders, list) else [orders])]
    except (TypeError, ValueError) as error:
        return web.json_response({"error": str(error)}, status=400)
    for behaviour in behaviours:
        world_of(request).armed.add(behaviour)
    return web.json_response({"armed": world_of(request).armed.remaining()})


def parse(order: dict[str, Any]) -> Behaviour:
    """A behaviour that can be carried out; raises `ValueError` or `TypeError` for one that cannot."""
    behaviour = Behaviour.parse(order)
    if behaviour.do not in misdeeds.MISDEEDS:
        raise ValueError(f"unknown do={behaviour.do!r}; one of {', '.join(sorted(misdeeds.MISDEEDS))}")
    Fate.parse(behaviour.args.get("fate", {}))
    return behaviour


async def rotate(request: web.Request) -> web.Response:
    """Sign webhooks with a new key."""
    world_of(request).herald.rotate()
    return web.json_response({})


async def reset(request: web.Request) -> web.Response:
    """Forget everything; options in the body replace those of the start."""
    try:
        await world_of(request).reset(await request.json() if request.can_read_body else {})
    except TypeError as error:
        return web.json_response({"error": str(error)}, status=400)
    return web.json_response({"options": world_of(request).options.__dict__})

"""One request on its way through the sandbox, as a misdeed sees it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from tests.sandbox.behaviours import Behaviour
from tests.sandbox.world import World

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class Call:
    world: World
    request: web.Request
    handler: Handler
    behaviour: Behaviour

    @property
    def args(self) -> dict[str, Any]:
        return self.behaviour.args

    async def honest(self) -> web.StreamResponse:
        """The answer the sandbox would have given; a refusal counts as an answer."""
        try:
            return await self.handler(self.request)
        except web.HTTPException as refusal:
            return web.Response(
                text=refusal.text, status=refusal.status, headers=refusal.headers, content_type=refusal.content_type
            )


Misdeed = Callable[[Call], Awaitable[web.StreamResponse]]

"""One request on its way through the sandbox, as a misdeed sees it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any

from aiohttp import web

from tests.sandbox.behaviours import Behaviour
from tests.sandbox.world import World

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
#: Operations whose honest answer is a stream of its own: nothing to accept before breaking off.
STREAMED = {"stream", "media", "uploaded"}


@dataclass(frozen=True)
class Call:
    world: World
    request: web.Request
    handler: Handler
    behaviour: Behaviour

    @property
    def args(self) -> dict[str, Any]:
        return self.behaviour.args

    @property
    def accept(self) -> bool:
        """Whether the request takes effect before the answer is spoilt."""
        return bool(self.args.get("accept", self.behaviour.on not in STREAMED))

    @property
    def is_pixazo(self) -> bool:
        return (self.request.match_info.route.name or "").startswith("pixazo.")

    def having(self, **args: Any) -> "Call":
        """The same call with more arguments."""
        return replace(self, behaviour=replace(self.behaviour, args=self.args | args))

    async def honest(self) -> web.StreamResponse:
        """The answer the sandbox would have given; a refusal counts as an answer."""
        try:
            return await self.handler(self.request)
        except web.HTTPException as refusal:
            return web.Response(text=refusal.text, status=refusal.status, content_type=refusal.content_type)


Misdeed = Callable[[Call], Awaitable[web.StreamResponse]]

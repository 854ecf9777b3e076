"""Prefect's server as `avatar up` runs it: what SQLite could not take for a moment, it asks again itself.

    python -m flows.api_server PORT

SQLite refuses a transaction that read before another one wrote, and takes it when it is begun anew. Prefect's server
answers 503 instead, and its clients come again after 2, 4, 8, 16 and 32 seconds, in which a run stands still.
"""

import asyncio
import random
import sys
from http import HTTPStatus

import uvicorn
from prefect.server.api.server import create_app
from prefect.settings import get_current_settings
from starlette.types import ASGIApp, Message, Receive, Scope, Send

#: Seconds between the times that a request is tried; each is varied by half, so that two do not meet again.
PAUSES = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2)


class AskAgain:
    """Carries a request out again where the application answers 503, as Prefect's clients do after such an answer."""

    def __init__(self, application: ASGIApp) -> None:
        self._application = application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        body = await _read(receive)
        for pause in PAUSES:
            if await self._answered(dict(scope), _replayed(body, receive), send):
                return
            await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311 - no secret
        await self._application(scope, _replayed(body, receive), send)

    async def _answered(self, scope: Scope, receive: Receive, send: Send) -> bool:
        """Whether the answer was sent; one of 503 is not."""
        refused = False

        async def pass_on(message: Message) -> None:
            nonlocal refused
            if message["type"] == "http.response.start":
                refused = message["status"] == HTTPStatus.SERVICE_UNAVAILABLE
            if not refused:
                await send(message)

        try:
            await self._application(scope, receive, pass_on)
        except Exception:  # Prefect's application raises what it has answered
            if not refused:
                raise
        return not refused


async def _read(receive: Receive) -> list[Message]:
    """The messages of a request's body."""
    messages = [await receive()]
    while messages[-1].get("more_body"):
        messages.append(await receive())
    return messages


def _replayed(body: list[Message], receive: Receive) -> Receive:
    messages = iter(body)

    async def next_message() -> Message:
        return next(messages, None) or await receive()

    return next_message


def main() -> None:
    settings = get_current_settings().server
    uvicorn.run(
        AskAgain(create_app(final=True)),
        host="127.0.0.1",
        port=int(sys.argv[1]),
        timeout_keep_alive=settings.api.keepalive_timeout,
        ws_ping_interval=settings.api.websocket_ping_interval,
        ws_ping_timeout=settings.api.websocket_ping_timeout,
        log_level=settings.logging_level.lower(),
    )


if __name__ == "__main__":
    main()

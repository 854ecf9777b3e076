"""The product's HTTP calls, carried to the scripted provider instead of a socket.

The seams are the three places where the product opens a connection: `Exchange.run` (every call of a provider's API),
`new_client`, and `get_public` (the download). Everything above them is the product's own.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Self

import httpx

from avatar.providers import download, fal, fal_platform, public_hosts, wire
from tests.simulation.disguise import Instead
from tests.simulation.loop import VirtualLoop
from tests.simulation.provider import Answer

if TYPE_CHECKING:
    from tests.simulation.world import World

#: The world whose schedule runs.
STAGE: "list[World]" = []


class _Client:
    """Stands for an `httpx.AsyncClient`. There is no status stream: the product asks instead."""

    def __init__(self, *_: int) -> None:
        pass

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

    @asynccontextmanager
    async def stream(self, *_: Any, **__: Any) -> AsyncIterator[httpx.Response]:
        yield httpx.Response(404, headers={"content-type": "application/json"})


class _Asked:
    method = b"POST"


async def _run(exchange: Any, _: Any, method: str, url: str, **request: Any) -> None:
    """`Exchange.run`: one call, with what the schedule has in store for it."""
    world = STAGE[0]
    paid = method == "POST" and "queue.fal.run" in url
    fault = world.submit_fault() if paid else world.call_fault()
    if paid and fault in {"not_sent", "throttled", "balance", "invalid"}:
        world.denied(request)
    if fault == "not_sent":
        raise httpx.ConnectError("refused")
    if fault == "slow_connect":
        await asyncio.sleep(world.random.uniform(1, 8))
    if fault == "asleep_connecting":
        world.sleep_now()
        await asyncio.sleep(1)
    await exchange._trace("connection.send_request_headers.started", {"request": _Asked})
    answer = await world.ask(method, url, request, fault, paid=paid)
    exchange.status, headers, body = answer
    exchange.headers = httpx.Headers(headers)
    exchange.body += body
    exchange.complete = True


class _Download:
    """An answer to the download's GET."""

    def __init__(self, answer: Answer, url: str) -> None:
        self.status_code, headers, self._body = answer
        self.headers = httpx.Headers(headers)
        self.request = httpx.Request("GET", url)

    async def aiter_raw(self) -> AsyncIterator[bytes]:
        yield self._body


@asynccontextmanager
async def _get_public(url: str, headers: dict[str, str], *, private: bool) -> AsyncIterator[_Download]:
    world = STAGE[0]
    if world.scenario.proxy:
        async with _REAL_GET(url, headers, private=private) as response:
            yield response
        return
    fault = world.call_fault()
    if fault in {"silence", "reset"}:
        raise httpx.ReadError("reset")
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    yield _Download(await loop.request(lambda: world.fal.fetch(url)), url)


class _Transport:
    """Stands for an `httpx.AsyncHTTPTransport` where nothing is reached but through a proxy."""

    def __init__(self, *, proxy: str | None, **_: Any) -> None:
        self._proxy = proxy

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if self._proxy is None:
            raise httpx.ConnectError("no route")
        status, headers, body = STAGE[0].fal.fetch(str(request.url))
        return httpx.Response(status, headers=headers, stream=httpx.ByteStream(body))


_REAL_GET = public_hosts.get_public


def connect() -> None:
    """Put the seams in place, once for the program."""
    own = wire.Wire.own  # parses two URLs, which is a tenth of all work here
    _replace(
        wire.Wire, "own", lambda wire, url: url if str(url).startswith(f"{wire.base}/") else own(wire, url)
    )
    _replace(wire.Exchange, "run", _run)
    for module in (wire, fal, fal_platform):
        _replace(module, "new_client", _Client)
    _replace(download, "get_public", _get_public)
    _replace(public_hosts, "httpx", Instead(httpx, AsyncHTTPTransport=_Transport))
    _replace(public_hosts, "tls", lambda: None)


def _replace(owner: Any, name: str, value: Any) -> None:
    """Put `value` in the place of what is there: a seam that has moved must not go unnoticed."""
    getattr(owner, name)
    setattr(owner, name, value)

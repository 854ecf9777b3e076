"""Servers of a few lines, for what happens to connections rather than to requests."""

import asyncio
import json
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

Act = Callable[["Visit"], Awaitable[None]]


@dataclass
class Visit:
    """One connection: what it asked, and the way back."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    head: str = ""
    body: bytes = b""

    @property
    def line(self) -> str:
        return self.head.partition("\r\n")[0]

    @property
    def headers(self) -> dict[str, str]:
        lines = [line.partition(": ") for line in self.head.split("\r\n")[1:] if line]
        return {name.lower(): value for name, _, value in lines}

    async def read(self) -> None:
        self.head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        self.body = await self.reader.readexactly(int(self.headers.get("content-length", "0")))

    async def say(self, data: bytes | str) -> None:
        self.writer.write(data if isinstance(data, bytes) else data.encode())
        await self.writer.drain()

    async def answer(
        self, status: int, body: object = "", content_type: str = "application/json", **headers: str
    ) -> None:
        data = (
            body
            if isinstance(body, bytes)
            else (body if isinstance(body, str) else json.dumps(body)).encode()
        )
        given = {"Content-Type": content_type, "Content-Length": str(len(data)), "Connection": "close"}
        named = given | {name.replace("_", "-"): value for name, value in headers.items()}
        lines = "".join(f"{name}: {value}\r\n" for name, value in named.items())
        await self.say(f"HTTP/1.1 {status} -\r\n{lines}\r\n".encode() + data)

    def reset(self) -> None:
        """Close with a TCP RST."""
        link = self.writer.get_extra_info("socket")
        link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


@dataclass
class Server:
    """A listening server and the visits it had."""

    url: str = ""
    port: int = 0
    visits: list[Visit] = field(default_factory=list)
    connections: int = 0

    def asked(self, method: str) -> list[Visit]:
        return [visit for visit in self.visits if visit.line.startswith(method + " ")]


@asynccontextmanager
async def serving(
    act: Act, *, read: bool = True, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1"
) -> AsyncIterator[Server]:
    """Serve `act` on every connection, after its request was read (unless not `read`), on a loopback address."""
    server = Server()
    tasks: set[asyncio.Task] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.current_task())
        server.connections += 1
        visit = Visit(reader, writer)
        with suppress(ConnectionError, asyncio.IncompleteReadError, ssl.SSLError, asyncio.CancelledError):
            if read:
                await visit.read()
                server.visits.append(visit)
            await act(visit)
        with suppress(ConnectionError, ssl.SSLError):
            writer.close()
            await writer.wait_closed()

    listening = await asyncio.start_server(connected, host, 0, ssl=tls)
    server.port = listening.sockets[0].getsockname()[1]
    server.url = f"{'https' if tls else 'http'}://{host}:{server.port}"
    try:
        yield server
    finally:
        listening.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await listening.wait_closed()


def by_path(answers: dict[str, tuple], default=(404, {"status": "NOT_FOUND"})):
    """Answers by the end of the path: status, body and headers."""

    async def act(visit: Visit) -> None:
        path = visit.line.split()[1].partition("?")[0]
        status, body, *headers = next(
            (answer for ending, answer in answers.items() if path.endswith(ending)), default
        )
        await visit.answer(status, body, **(headers[0] if headers else {}))

    return act


async def silence(visit: Visit) -> None:
    """Say nothing for as long as the client holds on."""
    await visit.reader.read()


def closed_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]

"""A gate between one victim and the store: it sees every request, and can spoil it or kill who sent it."""

import asyncio
import json
import re
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import unquote, urlsplit

LIMIT = 2**22
#: What delays a request and does nothing else to it.
HOLDING = frozenset({"slow", "meet"})
#: What an S3 server says with a status.
CODES = {403: "AccessDenied", 500: "InternalError", 503: "SlowDown", 507: "InsufficientStorage"}
#: Names of what is written, by key; the first that matches.
KINDS = (
    (r"assets/", "asset"),
    (r"results/", "result"),
    (r"jobs/", "plan"),
    (r"budget/.*\.open\.", "budget-open"),
    (r"budget/.*\.settled\.", "budget-settled"),
    (r"open/", "open"),
    (r"probe/", "probe"),
    (r"renders/", "render"),
    (r"videos/.*/video\.mp4", "video"),
    (r"videos/.*/poster\.jpg", "poster"),
    (r"videos/.*/manifest\.json", "manifest"),
)


@dataclass(frozen=True)
class Seen:
    """One request: `PUT journal-intent`, say."""

    method: str
    target: str
    head: bytes
    body: bytes
    at: float

    @property
    def what(self) -> str:
        return f"{self.method} {self.kind}"

    @property
    def skew(self) -> float | None:
        """Seconds by which the sender's clock is ahead, by the date it signed; None if it signed none here."""
        found = re.search(rb"(?i)x-amz-date[:=] ?(\d{8}T\d{6}Z)", self.head)
        if not found:
            return None
        signed = datetime.strptime(found[1].decode(), "%Y%m%dT%H%M%S%z")
        return signed.timestamp() - self.at

    @property
    def kind(self) -> str:
        key = unquote(urlsplit(self.target).path).lstrip("/").partition("/")[2]
        if key.startswith("journal/") and self.method == "PUT":
            return f"journal-{json.loads(self.body)['state']}"
        return next((kind for pattern, kind in KINDS if re.match(pattern, key)), "other")


@dataclass
class Rule:
    """What happens `on` a request (a regular expression over `Seen.what`), `times` times after `skip` of them.

    `do`: kill (before it is done), kill_done (after), call, call_done (nothing happens to the request itself), cut,
    cut_done, slow (by `seconds`), meet (until `times` of them wait, at most `seconds`), strip (loses If-None-Match),
    or a status (403, 500, 503, 507: not done) or 500_done. With `seconds`, the others spoil every request from then
    on for so long.
    """

    on: str
    do: str
    times: int = 1
    skip: int = 0
    seconds: float = 0.0
    hits: int = 0

    def takes(self, seen: Seen) -> bool:
        if not self.times or not re.fullmatch(self.on, seen.what):
            return False
        if self.skip:
            self.skip -= 1
            return False
        self.times -= 1
        self.hits += 1
        return True

    async def hold(self) -> None:
        """Keep a request waiting: for the others that this rule is for, or just so long."""
        deadline = time.monotonic() + self.seconds
        while (
            self.do in HOLDING and time.monotonic() < deadline and not (self.do == "meet" and not self.times)
        ):
            await asyncio.sleep(0.01)

    def wait(self, seconds: float = 30.0) -> None:
        """Until it has been applied."""
        deadline = time.monotonic() + seconds
        while not self.hits:
            if time.monotonic() > deadline:
                raise TimeoutError(f"nothing came by for {self.on}")
            time.sleep(0.01)


class Gate:
    """One listening port in front of the store. `kill` is called by the rules that kill."""

    def __init__(self, upstream: str) -> None:
        self.host, _, port = upstream.partition(":")
        self.port = int(port)
        self.rules: list[Rule] = []
        self.log: list[str] = []
        self.seen: list[Seen] = []
        self.kill: Callable[[], None] = lambda: None
        self.address = ""
        self._outage, self._until = "", 0.0

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=LIMIT)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def close(self) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            upstream = await asyncio.open_connection(self.host, self.port, limit=LIMIT)
        except OSError:
            writer.close()
            return
        try:
            while await self._relay(reader, writer, *upstream):
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            for end in (writer, upstream[1]):
                end.close()
                with suppress(ConnectionError):
                    await end.wait_closed()

    async def _relay(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
    ) -> bool:
        """One request and its answer; False when the connection is to be closed."""
        head = await reader.readuntil(b"\r\n\r\n")
        method, target, _ = head.split(b"\r\n", 1)[0].decode().split(" ")
        seen = Seen(method, target, head, await reader.readexactly(content_length(head)), time.time())
        do, rule = self._judge(seen)
        if do == "call":
            self.kill()
        if do in {"kill", "cut"}:
            return self._end(do)
        if do.isdigit():
            writer.write(refusal(int(do)))
            return True
        if rule is not None:
            await rule.hold()
        sink.write((strip(head) if do == "strip" else head) + seen.body)
        answer = await read_answer(source, method)
        if do == "call_done":
            self.kill()
        if do in {"kill_done", "cut_done"}:
            return self._end(do)
        writer.write(refusal(500) if do == "500_done" else answer)
        return b"connection: close" not in answer[:2000].lower()

    def calm(self) -> None:
        """End the trouble."""
        self._until = 0.0

    def _judge(self, seen: Seen) -> tuple[str, Rule | None]:
        self.log.append(seen.what)
        self.seen.append(seen)
        rule = next((rule for rule in self.rules if rule.takes(seen)), None)
        if rule is not None and rule.seconds and rule.do not in HOLDING:
            self._outage, self._until = rule.do, time.monotonic() + rule.seconds
        if rule is not None:
            return rule.do, rule
        # A full store can still be read.
        spared = self._outage == "507" and seen.method != "PUT"
        return (self._outage if time.monotonic() < self._until and not spared else ""), None

    def _end(self, do: str) -> bool:
        if do.startswith("kill"):
            self.kill()
        return False


def strip(head: bytes) -> bytes:
    """Without the header that makes a create conditional."""
    return re.sub(rb"(?i)\r\nif-none-match: [^\r]*", b"", head)


def content_length(head: bytes) -> int:
    found = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
    return int(found[1]) if found else 0


async def read_answer(reader: asyncio.StreamReader, method: str) -> bytes:
    """The answer as it is on the wire."""
    head = await reader.readuntil(b"\r\n\r\n")
    while head.startswith(b"HTTP/1.1 100"):
        head = await reader.readuntil(b"\r\n\r\n")
    if method == "HEAD" or head.split(b" ")[1] in {b"204", b"304"}:
        return head
    if b"transfer-encoding: chunked" not in head.lower():
        return head + await reader.readexactly(content_length(head))
    body = b""
    while not body.endswith(b"\r\n0\r\n\r\n") and body != b"0\r\n\r\n":
        body += await read_chunk(reader)
    return head + body


async def read_chunk(reader: asyncio.StreamReader) -> bytes:
    size = await reader.readuntil(b"\r\n")
    return size + await reader.readexactly(int(size.split(b";")[0], 16) + 2)


def refusal(status: int) -> bytes:
    xml = f"<?xml version='1.0'?><Error><Code>{CODES[status]}</Code><Message>chaos</Message></Error>".encode()
    head = f"HTTP/1.1 {status} Chaos\r\nContent-Type: application/xml\r\nContent-Length: {len(xml)}\r\n\r\n"
    return head.encode() + xml


class Gatehouse:
    """Gates, on a loop in a thread of their own: a test that waits does not hold them up."""

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream
        self._opened: set[str] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def open(self) -> Gate:
        """A gate at an address that none had before: what is known of a store is known by its address."""
        gate = Gate(self.upstream)
        asyncio.run_coroutine_threadsafe(gate.open(), self._loop).result(10)
        if gate.address in self._opened:
            again = self.open()
            self.close_gate(gate)
            return again
        self._opened.add(gate.address)
        return gate

    def close_gate(self, gate: Gate) -> None:
        asyncio.run_coroutine_threadsafe(gate.close(), self._loop).result(10)

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _end(self) -> None:
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

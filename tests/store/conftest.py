"""S3 servers that fail differently, and a relay between us and one of them that can misbehave."""

import asyncio
import io
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections import Counter
from contextlib import AsyncExitStack, contextmanager, suppress
from pathlib import Path

import pytest
from pydantic import SecretStr

from avatar.local.processes import free_port
from avatar.settings_sections import StoreSettings
from avatar.store import connection
from avatar.store.store import Store
from tests.store.memory import MemoryStore


def program(name):
    """A program of the development environment; the test is skipped without it."""
    found = shutil.which(str(Path(sys.executable).with_name(name))) or shutil.which(name)
    return found or pytest.skip(f"{name} is not installed (it comes with the dev dependencies)")


@contextmanager
def serving(command, port, log, **environment):
    """A server process on a port of this machine, ended by its pid."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=os.environ | environment, stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + 30
        while not answers(port):
            assert process.poll() is None, log.read_text(errors="replace")[-2000:]
            assert time.monotonic() < deadline, f"{command[0]} did not open its port"
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def answers(port):
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def local_settings(port, access_key, secret_key):
    return StoreSettings(
        endpoint=f"127.0.0.1:{port}",
        access_key=SecretStr(access_key),
        secret_key=SecretStr(secret_key),
        secure=False,
    )


@pytest.fixture(scope="session")
def ministack(tmp_path_factory):
    """MiniStack: AWS's own key semantics, in pure Python."""
    server, home, port = program("ministack"), tmp_path_factory.mktemp("ministack"), free_port(0)
    environment = {
        "GATEWAY_PORT": str(port),
        "BIND_HOST": "127.0.0.1",
        "AUTH": "true",
        "SERVICES": "s3",
        "TMPDIR": str(home),
    }
    with serving([server], port, home / "log", **environment):
        yield local_settings(port, "test", "test")


@pytest.fixture(scope="session")
def juicefs(tmp_path_factory):
    """The JuiceFS gateway: MinIO's own S3 handlers, which overwrite in spite of `If-None-Match`."""
    server, home, port = program("juicefs"), tmp_path_factory.mktemp("juicefs"), free_port(0)
    meta = f"sqlite3://{home}/meta.db"
    disk = ["--storage", "file", "--bucket", f"{home}/blocks/", "--trash-days", "0"]
    subprocess.run([server, "format", *disk, meta, "contract"], check=True, capture_output=True)
    flags = ["--multi-buckets", "--keep-etag", "--object-tag", "--object-meta", "--no-usage-report"]
    places = [
        "--cache-dir",
        f"{home}/cache",
        "--log",
        f"{home}/gateway.log",
        "--metrics",
        f"127.0.0.1:{free_port(0)}",
    ]
    keys = {"MINIO_ROOT_USER": "juicefs-test", "MINIO_ROOT_PASSWORD": "juicefs-test-secret"}
    command = [server, "gateway", "--no-agent", *flags, *places, meta, f"127.0.0.1:{port}"]
    with serving(command, port, home / "log", **keys):
        yield local_settings(port, *keys.values())


ALL_BACKENDS = [
    "seaweedfs",
    pytest.param("ministack", marks=pytest.mark.backends),
    pytest.param("juicefs", marks=pytest.mark.backends),
]


def backend_settings(request, name):
    """Settings of a server, with a bucket of its own (which exists on the embedded store only)."""
    if name == "seaweedfs":
        return request.getfixturevalue("store_settings")
    return request.getfixturevalue(name).model_copy(update={"bucket": f"test-{secrets.token_hex(6)}"})


@pytest.fixture(params=ALL_BACKENDS)
def any_settings(request):
    """Settings of each S3 server in turn."""
    return backend_settings(request, request.param)


@pytest.fixture
async def open_store():
    """Opens stores that are closed after the test."""
    opened = []

    def open_one(settings):
        opened.append(Store(settings))
        return opened[-1]

    yield open_one
    for store in opened:
        await store.aclose()


@pytest.fixture
async def served_store(any_settings, open_store):
    """A store on each S3 server in turn."""
    store = open_store(any_settings)
    await store.ensure_bucket()
    return store


def stand_in(request, open_store):
    """The store in memory, or a store on the server that the parameter names."""
    in_memory = request.param == "memory"
    return MemoryStore() if in_memory else open_store(backend_settings(request, request.param))


@pytest.fixture(params=["memory", *ALL_BACKENDS])
async def any_store(request, open_store):
    """The store in memory, and a store on each S3 server in turn."""
    store = stand_in(request, open_store)
    await store.ensure_bucket()
    return store


@pytest.fixture(params=["memory", *ALL_BACKENDS])
def without_bucket(request, open_store):
    """The same, with a bucket that does not exist."""
    if request.param == "memory":
        return MemoryStore(bucket="never-made")
    settings = backend_settings(request, request.param)
    return open_store(settings.model_copy(update={"bucket": "never-made"}))


@pytest.fixture(params=["memory", *ALL_BACKENDS[:2]])
async def conditional_store(request, open_store):
    """The store in memory, and a store on each S3 server that honours conditional create."""
    store = stand_in(request, open_store)
    await store.ensure_bucket()
    return store


@pytest.fixture
async def juicefs_store(request, open_store):
    store = open_store(backend_settings(request, "juicefs"))
    await store.ensure_bucket()
    return store


@pytest.fixture
def put_raw():
    """Writes an object past the rule for keys, as other programs do."""

    async def put(store, key, data):
        if isinstance(store, MemoryStore):
            store.keep(key, data)
            return
        client = store._connection.client
        await asyncio.to_thread(client.put_object, store.bucket, key, io.BytesIO(data), len(data))

    return put


class Relay:
    """Passes HTTP requests on to an S3 server, counts them, and spoils those it was told to.

    `faults` maps a method to what happens to its next requests: `500` (done, answered 500), `cut` (done, the
    connection closed unanswered), `503` (not done), `short` (the body of the answer cut in half), `flip` (one
    byte of the body changed on its way).
    """

    def __init__(self, upstream):
        self.host, self.port = upstream.split(":")
        self.faults, self.seen, self.done = {}, Counter(), Counter()
        self.connections = set()

    async def __aenter__(self):
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0, limit=2**20)
        self.address = f"127.0.0.1:{self.server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *exception):
        self.server.close()
        for each in self.connections:
            each.cancel()
        await asyncio.gather(*self.connections, return_exceptions=True)
        await self.server.wait_closed()

    async def serve(self, reader, writer):
        self.connections.add(asyncio.current_task())
        try:
            while await self.relay(reader, writer):
                await writer.drain()
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            pass
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    async def relay(self, reader, writer):
        """One request and its answer; False when the connection is to be closed."""
        head = await reader.readuntil(b"\r\n\r\n")
        method = head.split(b" ")[0].decode()
        body = await reader.readexactly(content_length(head))
        self.seen[method] += 1
        waiting = self.faults.get(method, [])
        fault = waiting.pop(0) if waiting else None
        if fault == "503":
            writer.write(refusal(503))
            return True
        if fault == "flip":
            body = bytes([body[0] ^ 1]) + body[1:]
        answer_head, answer_body = await self.ask(head, body, method)
        self.done[method] += 1
        if fault == "500":
            writer.write(refusal(500))
        elif fault == "short":
            writer.write(answer_head + answer_body[: len(answer_body) // 2])
        elif fault != "cut":
            writer.write(answer_head + answer_body)
        return fault not in {"cut", "short"}

    async def ask(self, head, body, method):
        reader, writer = await asyncio.open_connection(self.host, self.port, limit=2**20)
        writer.write(head + body)
        answer = await reader.readuntil(b"\r\n\r\n")
        while answer.startswith(b"HTTP/1.1 100"):
            answer = await reader.readuntil(b"\r\n\r\n")
        silent = method == "HEAD" or answer.split(b" ")[1] in {b"204", b"304"}
        content = b"" if silent else await read_body(reader, answer)
        writer.close()
        await writer.wait_closed()
        return answer, content


async def read_body(reader, head):
    """The body of an answer as it is on the wire."""
    if b"transfer-encoding: chunked" not in head.lower():
        return await reader.readexactly(content_length(head))
    body = b""
    while not body.endswith(b"0\r\n\r\n"):
        body += await reader.readuntil(b"\r\n")
    return body


def content_length(head):
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.split(b":")[1])
    return 0


def refusal(status):
    xml = b"<?xml version='1.0'?><Error><Code>InternalError</Code><Message>spoiled</Message></Error>"
    return b"HTTP/1.1 %d Spoiled\r\nContent-Type: application/xml\r\nContent-Length: %d\r\n\r\n%b" % (
        status,
        len(xml),
        xml,
    )


@pytest.fixture
async def relay_before():
    """Starts relays before S3 servers."""
    async with AsyncExitStack() as stack:

        async def start(upstream):
            return await stack.enter_async_context(Relay(upstream))

        yield start


@pytest.fixture
async def relay(relay_before, seaweed):
    """A relay before the embedded store."""
    return await relay_before(seaweed.endpoint)


@pytest.fixture
async def relayed(relay, store_settings, open_store):
    """A store that reaches the embedded store through the relay."""
    return open_store(store_settings.model_copy(update={"endpoint": relay.address}))


@pytest.fixture
def impatient(monkeypatch):
    """The five tries of a conditional create follow one another at once."""
    monkeypatch.setattr(connection, "CREATE_PAUSES", (0.0,) * 4)

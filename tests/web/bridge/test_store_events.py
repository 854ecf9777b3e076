"""The embedded store tells whoever listens beside it of new objects, and does not mind when nobody does."""

import asyncio
import socket
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from avatar.local import embedded_store, processes
from avatar.local.embedded_store import StoreListener
from avatar.store.store import Store
from avatar.web.bucket_notifications import WrittenObject, from_filer

LISTENER = StoreListener(watched="avatar/inbox/", token="told-by-the-store")


@pytest.fixture(scope="module")
def telling(tmp_path_factory):
    """An embedded store with a listener."""
    running = embedded_store.start(tmp_path_factory.mktemp("telling"), listener=LISTENER)
    yield running
    embedded_store.stop(running, wait_seconds=0)


@pytest.fixture
async def its_store(telling):
    opened = Store(embedded_store.settings_for(telling))
    yield opened
    await opened.aclose()


@asynccontextmanager
async def heard(port):
    """What arrives there, as (path, authorization, body)."""
    arrived = asyncio.Queue()

    async def take(request):
        await arrived.put((request.path, request.headers["Authorization"], await request.read()))
        return web.Response(status=204)

    app = web.Application()
    app.router.add_post("/{path:.*}", take)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield arrived
    finally:
        await runner.cleanup()


async def put(store, key):
    await store.put(key, b"1234", content_type="text/plain")


async def written(arrived):
    """The objects of the next message that tells of any; messages of folders come in between."""
    async with asyncio.timeout(20):
        while True:
            path, authorization, body = await arrived.get()
            assert (path, authorization) == ("/events/seaweedfs", "Bearer told-by-the-store")
            if told := from_filer(body):
                return told


async def test_objects_in_the_inbox_are_told_of(telling, its_store):
    """With the token, and only those; one that is written anew is told of again."""
    async with heard(telling.listener_port) as arrived:
        await put(its_store, "videos/1.mp4")
        await put(its_store, "inboxes/1.mp4")
        await put(its_store, "inbox/a/voice.mp3")
        (first,) = await written(arrived)
        await put(its_store, "inbox/a/voice.mp3")
        (second,) = await written(arrived)
    assert first == second == WrittenObject("avatar", "inbox/a/voice.mp3")


async def test_a_removal_is_not_told_of(telling, its_store):
    """After a removal the next thing that is heard is the next object."""
    async with heard(telling.listener_port) as arrived:
        await put(its_store, "inbox/b/voice.mp3")
        # Heard before anything else: what nobody hears is told again later.
        (before,) = await written(arrived)
        await its_store.remove("inbox/b/voice.mp3")
        await put(its_store, "inbox/c/voice.mp3")
        (after,) = await written(arrived)
    assert (before.key, after.key) == ("inbox/b/voice.mp3", "inbox/c/voice.mp3")


@pytest.mark.parametrize("listens", [False, True], ids=["nobody", "somebody who never answers"])
async def test_writes_do_not_wait_for_the_listener(telling, its_store, listens):
    """Objects are written while nobody listens, or somebody takes connections and says nothing."""
    with socket.socket() as silent:
        if listens:
            silent.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            silent.bind(("127.0.0.1", telling.listener_port))
            silent.listen()
        for number in range(30):
            await put(its_store, f"inbox/{listens}/{number}")
        assert len(await its_store.list(f"inbox/{listens}/")) == 30


def test_the_token_is_not_on_the_command_line(telling):
    """Whoever lists processes does not see it."""
    assert LISTENER.token not in " ".join(processes.command_line(telling.process.pid))
    assert LISTENER.token not in repr(LISTENER)

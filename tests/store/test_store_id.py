"""One store, one journal: a store is told from others by an id of its own."""

import asyncio

import pytest

from avatar.errors import StoreUnavailable, StoreUnfit
from avatar.store.store_id import KEY, require_store, store_identity
from tests.store.memory import MemoryServer, MemoryStore


async def opened(server: MemoryServer, bucket: str) -> MemoryStore:
    store = MemoryStore(server, bucket)
    await store.ensure_bucket()
    return store


async def test_all_who_ask_at_once_get_the_same_id():
    """It is made once, whoever is first."""
    server = MemoryServer()
    stores = [await opened(server, "avatar") for _ in range(8)]
    assert len(set(await asyncio.gather(*map(store_identity, stores)))) == 1


async def test_another_store_is_refused_before_anything_is_sent():
    """An empty one that a worker started by itself is another; without an id to compare with, none is."""
    server = MemoryServer()
    ours, other = await opened(server, "avatar"), await opened(server, "other")
    identity = await store_identity(ours)
    await require_store(ours, identity)
    await require_store(other, None)
    with pytest.raises(StoreUnfit, match=r"bucket 'other'.*Nothing was sent or spent"):
        await require_store(other, identity)


async def test_without_its_id_a_store_is_refused_and_given_none():
    """Deleted, or another store: a person looks, and has it put back."""
    store = await opened(MemoryServer(), "avatar")
    with pytest.raises(StoreUnfit, match=r"has no `index/store.json`") as caught:
        await require_store(store, "x")
    assert "avatar deploy" in caught.value.hint
    assert await store.exists(KEY) is None
    assert await store_identity(store, lost="x") == "x"
    await require_store(store, "x")


async def test_a_store_that_was_copied_is_the_same():
    """Moved with all that is in it, it holds the same journal."""
    server = MemoryServer()
    ours, moved = await opened(server, "avatar"), await opened(server, "moved")
    identity = await store_identity(ours)
    moved.keep(KEY, (await ours.get(KEY)).data)
    await require_store(moved, identity)


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"id": 7}', b'{"id": ""}'])
async def test_an_id_that_cannot_be_read_is_no_other_store(data):
    """Damaged: nothing is sent, and nothing is overwritten."""
    store = await opened(MemoryServer(), "avatar")
    store.keep(KEY, data)
    with pytest.raises(StoreUnavailable):
        await require_store(store, "x")

"""What the store in memory can be told to do beside keeping the contract."""

import pytest

from avatar.errors import StoreUnavailable
from tests.store.memory import MemoryServer, MemoryStore


@pytest.fixture
async def store() -> MemoryStore:
    store = MemoryStore()
    await store.ensure_bucket()
    return store


async def test_a_refused_write_is_not_done_and_a_lost_answer_is(store):
    """Both fail alike for the caller; creating again with the same bytes is safe after either."""
    store.server.faults["create"] = ["refused", "lost"]
    for there in (False, True):
        with pytest.raises(StoreUnavailable):
            await store.create("a", b"mine")
        assert (await store.exists("a") is not None) is there
    assert await store.create("a", b"mine") is True
    assert await store.create("a", b"other") is False


async def test_ages_are_told_by_its_own_clock():
    """An hour passes at once, for every store on the same server."""
    server = MemoryServer()
    one, other = MemoryStore(server), MemoryStore(server)
    await one.ensure_bucket()
    await one.put("a", b"1", content_type="text/plain")
    server.tick(3600)
    assert 3600 <= (await other.stat("a")).age < 3660

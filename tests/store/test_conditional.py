"""Conditional create: one winner, whatever the network does; and stores that only pretend."""

import asyncio
import hashlib
from functools import partial

import pytest

from avatar.errors import StoreUnavailable, StoreUnfit
from avatar.store import connection
from avatar.store.connection import PutAnswer
from avatar.store.objects import KeyTaken

KEY = "journal/r1/000.json"


async def test_one_of_sixteen_creators_wins(conditional_store):
    """Sixteen creators of one key: exactly one is told that it won, and its content is what stays."""
    bodies = [b'{"holder": %d}' % number for number in range(16)]
    won = await asyncio.gather(*(conditional_store.create(KEY, body) for body in bodies))
    assert won.count(True) == 1
    blob = await conditional_store.get(KEY)
    assert blob.data == bodies[won.index(True)]
    assert blob.stat.content_type == "application/json"


async def test_the_same_bytes_are_ours(conditional_store):
    """Creating again with the very bytes that are there is a success; with others, of any length, a defeat."""
    assert await conditional_store.create(KEY, b"token-1") is True
    assert await conditional_store.create(KEY, b"token-1") is True
    for other in (b"token-2", b"token", b"token-1-longer", b""):
        assert await conditional_store.create(KEY, other) is False
    assert (await conditional_store.get(KEY)).data == b"token-1"


async def test_a_removed_key_can_be_created_again(conditional_store):
    """After a remove the next creator wins."""
    await conditional_store.create(KEY, b"one")
    await conditional_store.remove(KEY)
    assert await conditional_store.create(KEY, b"two") is True


async def test_an_honest_store_proves_itself(conditional_store):
    """The probe says yes on a store that honours the condition, leaves nothing, and is not repeated."""
    assert await conditional_store.proves_conditional_create() is True
    assert await conditional_store.list("") == []
    await conditional_store.aclose()
    assert await conditional_store.proves_conditional_create() is True


@pytest.mark.backends
async def test_a_store_that_overwrites_is_found_out(juicefs_store):
    """The JuiceFS gateway overwrites in spite of the condition: the probe says no, and leaves nothing."""
    assert await juicefs_store.proves_conditional_create() is False
    assert await juicefs_store.list("") == []


@pytest.mark.parametrize("fault", ["500", "cut"])
async def test_our_own_success_is_recognised(relayed, relay, fault):
    """The store created the object and the answer was lost: the creator still learns that it won."""
    relay.faults["PUT"] = [fault]
    assert await relayed.create(KEY, b"mine") is True
    assert relay.done["PUT"] == 2
    assert (await relayed.get(KEY)).data == b"mine"


@pytest.mark.parametrize("fault", ["500", "cut"])
async def test_a_defeat_is_a_defeat_though_the_answer_was_lost(relayed, relay, store, fault):
    """Somebody else was first and the refusal was lost: the loser learns that it lost, and overwrites nothing."""
    assert await store.create(KEY, b"theirs") is True
    relay.faults["PUT"] = [fault]
    assert await relayed.create(KEY, b"mine") is False
    assert (await store.get(KEY)).data == b"theirs"


async def test_a_busy_store_is_asked_again(relayed, relay):
    """A 503 before anything was written is tried again, and the object is created once."""
    relay.faults["PUT"] = ["503", "503"]
    assert await relayed.create(KEY, b"mine") is True
    assert (relay.seen["PUT"], relay.done["PUT"]) == (3, 1)


async def test_success_is_found_though_every_answer_was_lost(relayed, relay, impatient):
    """If each of the five answers is lost, what the store holds decides."""
    relay.faults["PUT"] = ["500"] * 5
    assert await relayed.create(KEY, b"mine") is True
    assert relay.seen["PUT"] == 5


async def test_a_store_that_stays_down_is_unknown_not_lost(relayed, relay, impatient):
    """A store that never takes the object is an error that says so: neither won nor lost, and safe to repeat."""
    relay.faults["PUT"] = ["503"] * 5
    with pytest.raises(StoreUnavailable, match=r"did not confirm.*InternalError.*safe"):
        await relayed.create(KEY, b"mine")
    assert await relayed.exists(KEY) is None


async def test_a_changed_body_is_not_taken(relayed, relay):
    """A body that changed on its way is refused by its MD5 and sent no second time by itself."""
    relay.faults["PUT"] = ["flip"]
    with pytest.raises(StoreUnavailable, match=r"BadDigest|InvalidDigest"):
        await relayed.create(KEY, b"mine")
    assert await relayed.exists(KEY) is None


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (PutAnswer(501, "NotImplemented"), StoreUnfit),
        (PutAnswer(403, "SignatureDoesNotMatch"), StoreUnavailable),
        (PutAnswer(404, "NoSuchBucket"), StoreUnavailable),
        (PutAnswer(400, "InvalidArgument"), StoreUnavailable),
        (PutAnswer(307, "TemporaryRedirect"), StoreUnavailable),
    ],
)
def test_definite_refusals_are_raised(answer, error):
    """An answer that repeating will not change is an error at once, with the store's own code or a reason."""
    with pytest.raises(error, match=f"{answer.code}|501"):
        connection.check_answer(answer, KEY, "127.0.0.1:1")


@pytest.mark.parametrize(
    "answer",
    [PutAnswer(412, ""), PutAnswer(409, ""), PutAnswer(503, ""), PutAnswer(429, ""), PutAnswer(None, "")],
)
def test_what_may_be_decided_later_is_not_raised(answer):
    """Taken, contended, busy and lost answers go on to a comparison or another try."""
    connection.check_answer(answer, KEY, "127.0.0.1:1")
    assert not answer.created


# Files that are expected to be new.
VIDEO = "videos/j1/video.mp4"


@pytest.fixture
def upload(relayed, relay, tmp_path):
    """Puts bytes as a file that is expected to be new, on a store that is known to create conditionally."""
    relayed.proved = relayed._keeps_metadata = True

    async def put(data: bytes):
        path = tmp_path / "video.mp4"
        path.write_bytes(data)
        sha256 = hashlib.sha256(data).hexdigest()
        relay.seen.clear()
        return await relayed.put_file(VIDEO, path, content_type="video/mp4", sha256=sha256, expect_new=True)

    return put


async def test_a_new_file_takes_one_request(upload, relay, store):
    """And has all that a file has which was looked for before."""
    put = await upload(b"mine")
    assert dict(relay.seen) == {"PUT": 1}
    found = await store.stat(VIDEO)
    assert (found.sha256, found.etag, found.content_type) == (put.sha256, put.etag, "video/mp4")


async def test_a_file_that_was_not_new_is_never_overwritten(upload, relay, store):
    """Other content is kept; the same is found."""
    first = await upload(b"theirs")
    with pytest.raises(KeyTaken, match="which was kept"):
        await upload(b"mine")
    assert (await upload(b"theirs")).etag == first.etag
    assert dict(relay.seen) == {"PUT": 1, "HEAD": 1}
    assert (await store.get(VIDEO)).data == b"theirs"


async def test_of_two_files_at_once_one_is_kept(upload, relayed, store, tmp_path):
    """Whoever comes second learns of it; looked for before, both could have been written."""
    relayed.proved, uploads = True, []
    for number in range(6):
        path, data = tmp_path / f"{number}.mp4", b"%d" % number
        path.write_bytes(data)
        send = partial(relayed.put_file, VIDEO, path, content_type="video/mp4", expect_new=True)
        uploads.append(send(sha256=hashlib.sha256(data).hexdigest()))
    ended = await asyncio.gather(*uploads, return_exceptions=True)
    (won,) = [number for number, each in enumerate(ended) if not isinstance(each, KeyTaken)]
    assert (await store.get(VIDEO)).data == b"%d" % won


@pytest.mark.parametrize("fault", ["500", "cut", "503"])
async def test_a_file_whose_answer_was_lost_is_found(upload, relay, store, fault):
    """The second try is told that something is there, and sees that it is the same."""
    relay.faults["PUT"] = [fault]
    put = await upload(b"mine")
    assert ((await store.get(VIDEO)).data, put.sha256) == (b"mine", hashlib.sha256(b"mine").hexdigest())


async def test_where_conditions_are_not_known_to_hold_a_file_is_looked_for_first(upload, relay, relayed):
    relayed.proved = False
    await upload(b"mine")
    assert dict(relay.seen) == {"HEAD": 1, "PUT": 1}

"""A store that fails is never a store that has nothing, and no failure tells a secret."""

import asyncio
import hashlib
import traceback
from datetime import timedelta

import pytest
from pydantic import SecretStr

from avatar.errors import InvalidInput, NotConfigured, StoreUnavailable
from avatar.settings_sections import StoreSettings
from avatar.store.objects import check_key
from avatar.store.store import Store

KEY = "a/b"


def every_call(store, tmp_path):
    """Every request a store can make, by name."""
    file = tmp_path / "file"
    file.write_bytes(b"1")
    return {
        "ensure_bucket": store.ensure_bucket,
        "stat": lambda: store.stat(KEY),
        "exists": lambda: store.exists(KEY),
        "get": lambda: store.get(KEY),
        "put": lambda: store.put(KEY, b"1", content_type="text/plain"),
        "create": lambda: store.create(KEY, b"1"),
        "put_file": lambda: store.put_file(KEY, file, content_type="text/plain", sha256="0" * 64),
        "download": lambda: store.download(KEY, tmp_path / "got"),
        "stream": lambda: anext(store.stream(KEY)),
        "list": lambda: store.list(""),
        "copy": lambda: store.copy(KEY, "c"),
        "remove": lambda: store.remove(KEY),
        "probe": store.proves_conditional_create,
    }


async def failures(store, tmp_path):
    """What each call raises, all at once."""
    calls = every_call(store, tmp_path)
    raised = await asyncio.gather(*(call() for call in calls.values()), return_exceptions=True)
    return dict(zip(calls, raised, strict=True))


async def read_all(store):
    return b"".join([chunk async for chunk in store.stream(KEY)])


def assert_all_unavailable(raised):
    assert {name: type(error) for name, error in raised.items()} == dict.fromkeys(raised, StoreUnavailable)


def assert_no_secrets(raised, settings):
    secrets = [
        "X-Amz",
        "x-amz",
        "Signature=",
        "Authorization",
        "http://",
        settings.secret_key.get_secret_value(),
    ]
    secrets.append(settings.access_key.get_secret_value())
    for name, error in raised.items():
        told = (
            "".join(traceback.format_exception(error, chain=True)) + str(error.describe()) + repr(vars(error))
        )
        told += repr(error.__context__) + repr(error.__cause__)
        assert not [secret for secret in secrets if secret in told], name


async def test_a_dead_store_is_unavailable(open_store, store_settings, tmp_path, impatient):
    """With nothing listening every call is StoreUnavailable, names the address and tells no secret."""
    settings = store_settings.model_copy(update={"endpoint": "127.0.0.1:9"})
    raised = await failures(open_store(settings), tmp_path)
    assert_all_unavailable(raised)
    assert {name for name, error in raised.items() if "127.0.0.1:9" not in str(error)} == set()
    assert_no_secrets(raised, settings)


async def test_wrong_keys_are_unavailable(open_store, store_settings, tmp_path):
    """With a wrong secret every call says that access was denied, which is never `not found`."""
    settings = store_settings.model_copy(update={"secret_key": SecretStr("wrong-secret-wrong-secret")})
    raised = await failures(open_store(settings), tmp_path)
    assert_all_unavailable(raised)
    assert {name for name, error in raised.items() if "ccess" not in str(error)} == set()
    assert {name for name, error in raised.items() if "SECRET_KEY" not in (error.hint or "")} == set()
    assert_no_secrets(raised, settings)


async def test_some_other_server_is_unavailable(open_store, store_settings, tmp_path):
    """A web server that answers 404 to everything, with HTML, is not a store without objects."""
    page = b"<html>not here</html>"
    head = b"HTTP/1.1 404 Not Found\r\nContent-Type: text/html\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"

    async def answer(reader, writer):
        request = await reader.readuntil(b"\r\n\r\n")
        writer.write(head % len(page) + (b"" if request.startswith(b"HEAD") else page))
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        address = "{}:{}".format(*server.sockets[0].getsockname())
        raised = await failures(open_store(store_settings.model_copy(update={"endpoint": address})), tmp_path)
    assert_all_unavailable({name: error for name, error in raised.items() if name != "ensure_bucket"})
    assert isinstance(raised["ensure_bucket"], StoreUnavailable)


@pytest.mark.parametrize("fault", ["503", "cut"])
async def test_a_passing_failure_passes(relayed, relay, fault):
    """Reading, writing, listing and removing are repeated, and succeed once the store answers again."""
    relay.faults |= {"PUT": [fault], "GET": [fault], "HEAD": [fault], "DELETE": [fault]}
    await relayed.put(KEY, b"1", content_type="text/plain")
    assert (await relayed.get(KEY)).data == b"1"
    assert (await relayed.stat(KEY)).size == 1
    relay.faults["GET"] = [fault]
    assert [stat.key for stat in await relayed.list("")] == [KEY]
    await relayed.remove(KEY)
    assert await relayed.exists(KEY) is None


async def test_a_cut_body_is_fetched_again(relayed, relay, tmp_path):
    """A body cut in the middle is not taken for the object: small ones and files are fetched again."""
    data = bytes(range(256)) * 8192
    await relayed.put(
        KEY, data, content_type="text/plain", metadata={"sha256": hashlib.sha256(data).hexdigest()}
    )
    relay.faults["GET"] = ["short"]
    assert (await relayed.get(KEY)).data == data
    relay.faults["GET"] = ["short"]
    await relayed.download(KEY, tmp_path / "got")
    assert (tmp_path / "got").read_bytes() == data
    relay.faults["GET"] = ["short"]
    with pytest.raises(StoreUnavailable):
        await read_all(relayed)


async def test_bytes_that_changed_on_the_way_are_noticed(relayed, relay):
    """SeaweedFS keeps a body that was changed on its way; the ETag gives it away."""
    relay.faults["PUT"] = ["flip"]
    with pytest.raises(StoreUnavailable, match="other bytes"):
        await relayed.put(KEY, b"mine", content_type="text/plain")


async def test_a_file_that_does_not_match_its_sha256_is_not_delivered(store, tmp_path):
    """A download whose SHA-256 is not the one kept with the object fails, and keeps what was at the path."""
    await store.put(KEY, b"rotten", content_type="text/plain", metadata={"sha256": "0" * 64})
    (tmp_path / "got").write_bytes(b"good")
    with pytest.raises(StoreUnavailable):
        await store.download(KEY, tmp_path / "got")
    assert (tmp_path / "got").read_bytes() == b"good"
    assert [file.name for file in tmp_path.iterdir()] == ["got"]


def test_one_store_serves_several_event_loops(store_settings):
    """A store holds nothing of an event loop: it may be made and used outside of any one."""
    store = Store(store_settings)
    assert asyncio.run(store.create(KEY, b"1")) is True
    assert asyncio.run(store.create(KEY, b"2")) is False
    assert asyncio.run(store.get(KEY)).data == b"1"
    asyncio.run(store.aclose())


@pytest.mark.parametrize(
    "key",
    [
        "",
        "/a",
        "a/",
        "a//b",
        ".",
        "a/../b",
        "a/./b",
        "a\\b",
        "a b",
        "é",
        "a\n",
        "a?b",
        "a%2fb",
        "x" * 201,
        "ab/" * 300 + "c",
    ],
)
def test_keys_that_some_server_would_change_are_refused(key):
    """A key that not every S3 server keeps as written is never written."""
    with pytest.raises(InvalidInput):
        check_key(key)


@pytest.mark.parametrize(
    "key", ["a", "journal/0f/000.json", ".probe/x", "a=b/c-d_e.f", "/".join(["y" * 200] * 4)]
)
def test_plain_keys_are_taken(key):
    """Letters, digits, dot, dash, underscore and equals sign, in parts of up to 200, are kept everywhere."""
    assert check_key(key) == key


@pytest.mark.parametrize("key", ["", "/a", "a//b", "../a", "a\x00", "é" * 451])
async def test_keys_that_cannot_be_asked_for_are_refused(store, key):
    """A key that cannot exist is bad input, not a missing object."""
    with pytest.raises(InvalidInput):
        await store.exists(key)


async def test_metadata_must_fit_a_header(store):
    """Metadata that HTTP headers cannot carry is bad input."""
    with pytest.raises(InvalidInput):
        await store.put(KEY, b"1", content_type="text/plain", metadata={"name": "Zoë"})


@pytest.mark.parametrize(
    ("endpoint", "public", "link"),
    [
        ("127.0.0.1:9", None, "http://127.0.0.1:9/avatar/a/b?"),
        ("127.0.0.1:9", "media.example:8443", "http://media.example:8443/avatar/a/b?"),
        ("127.0.0.1:9", "https://media.example", "https://media.example/avatar/a/b?"),
        ("https://s3.example", None, "https://s3.example/avatar/a/b?"),
    ],
)
async def test_links_are_made_for_the_public_endpoint(open_store, endpoint, public, link):
    """A link names the public endpoint, and making it asks no server."""
    keys = {"access_key": SecretStr("key"), "secret_key": SecretStr("secret")}
    store = open_store(StoreSettings(endpoint=endpoint, public_endpoint=public, secure=False, **keys))
    assert (await store.presign(KEY, expires=timedelta(days=7))).startswith(link)


@pytest.mark.parametrize("expires", [timedelta(0), timedelta(days=7, seconds=1)])
async def test_links_hold_for_seven_days_at_most(store, expires):
    """S3 signs no link for longer than seven days."""
    with pytest.raises(InvalidInput, match="7 days"):
        await store.presign(KEY, expires=expires)


@pytest.mark.parametrize(
    "missing",
    [
        {"endpoint": None},
        {"endpoint": "host/path"},
        {"endpoint": "ftp://host"},
        {"endpoint": "http://user:pass@host"},
        {"access_key": None},
        {"secret_key": None},
        {"public_endpoint": "https://host/path"},
    ],
)
def test_settings_that_cannot_work_are_refused(missing):
    """Without an address and both keys no store is made; the hint names the setting and no secret."""
    keys = {"access_key": SecretStr("key"), "secret_key": SecretStr("secret")}
    with pytest.raises(NotConfigured) as refused:
        Store(StoreSettings(**({"endpoint": "host:9"} | keys | missing)))
    assert "AVATAR_STORE__" in refused.value.hint
    assert "pass" not in str(refused.value) + refused.value.hint

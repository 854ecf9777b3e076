"""What the project relies on, on every S3 server, and in memory, where the tests of rules run."""

import hashlib
from datetime import timedelta

import httpx
import pytest

from avatar.errors import AvatarError, InvalidInput, ObjectNotFound, StoreUnavailable

MIB = 1024 * 1024
JSON = "application/json"


@pytest.fixture
def video(tmp_path):
    """A file of 20 MiB, three parts, and its SHA-256."""
    path = tmp_path / "video.mp4"
    path.write_bytes(b"".join(bytes([number]) * MIB for number in range(20)))
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


async def test_bytes_type_and_metadata_come_back(any_store):
    """What was put is got: bytes, size, MD5 as ETag, content type and metadata, in one request and in two."""
    data = b'{"a": 1}'
    put = await any_store.put("results/a.json", data, content_type=JSON, metadata={"Take": "2"})
    blob, stat = await any_store.get("results/a.json"), await any_store.stat("results/a.json")
    assert blob.data == data
    for seen in (put, blob.stat, stat):
        assert (seen.key, seen.size, seen.content_type) == ("results/a.json", len(data), JSON)
        assert seen.etag == hashlib.md5(data).hexdigest()
        assert seen.metadata == {"take": "2"}
        assert seen.age is not None
        assert 0 <= seen.age < 60


async def test_empty_objects_are_objects(any_store):
    """An object of no bytes can be put, looked at, got, created and streamed."""
    await any_store.put("results/empty", b"", content_type="text/plain")
    assert (await any_store.stat("results/empty")).size == 0
    assert (await any_store.get("results/empty")).data == b""
    assert [chunk async for chunk in any_store.stream("results/empty")] == []
    assert await any_store.create("results/empty2", b"") is True


async def test_a_pointer_is_replaced(any_store):
    """Putting again replaces the object, also above the size at which the SDK would send parts."""
    await any_store.put("videos/x/manifest.json", b"old", content_type=JSON)
    new = bytes(6 * MIB)
    await any_store.put("videos/x/manifest.json", new, content_type=JSON)
    assert (await any_store.get("videos/x/manifest.json")).data == new


async def test_the_bucket_is_made_once_and_kept(any_store):
    """Making the bucket again is no error and loses nothing."""
    await any_store.put("a", b"1", content_type="text/plain")
    await any_store.ensure_bucket()
    assert (await any_store.get("a")).data == b"1"


async def test_a_missing_object_is_not_found(any_store, tmp_path):
    """An object that is not there is ObjectNotFound for every reader, and None for exists."""
    assert await any_store.exists("no/such") is None
    for reading in (
        any_store.stat("no/such"),
        any_store.get("no/such"),
        any_store.download("no/such", tmp_path / "x"),
        any_store.copy("no/such", "other"),
        anext(any_store.stream("no/such")),
    ):
        with pytest.raises(ObjectNotFound):
            await reading
    assert list(tmp_path.iterdir()) == []


async def test_a_missing_bucket_is_not_a_missing_object(without_bucket):
    """In a bucket that does not exist nothing is ever said to be absent."""
    store = without_bucket
    for call in (store.exists("a"), store.get("a"), store.list(""), store.create("a", b"1")):
        with pytest.raises(StoreUnavailable, match="NoSuchBucket"):
            await call


async def test_listings_are_in_byte_order(any_store):
    """Keys come in the order of their bytes on every server, and only those of the prefix."""
    keys = ["d/a-b", "d/a/b", "d/a=", "d/B", "d/a.c", "d/10", "d/9"]
    for key in [*keys, "dd/x", "c"]:
        await any_store.put(key, b"1", content_type="text/plain")
    listed = await any_store.list("d/")
    assert [stat.key for stat in listed] == sorted(keys, key=str.encode)
    assert {stat.size for stat in listed} == {1}
    flat = [key for key in keys if key != "d/a/b"] + ["d/a/"]
    assert [stat.key for stat in await any_store.list("d/", recursive=False)] == sorted(flat, key=str.encode)
    assert [stat.key for stat in await any_store.list("nothing/")] == []


@pytest.mark.parametrize(
    ("offset", "length", "expected"),
    [
        (0, None, b"0123456789"),
        (0, 4, b"0123"),
        (3, 4, b"3456"),
        (7, None, b"789"),
        (8, 99, b"89"),
        (4, 0, b""),
    ],
)
async def test_ranges(any_store, offset, length, expected):
    """A range is exactly the bytes asked for, cut at the end of the object."""
    await any_store.put("r", b"0123456789", content_type="text/plain")
    assert (
        b"".join([chunk async for chunk in any_store.stream("r", offset=offset, length=length)]) == expected
    )


async def test_a_range_past_the_end_is_bad_input(any_store):
    """A range that begins after the end is refused, and is no failure of the store."""
    await any_store.put("r", b"0123456789", content_type="text/plain")
    with pytest.raises(InvalidInput):
        await anext(any_store.stream("r", offset=10))


async def test_a_reader_may_stop_early(any_store):
    """A stream left in the middle does not spoil the next request."""
    await any_store.put("big", bytes(8 * MIB), content_type="text/plain")
    stream = any_store.stream("big")
    assert len(await anext(stream)) == MIB
    await stream.aclose()
    assert (await any_store.stat("big")).size == 8 * MIB


async def test_a_video_goes_up_in_parts_and_comes_back_whole(any_store, video, tmp_path):
    """20 MiB in three parts come back with the same SHA-256, which the object carries."""
    path, sha256 = video
    stat = await any_store.put_file("renders/v.mp4", path, content_type="video/mp4", sha256=sha256)
    assert (stat.size, stat.sha256, stat.content_type) == (20 * MIB, sha256, "video/mp4")
    got = await any_store.download("renders/v.mp4", tmp_path / "new" / "v.mp4")
    assert got.sha256 == sha256
    assert hashlib.sha256((tmp_path / "new" / "v.mp4").read_bytes()).hexdigest() == sha256
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["v.mp4"]


async def test_the_second_upload_moves_nothing(served_store, any_settings, video, relay_before, open_store):
    """Uploading the same content under the same key again sends no byte of it."""
    path, sha256 = video
    first = await served_store.put_file("renders/v.mp4", path, content_type="video/mp4", sha256=sha256)
    relay = await relay_before(any_settings.endpoint)
    store = open_store(any_settings.model_copy(update={"endpoint": relay.address}))
    again = await store.put_file("renders/v.mp4", path, content_type="video/mp4", sha256=sha256)
    assert (again.etag, again.modified) == (first.etag, first.modified)
    assert dict(relay.seen) == {"HEAD": 1}


async def test_other_content_is_never_overwritten_unasked(any_store, tmp_path):
    """A key that holds other content keeps it: it may have been paid for. Only `overwrite` replaces it."""
    path = tmp_path / "v.mp4"
    path.write_bytes(b"new")
    sha256 = hashlib.sha256(b"new").hexdigest()
    await any_store.put("renders/v.mp4", b"old", content_type="video/mp4", metadata={"sha256": "0" * 64})
    with pytest.raises(AvatarError, match="kept") as refused:
        await any_store.put_file("renders/v.mp4", path, content_type="video/mp4", sha256=sha256)
    assert not isinstance(refused.value, StoreUnavailable)
    assert (await any_store.get("renders/v.mp4")).data == b"old"
    await any_store.put_file("renders/v.mp4", path, content_type="video/mp4", sha256=sha256, overwrite=True)
    assert (await any_store.get("renders/v.mp4")).data == b"new"


async def test_presigned_links(served_store):
    """A link is read by plain HTTP, whole (200) and in ranges (206), with the object's own type."""
    await served_store.put("assets/voice.mp3", b"0123456789", content_type="audio/mpeg")
    link = await served_store.presign("assets/voice.mp3", expires=timedelta(hours=1))
    async with httpx.AsyncClient() as http:
        whole = await http.get(link)
        part = await http.get(link, headers={"Range": "bytes=2-4"})
        tampered = await http.get(link.replace("voice.mp3", "other.mp3"))
    assert (whole.status_code, whole.content, whole.headers["content-type"]) == (
        200,
        b"0123456789",
        "audio/mpeg",
    )
    assert (part.status_code, part.content, part.headers["content-range"]) == (206, b"234", "bytes 2-4/10")
    assert tampered.status_code == 403


async def test_copies_keep_content_and_metadata(any_store):
    """A copy has the bytes, type and SHA-256 of its source, which stays."""
    await any_store.put("inbox/a.png", b"png", content_type="image/png", metadata={"sha256": "a" * 64})
    copied = await any_store.copy("inbox/a.png", "assets/a.png")
    assert (copied.key, copied.size, copied.content_type, copied.sha256) == (
        "assets/a.png",
        3,
        "image/png",
        "a" * 64,
    )
    assert (await any_store.get("inbox/a.png")).data == (await any_store.get("assets/a.png")).data == b"png"


async def test_removing(any_store):
    """A removed object is not found; removing it again is no error."""
    await any_store.put("a", b"1", content_type="text/plain")
    await any_store.remove("a")
    await any_store.remove("a")
    assert await any_store.exists("a") is None


async def test_what_others_named_can_be_read_and_moved(any_store, put_raw, tmp_path):
    """Names with spaces and accents, dropped in by a person, are listed, read, copied and removed."""
    key = "inbox/Zoë & co/my photo (1).jpg"
    await put_raw(any_store, key, b"jpg")
    assert [stat.key for stat in await any_store.list("inbox/")] == [key]
    assert (await any_store.get(key)).data == b"jpg"
    await any_store.download(key, tmp_path / "photo.jpg")
    await any_store.copy(key, "assets/photo.jpg")
    await any_store.remove(key)
    assert [stat.key for stat in await any_store.list("")] == ["assets/photo.jpg"]


async def test_what_others_named_keeps_its_name_where_it_is_moved(any_store, put_raw):
    """A copy, and what is written beside it, may use the names that are there; no others."""
    key, moved = "inbox/100% Zoë?/my photo.jpg", "inbox/.done/100% Zoë?/my photo.jpg"
    note = "inbox/.done/100% Zoë?/result.json"
    await put_raw(any_store, key, b"jpg")
    copied = await any_store.copy(key, moved)
    assert (copied.key, copied.etag) == (moved, (await any_store.stat(key)).etag)
    await any_store.put(note, b"{}", content_type="application/json", like=key)
    assert [stat.key for stat in await any_store.list("inbox/.done/")] == [moved, note]
    with pytest.raises(InvalidInput):
        await any_store.copy(key, "inbox/.done/Zoë/my photo.jpg")


async def test_a_large_object_is_not_read_into_memory(any_store):
    """Getting more than was allowed is refused; the connection stays usable."""
    await any_store.put("big", bytes(2 * MIB), content_type="text/plain")
    with pytest.raises(InvalidInput, match="2097152 bytes"):
        await any_store.get("big", max_bytes=MIB)
    assert (await any_store.get("big", max_bytes=2 * MIB)).stat.size == 2 * MIB

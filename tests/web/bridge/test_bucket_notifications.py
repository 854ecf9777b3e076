"""What stores say is read as they say it; what is not about a waiting upload is passed over."""

import json

import pytest

from avatar.errors import InvalidInput
from avatar.web.bucket_notifications import WrittenObject, from_filer, from_s3, uploads_in
from tests.web.bridge.conftest import dumped, s3_notification


def filer_notice(path, **entry):
    """As weed 4.48 sends it after a PUT by S3."""
    parent, _, name = path.rpartition("/")
    attributes = {"file_size": 4, "mtime": 1795320163, "md5": "OYUz1IER6fZksfZMsQxLYw=="}
    chunk = {"size": 4, "modified_ts_ns": 1795320163238285608, "fid": {"volume_id": 1}}
    new = {"name": name, "attributes": attributes, "chunks": [chunk]} | entry
    message = {"new_entry": new, "new_parent_path": parent, "delete_chunks": True, "signatures": [1]}
    return {"key": path, "event_type": "create", "message": message}


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("inbox/a/voice.mp3", "inbox/a/voice.mp3"),
        ("inbox/J%C3%B6+B/my+voice%2B1.mp3", "inbox/Jö B/my voice+1.mp3"),
        ("inbox%2Fa%2Fvoice.mp3", "inbox/a/voice.mp3"),
    ],
)
def test_an_s3_key_is_decoded(key, meant):
    """Keys arrive encoded as in a form: plus is a blank, and a slash may be encoded too."""
    assert from_s3(dumped(s3_notification(key))) == [WrittenObject("avatar", meant)]


@pytest.mark.parametrize(
    "name", ["s3:ObjectRemoved:Delete", "s3:ObjectAccessed:Get", "s3:Replication:Failed"]
)
def test_what_writes_nothing_is_passed_over(name):
    """Removals, reads and the like are no news."""
    assert from_s3(dumped(s3_notification("inbox/a/voice.mp3", name=name))) == []


def test_a_test_of_the_connection_is_fine():
    """S3 sends one without records when it is set up."""
    assert from_s3(b'{"Service":"Amazon S3","Event":"s3:TestEvent","Bucket":"avatar"}') == []


def test_names_without_a_prefix_are_those_of_aws():
    """AWS says ObjectCreated:Put, MinIO s3:ObjectCreated:Put; etag and sequencer may be missing."""
    notice = s3_notification("inbox/a/b", name="ObjectCreated:CompleteMultipartUpload")
    del notice["Records"][0]["s3"]["object"]["eTag"], notice["Records"][0]["s3"]["object"]["sequencer"]
    assert from_s3(dumped(notice)) == [WrittenObject("avatar", "inbox/a/b")]


def test_a_filer_message_is_read():
    """Bucket and key are in the path, unencoded."""
    (written,) = from_filer(dumped(filer_notice("/buckets/avatar/inbox/Jö +1/voice.mp3")))
    assert (written.bucket, written.key) == ("avatar", "inbox/Jö +1/voice.mp3")


def test_after_a_rename_the_new_path_counts():
    """The key of such a message is the path of before."""
    notice = filer_notice("/buckets/avatar/inbox/a/voice.mp3") | {"key": "/buckets/avatar/tmp/x"}
    assert [written.key for written in from_filer(dumped(notice))] == ["inbox/a/voice.mp3"]


@pytest.mark.parametrize(
    "notice",
    [
        filer_notice("/buckets/avatar/inbox/a", is_directory=True),
        {"key": "/buckets/avatar/inbox/a/b", "event_type": "delete", "message": {"old_entry": {"name": "b"}}},
        filer_notice("/etc/passwd"),
        filer_notice("/buckets/avatar"),
    ],
    ids=["folder", "deleted", "elsewhere", "bucket"],
)
def test_filer_messages_without_an_object_are_passed_over(notice):
    """Folders, deletions and what is in no bucket."""
    assert from_filer(dumped(notice)) == []


@pytest.mark.parametrize("read", [from_s3, from_filer])
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"x"',
        b"\xff\xfe",
        b'{"Records":[{}]}{',
        b"[" * 100_000,
        b'{"Records":7,"key":7}',
    ],
    ids=repr,
)
def test_what_is_no_notification_is_refused(read, body):
    """Not JSON, or not of that form: the error says what is wrong and repeats nothing of it."""
    with pytest.raises(InvalidInput, match="not a notification") as refused:
        read(body)
    assert len(str(refused.value)) < 200


@pytest.mark.parametrize(
    "key",
    [
        "inbox/.done/a/voice.mp3",
        "inbox/.failed/a/reason.txt",
        "inbox/.taken/a/voice.mp3",
        "inbox/nightly.csv",
        "inbox/a/",
        "inbox//voice.mp3",
        "inbox/a/../../videos/1.mp4",
        "inbox/a\n/voice.mp3",
        "inbox/" + "a" * 1000 + "/voice.mp3",
        "videos/a/voice.mp3",
        "inbox",
        "inboxes/a/voice.mp3",
    ],
)
def test_what_is_no_upload_is_passed_over(key):
    """Ours (`.done` …), files in no folder, folders without a file, what no store would find, and everything outside of the inbox."""
    assert uploads_in([WrittenObject("avatar", key)], "avatar", "inbox/") == set()


def test_an_upload_is_a_folder_of_the_inbox():
    """Whatever is in it belongs to it; another bucket's inbox is not ours."""
    written = [WrittenObject("avatar", "in/box/a/voices/de.mp3"), WrittenObject("other", "in/box/b/x")]
    assert uploads_in(written, "avatar", "in/box/") == {"a"}


def test_several_records_are_all_read():
    """One notification may tell of many objects."""
    notice = s3_notification("inbox/a/1")
    notice["Records"] += s3_notification("inbox/b/2")["Records"]
    assert [written.key for written in from_s3(json.dumps(notice).encode())] == ["inbox/a/1", "inbox/b/2"]

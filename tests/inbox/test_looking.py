"""What lies in the inbox, and what it asks for."""

import asyncio
import json
from datetime import UTC, datetime

import pytest

from avatar.errors import StoreUnavailable
from avatar.inbox.sweep import Sweep
from avatar.inbox.uploads import File, Upload, list_settled_uploads, list_uploads, read_contents
from tests.inbox.conftest import PNG, WAV

ODD = ["Zoë & co (1)", "v1.2 final", "日本語", "100% sure?", "a+b#c", "it's 'quoted'"]


async def only(inbox):
    (upload,) = (await list_uploads(inbox)).uploads
    return upload


async def asked(inbox):
    return await read_contents(inbox, await only(inbox))


def voices(contents):
    return [row["voice"].rpartition("/")[2] for row in contents.rows]


async def test_an_empty_inbox_is_one_listing(inbox, user, monkeypatch):
    """Nothing there, or nothing but what was filed away: one request to the store."""
    user.drop(".done/anna/portrait.png", PNG)
    calls = []
    real = inbox.store._connection.run

    async def counted(action, call, **given):
        calls.append(action)
        return await real(action, call, **given)

    monkeypatch.setattr(inbox.store._connection, "run", counted)

    async def nobody(_):
        raise AssertionError

    found = await Sweep(inbox, "run-1", nobody).run()
    assert (bool(found), calls) == (False, ["list inbox/"])


@pytest.mark.parametrize("name", ODD)
async def test_folders_are_named_as_users_write_them(inbox, user, name):
    """Spaces, accents, dots, percent and question marks: each is one upload with one job that finds its files."""
    user.pair(name)
    upload = await only(inbox)
    assert upload.name == name
    (row,) = (await read_contents(inbox, upload)).rows
    from avatar.job.inputs import ingest

    assert (await ingest(inbox.workspace, row["portrait"], what="portrait")).size == len(PNG)


async def test_what_belongs_to_batches_is_left_alone(inbox, user):
    """A manifest in inbox/, and a folder that has one in it, are no uploads; other loose files are seen."""
    for key in ("nightly.csv", "may/jobs.jsonl", "may/anna.png", "may/anna.mp3"):
        user.drop(key)
    found = await list_uploads(inbox)
    assert (found.uploads, found.loose) == ((), None)
    user.drop("voice.mp3")
    assert [file.key for file in (await list_uploads(inbox)).loose.files] == ["inbox/voice.mp3"]


async def test_another_file_or_other_content_is_another_upload(inbox, user):
    """The signature stays while nothing changes, and changes with a file that is added or overwritten."""
    user.pair("anna")
    first = (await only(inbox)).signature
    assert (await only(inbox)).signature == first
    user.drop("anna/voice.mp3", WAV + b"1")
    second = (await only(inbox)).signature
    user.drop("anna/notes.txt", b"")
    assert len({first, second, (await only(inbox)).signature}) == 3


async def test_one_portrait_with_many_voices(inbox, user):
    """A row for each sound, whatever its name and depth; hidden files and texts are none."""
    user.drop("anna/portrait.jpeg", b"\xff\xd8\xff" + bytes(20))
    for name in ("de.mp3", "fr/bonjour", "Voice.WAV", "._de.mp3", "notes.txt", ".DS_Store"):
        user.drop(f"anna/{name}", WAV)
    contents = await asked(inbox)
    assert voices(contents) == ["Voice.WAV", "de.mp3", "bonjour"]
    assert {row["portrait"] for row in contents.rows} == {
        f"s3://{inbox.store.bucket}/inbox/anna/portrait.jpeg"
    }


async def test_captions_go_with_their_voice(inbox, user):
    """By the voice's name where there are several voices; a text only by it; as job.json says, if it does."""
    for name in ("portrait.png", "a.mp3", "a.de.srt", "a.en.txt", "notes.txt", "other.vtt"):
        user.drop(f"anna/{name}", PNG if name == "portrait.png" else WAV)
    folder = f"s3://{inbox.store.bucket}/inbox/anna/"
    (row,) = (await asked(inbox)).rows
    assert row["captions"] == [folder + name for name in ("a.de.srt", "a.en.txt", "other.vtt")]
    user.drop("anna/b.mp3", WAV)
    rows = (await asked(inbox)).rows
    assert rows[0]["captions"] == [folder + name for name in ("a.de.srt", "a.en.txt")]
    assert "captions" not in rows[1]
    user.drop("anna/job.json", '{"voice": "b.mp3", "captions": ["other.vtt"]}')
    (row,) = (await asked(inbox)).rows
    assert row["captions"] == [folder + "other.vtt"]


async def test_a_single_pair_may_have_any_names(inbox, user):
    """Without telling names the first bytes tell which is which."""
    user.drop("anna/IMG_1234", PNG)
    user.drop("anna/recording", WAV)
    assert voices(await asked(inbox)) == ["recording"]


@pytest.mark.parametrize(
    ("files", "missing"),
    [
        (("voice.mp3",), "portrait"),
        (("portrait.png",), "voice"),
        (("notes.txt",), "portrait"),
        (("a.png", "b.png", "voice.mp3"), "which of its 2 images"),
        (("job.json",), "'anna.png'"),
    ],
)
async def test_half_an_upload_says_what_is_missing(inbox, user, files, missing):
    """It has no jobs yet, and it is no failure."""
    for name in files:
        data = '{"portrait": "anna.png", "voice": "v.mp3"}' if name == "job.json" else PNG
        user.drop(f"anna/{name}", data)
    contents = await asked(inbox)
    assert missing in contents.missing
    assert (contents.rows, contents.fault) == ((), "")


async def test_a_job_says_what_to_render(inbox, user):
    """job.json: names of this folder, addresses, and every other field of a job; what it leaves out is found."""
    user.pair("anna")
    user.drop("anna/other.png", PNG)
    job = {"portrait": "./other.png", "voice": "s3://avatar/x.mp3", "prompt": "smile", "max_cost": "2.50"}
    user.drop("anna/job.json", b"\xef\xbb\xbf" + json.dumps(job | {"provider": None}).encode())
    (row,) = (await asked(inbox)).rows
    folder = f"s3://{inbox.store.bucket}/inbox/anna/"
    assert row == job | {"title": "anna", "portrait": folder + "other.png"}
    user.drop("anna/job.json", '{"prompt": "smile"}')
    (row,) = (await asked(inbox)).rows
    files = {"portrait": folder + "portrait.png", "voice": folder + "voice.mp3"}
    assert row == files | {"title": "anna", "prompt": "smile"}
    user.drop("anna/second voice.mp3")
    user.drop("anna/job.json", '{"labels": {"campaign": "spring"}}')
    assert [row["title"] for row in (await asked(inbox)).rows] == ["anna: second voice", "anna: voice"]


@pytest.mark.parametrize(
    ("job", "fault"),
    [
        ("{", "cannot be read"),
        (b"\xff\xfe{", "cannot be read"),
        ("[" * 20000, "cannot be read"),
        ("[1]", "not a JSON object"),
        (" " * 40000, "no more than"),
        ('{"portrait": 7}', "must be the name"),
        ('{"portrait": "/etc/passwd"}', "neither a file of this folder"),
        ('{"voice": "~/.ssh/id_rsa"}', "neither a file of this folder"),
        ('{"voice": "../bob/voice.mp3"}', "neither a file of this folder"),
        ('{"voice": "file:///etc/passwd"}', "neither a file of this folder"),
    ],
)
async def test_a_job_that_cannot_be_used_is_a_fault(inbox, user, job, fault):
    """It says why; a path would be one of the worker's machine, and is not read."""
    user.pair("anna")
    user.drop("anna/job.json", job)
    contents = await asked(inbox)
    assert fault in contents.fault
    assert contents.rows == ()


async def test_what_still_changes_is_waited_for(make_inbox, user):
    """Not settled, it is left alone; with patience it is there once it has been quiet for long enough."""
    slow = make_inbox(settle_seconds=600)
    user.pair("anna")
    assert (await only(slow)).age < 600
    upload = (await list_settled_uploads(slow, 0)).uploads[0]
    assert upload.age < 600
    async with asyncio.timeout(60):
        (upload,) = (await list_settled_uploads(make_inbox(settle_seconds=2), 600)).uploads
    assert upload.age >= 2


async def test_a_store_that_fails_is_no_empty_inbox(inbox, monkeypatch):
    """It is an error, and nothing is taken for gone."""

    async def fail(*_, **__):
        raise StoreUnavailable("The store did not answer.")

    monkeypatch.setattr(inbox.store, "list", fail)
    with pytest.raises(StoreUnavailable):
        await list_uploads(inbox)


def test_names_that_cannot_be_moved_are_known():
    """Keys that no request can name, or that leave no room for the folder they are filed in."""
    for key in ("inbox/a//b.png", "inbox/a/../b.png", "inbox/a/\x07.png", "inbox/" + "x" * 850):
        assert Upload("a", (File(key=key, etag="", size=1),), datetime.now(UTC), 0).unusable == key

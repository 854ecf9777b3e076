"""Uploads that have ended leave the inbox, and nothing of them is lost on the way."""

import json
from decimal import Decimal

import pytest

from avatar.batch.models import Outcome, RowState
from avatar.errors import BatchIncomplete, StoreUnavailable
from avatar.inbox.finish import decide_ending, file_away, require_done, write_end
from avatar.inbox.upload_owner import Ending, Filed
from tests.inbox.conftest import PNG, WAV
from tests.inbox.test_looking import ODD

MADE = Outcome(
    line=1,
    state=RowState.PUBLISHED,
    job_id="a" * 32,
    video="s3://avatar/videos/a/video.mp4",
    quoted=Decimal("1.04"),
    billed=Decimal("1.04"),
)


def outcome(inbox, taken, state=RowState.PUBLISHED, **more):
    """How the first row ended."""
    return MADE.model_copy(update={"state": state, "voice": taken.rows[0]["voice"]} | more)


async def ended(inbox, taken, state=RowState.PUBLISHED, **more):
    return await write_end(inbox, decide_ending(inbox, taken, [outcome(inbox, taken, state, **more)]))


async def settle(inbox, runs, state=RowState.PUBLISHED, **more) -> Filed:
    """The one upload, rendered and filed."""
    return await file_away(inbox, await ended(inbox, await runs.take(), state, **more))


@pytest.mark.parametrize("name", ODD)
async def test_what_is_done_is_filed_with_its_result(inbox, user, runs, name):
    """The files as they were, under the name the user gave, and result.json; nothing is left in the inbox."""
    user.pair(name)
    user.drop(f"{name}/deeper/notes é.txt", "hello")
    filed = await settle(inbox, runs)
    assert user.listing() == sorted(
        f".done/{name}/{file}" for file in ("portrait.png", "voice.mp3", "deeper/notes é.txt", "result.json")
    )
    assert user.read(f".done/{name}/deeper/notes é.txt") == b"hello"
    result = json.loads(user.read(f".done/{name}/result.json"))
    assert (result["upload"], result["cost"]["billed"]) == (name, "1.04")
    assert result["videos"][0]["voice"] == "voice.mp3"
    assert result["videos"][0]["video"] == MADE.video
    assert (filed.ending, filed.where) == (Ending.DONE, f"inbox/.done/{name}/")


async def test_what_failed_is_filed_with_the_reason(inbox, user, runs):
    """What happened, what it cost, what was kept, what to do next; files by the names they have."""
    user.pair("anna")
    user.drop("anna/reason.txt", "the user's own")
    taken = await runs.take()
    reason = f"The voice {taken.rows[0]['voice']!r} is silent. Nothing was sent or spent."
    done = await ended(inbox, taken, RowState.BAD, reason=reason, hint="Speak up.", billed=None)
    await file_away(inbox, done)
    assert user.read(".failed/anna/reason.txt") == b"the user's own"
    told = user.read(".failed/anna/_reason.txt").decode()
    for words in (
        "voice.mp3: bad. The voice 'voice.mp3' is silent.",
        "Nothing was charged",
        "as they were uploaded",
        "Speak up.",
        "inbox/anna/",
    ):
        assert words in told


async def test_a_second_upload_of_the_same_name_replaces_nothing(inbox, user, runs):
    """It is filed in a folder of its own, beside what was filed before."""
    for content in (b"1", b"2", b"1"):
        user.drop("anna/portrait.png", PNG)
        user.drop("anna/voice.mp3", WAV + content)
        await settle(inbox, runs)
    voices = [key for key in user.listing(".done") if key.endswith("voice.mp3")]
    assert [user.read(key)[-1:] for key in voices].count(b"1") == 2
    assert (len(voices), voices.count(".done/anna/voice.mp3")) == (3, 1)


async def test_what_was_overwritten_meanwhile_stays(inbox, user, runs):
    """The new file is in the inbox and is taken next; no copy passes for what was rendered."""
    user.pair("anna")
    done = await ended(inbox, await runs.take())
    user.drop("anna/voice.mp3", WAV + b"new")
    filed = await file_away(inbox, done)
    assert filed.changed
    assert user.read("anna/voice.mp3") == WAV + b"new"
    assert user.listing(".done") == [".done/anna/portrait.png", ".done/anna/result.json"]
    again = await runs.take("run-2")
    assert again.rows[0]["portrait"].endswith("inbox/anna/portrait.png")


async def test_a_voice_added_meanwhile_keeps_its_portrait(inbox, user, runs):
    """The folder is taken again as it is now, with both voices, of which one costs nothing any more."""
    user.pair("anna")
    done = await ended(inbox, await runs.take())
    user.drop("anna/second.mp3", WAV)
    await file_away(inbox, done)
    assert len((await runs.take("run-2")).rows) == 2


@pytest.mark.parametrize("moment", ["copy", "stat", "exists", "remove"])
async def test_overwritten_in_the_middle_of_filing_it_is_not_lost(inbox, user, runs, monkeypatch, moment):
    """Whichever step of the move it falls into, the new file is still there afterwards."""
    user.pair("anna")
    done = await ended(inbox, await runs.take())
    real, voice = getattr(inbox.store, moment), "inbox/anna/voice.mp3"
    first = [True]

    async def step(key, *more):
        if voice in key and first and moment != "remove":
            first.clear()
            user.drop("anna/voice.mp3", WAV + b"new")
        result = await real(key, *more)
        if moment == "remove" and first and "portrait" in key:
            first.clear()
            user.drop("anna/voice.mp3", WAV + b"new")
        return result

    monkeypatch.setattr(inbox.store, moment, step)
    assert (await file_away(inbox, done)).changed
    assert user.read("anna/voice.mp3") == WAV + b"new"
    copies = [key for key in user.listing(".done") if key.endswith("voice.mp3")]
    assert all(user.read(key) == WAV for key in copies)


@pytest.mark.parametrize("broken", range(1, 22, 2))
async def test_filing_that_was_cut_short_is_finished_by_another_run(inbox, user, runs, monkeypatch, broken):
    """The store fails at any of its steps: nothing is lost, and the next sweep puts it where it belongs."""
    user.pair("anna")
    done = await ended(inbox, await runs.take())
    calls = []

    def breaking(real):
        async def call(*given, **more):
            calls.append(given)
            if len(calls) == broken + 1:
                raise StoreUnavailable("The store did not answer.")
            return await real(*given, **more)

        return call

    with monkeypatch.context() as patch:
        for name in ("copy", "stat", "put", "exists", "remove", "list"):
            patch.setattr(inbox.store, name, breaking(getattr(inbox.store, name)))
        with pytest.raises(StoreUnavailable):
            await file_away(inbox, done)
    runs.over.add("run-1")
    found = await runs.sweep("run-2")
    assert [each.ending for each in found.filed] == [Ending.DONE]
    assert found.taken == ()
    assert user.listing() == [
        ".done/anna/portrait.png",
        ".done/anna/result.json",
        ".done/anna/voice.mp3",
    ]


async def test_one_upload_that_cannot_be_filed_keeps_no_other(inbox, user, runs, monkeypatch):
    """It is tried again by the next sweep; the others are taken."""
    user.pair("anna")
    await ended(inbox, await runs.take())
    runs.over.add("run-1")
    user.pair("bob")
    real = inbox.store.copy

    async def fail(key, target):
        if "anna" in key:
            raise StoreUnavailable("The store did not copy it.")
        return await real(key, target)

    monkeypatch.setattr(inbox.store, "copy", fail)
    found = await runs.sweep("run-2")
    assert ([taken.name for taken in found.taken], found.filed) == (["bob"], ())
    assert "anna/voice.mp3" in user.listing()


async def test_a_large_upload_in_parts_is_filed_too(inbox, user, runs):
    """Its ETag is no digest, and does not survive the copy; its size does."""
    import io

    user.drop("anna/portrait.png", PNG)
    body = WAV + bytes(6 * 1024 * 1024)
    user.minio.put_object(
        user.bucket, "inbox/anna/voice.mp3", io.BytesIO(body), -1, part_size=5 * 1024 * 1024
    )
    assert not (await settle(inbox, runs)).changed
    assert user.read(".done/anna/voice.mp3") == body


def test_a_run_with_an_upload_left_over_is_seen_to_fail():
    """It names each with its place; all done, nothing is raised."""
    done = Filed("anna", Ending.DONE, "inbox/.done/anna/", "")
    require_done([done])
    with pytest.raises(BatchIncomplete, match="1 of 2 uploads have no video: bob") as caught:
        require_done([done, Filed("bob", Ending.FAILED, "inbox/.failed/bob/", "")])
    assert "reason.txt" in caught.value.hint

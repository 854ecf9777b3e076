"""One run for each upload, whatever dies and whoever comes at the same time."""

import asyncio

from avatar.batch.models import Outcome, RowState
from avatar.errors import StoreUnavailable
from avatar.inbox import upload_owner as taking
from avatar.inbox.finish import decide_ending, file_away, write_end
from avatar.inbox.sweep import describe
from avatar.inbox.upload_owner import Ending, note_end
from tests.inbox.conftest import PNG, WAV

LATER = Outcome(line=1, state=RowState.FAILED, job_id="j", reason="The provider was away.", passes=True)


def names(found):
    return [taken.name for taken in found.taken]


async def put_off(inbox, taken, outcome=LATER, **more):
    """The run of `taken` ends with this outcome, and the wait is over."""
    judged = decide_ending(inbox, taken, [outcome])
    judged = judged.model_copy(update={"wait_seconds": 0} | more)
    assert await write_end(inbox, judged)
    return judged


async def test_overlapping_sweeps_share_nothing(inbox, user, runs):
    """Eight sweeps at once over five uploads: each upload is taken by exactly one."""
    for name in "abcde":
        user.pair(name)
    founds = await asyncio.gather(*(runs.sweep(f"run-{number}") for number in range(8)))
    assert sorted(name for found in founds for name in names(found)) == list("abcde")
    assert not await runs.sweep("run-9")


async def test_a_run_that_goes_on_finds_what_it_had(inbox, user, runs):
    """Suspended or killed and started again, it gets its own uploads with the same jobs, and nothing that came since."""
    user.pair("anna")
    user.pair("bob")
    first = await runs.sweep("run-1")
    user.pair("carl")
    user.drop("bob/voice.mp3", WAV + b"changed")
    assert (await runs.sweep("run-1")).taken == first.taken
    assert names(await runs.sweep("run-2")) == ["carl"]


async def test_what_a_dead_run_had_is_taken_over_a_bounded_number_of_times(inbox, user, runs):
    """Twice after the first; then it is given up with the reason, instead of killing runs for ever."""
    user.pair("anna")
    for number in range(3):
        taken = await rest(inbox, await runs.take(f"run-{number}"))
        assert (taken.failures, taken.fault) == (number, "")
        assert not await runs.sweep("another")
        runs.over.add(f"run-{number}")
    last = await runs.take("run-3")
    assert (last.rows, last.fault.startswith("It was given up after 3 tries")) == ((), True)


async def rest(inbox, taken):
    """As if its wait were over."""
    rested = taken.model_copy(update={"wait_seconds": 0})
    assert await note_end(inbox, rested)
    return rested


async def test_what_killed_its_run_twice_is_taken_alone(inbox, user, runs):
    """So that it takes no other upload with it a third time; what is new goes first."""
    for name in ("anna", "bomb"):
        user.pair(name)
    for number in range(2):
        found = await runs.sweep(f"run-{number}")
        assert names(found) == ["anna", "bomb"]
        for taken in found.taken:
            await rest(inbox, taken)
        runs.over.add(f"run-{number}")
    user.pair("carl")
    assert names(await runs.sweep("run-2")) == ["carl"]
    assert names(await runs.sweep("run-3")) == ["anna"]
    assert names(await runs.sweep("run-4")) == ["bomb"]


async def test_what_may_pass_is_tried_again_after_a_while(inbox, user, runs):
    """Not at once, not while its run is at work, and three times in all; then it has failed, with the last reason."""
    user.pair("anna")
    for number in range(2):
        taken = await runs.take(f"run-{number}")
        judged = decide_ending(inbox, taken, [LATER])
        assert (judged.ending, judged.wait_seconds) == (Ending.LATER, taking.RETRY_SECONDS[number])
        assert await write_end(inbox, judged)
        runs.over.add(f"run-{number}")
        assert not await runs.sweep("too-soon")
        await rest(inbox, judged)
    judged = decide_ending(inbox, await runs.take("run-2"), [LATER])
    assert judged.ending is Ending.FAILED
    assert "given up after 3 tries" in judged.told
    assert "The provider was away." in judged.told


async def test_waiting_for_tomorrow_is_no_failure(inbox, user, runs):
    """The day's budget, a render to be settled: put off for days, however often that is."""
    user.pair("anna")
    for state, passes in ((RowState.REFUSED, True), (RowState.UNKNOWN, False)) * 3:
        run = f"run-{state}-{len(runs.over)}"
        outcome = LATER.model_copy(update={"state": state, "passes": passes})
        judged = await put_off(inbox, await runs.take(run), outcome)
        assert (judged.ending, judged.failures) == (Ending.LATER, 0)
        runs.over.add(run)
    assert judged.delays == 6
    assert decide_ending(inbox, judged.model_copy(update={"delays": 287}), [outcome]).ending is Ending.FAILED


async def test_a_run_taken_for_dead_files_nothing(inbox, user, runs):
    """Taken over meanwhile, what it says is not written: the upload is the other's now."""
    user.pair("anna")
    taken = await rest(inbox, await runs.take("run-1"))
    runs.over.add("run-1")
    other = await runs.take("run-2")
    assert await write_end(inbox, decide_ending(inbox, taken, [LATER])) is None
    assert (await runs.sweep("run-2")).taken == (other,)


async def test_what_was_filed_while_we_looked_is_not_taken(inbox, user, runs):
    """A sweep that read the inbox a moment too early finds the folder gone, and leaves no note."""
    user.pair("anna")
    from avatar.inbox.uploads import list_uploads, read_contents

    (upload,) = (await list_uploads(inbox)).uploads
    contents = await read_contents(inbox, upload)
    done = decide_ending(inbox, await runs.take(), [LATER.model_copy(update={"state": RowState.PUBLISHED})])
    await file_away(inbox, await write_end(inbox, done))
    assert await taking.note_taken(inbox, upload, contents, "run-2", None) is None
    assert user.listing(".taken") == []


async def test_a_folder_is_left_alone_while_a_run_has_it(inbox, user, runs):
    """Changed meanwhile, it is not taken a second time until the run is over; then as it is."""
    user.pair("anna")
    await runs.take("run-1")
    user.drop("anna/second.mp3", WAV)
    assert not await runs.sweep("run-2")
    runs.over.add("run-1")
    assert len((await runs.take("run-3")).rows) == 2
    assert len(user.listing(".taken")) == 1


async def test_half_an_upload_is_told_once_and_never_moved(make_inbox, user, runs):
    """After a while without a change, in the run and beside it; complete, it is taken, and the notice goes."""
    user.drop("Zoë & co/portrait.png", PNG)
    user.drop("lost.mp3")
    assert not await runs.sweep("run-1")
    runs.inbox = make_inbox(report_after_seconds=1)
    await asyncio.sleep(1.1)
    told = [describe(runs.inbox, each) for each in (await runs.sweep("run-2")).waiting]
    assert told[0].startswith("inbox/Zoë & co/ waits for its voice")
    assert "lost.mp3" in told[1]
    assert not await runs.sweep("run-3")
    notice, loose = user.listing(".waiting")
    assert user.read(notice).decode().strip() == told[0]
    user.drop("Zoë & co/voice.mp3")
    assert names(await runs.sweep("run-4")) == ["Zoë & co"]
    assert user.listing(".waiting") == [loose]


async def test_a_provider_without_a_key_is_waited_for(inbox, user, runs):
    """Nothing is taken or filed as failed because a setting is missing; other uploads are taken."""
    user.pair("anna")
    user.drop("anna/job.json", '{"provider": "fal"}')
    user.pair("bob")
    assert names(await runs.sweep("run-1")) == ["bob"]
    await asyncio.sleep(1.1)
    (waiting,) = (await runs.sweep("run-2")).waiting
    assert "AVATAR_FAL__KEY" in waiting.why


async def test_nobody_is_taken_for_dead_when_nobody_knows(inbox, user, runs):
    """If Prefect does not say whether a run is over, the sweep fails, and its uploads stay with it."""
    import pytest

    user.pair("anna")
    await rest(inbox, await runs.take("run-1"))

    async def unknown(_):
        raise ConnectionError("Prefect is away")

    runs.is_alive = unknown
    with pytest.raises(ConnectionError):
        await runs.sweep("run-2")
    assert len(user.listing(".taken")) == 1


async def test_notes_of_another_version_are_left_alone(inbox, user, runs):
    """A note that cannot be read holds its upload, and no other."""
    user.pair("anna")
    taken = await runs.take("run-1")
    user.drop(f".taken/{taken.signature}-000001.json", "{}")
    user.pair("bob")
    assert names(await runs.sweep("run-2")) == ["bob"]


async def test_a_store_that_fails_keeps_the_notes(inbox, user, runs, monkeypatch):
    """Notes that cannot be read are not taken for gone: the sweep fails."""
    import pytest

    user.pair("anna")
    await runs.take("run-1")

    async def fail(*_, **__):
        raise StoreUnavailable("The store did not answer.")

    monkeypatch.setattr(inbox.store, "get", fail)
    with pytest.raises(StoreUnavailable):
        await runs.sweep("run-2")

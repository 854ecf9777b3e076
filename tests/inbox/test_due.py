"""What a sweep would do something about, told without doing it."""

from avatar.inbox.sweep import Sweep


async def due(inbox, runs, quiet=0.0):
    return await Sweep(inbox, "", runs.is_alive).due(quiet)


async def test_a_whole_upload_is_due_until_a_run_has_it(inbox, runs, user):
    """And again once that run is over without a word of it, if it has rested."""
    assert await due(inbox, runs) == set()
    user.pair("anna")
    assert len(await due(inbox, runs)) == 1
    assert await due(inbox, runs, quiet=60.0) == set()
    await runs.take("run-1")
    assert await due(inbox, runs) == set()


async def test_the_look_changes_nothing(inbox, runs, user):
    user.pair("anna")
    user.drop("loose.png")
    before = user.listing()
    await due(inbox, runs)
    assert user.listing() == before


async def test_what_a_run_has_done_is_due_no_more(inbox, runs, user, monkeypatch):
    """Half an upload is due for its note, once; a note on what was removed is due to be forgotten."""
    monkeypatch.setattr("avatar.inbox.sweep.read_contents", _missing)
    inbox.settings.__dict__["report_after_seconds"] = 0.0
    user.drop("half/voice.mp3")
    assert len(await due(inbox, runs)) == 1
    await runs.sweep("run-1")
    assert await due(inbox, runs) == set()
    user.remove("half/voice.mp3")
    assert len(await due(inbox, runs)) == 1
    await runs.sweep("run-2")
    assert await due(inbox, runs) == set()


async def _missing(*_):
    from avatar.inbox.uploads import Contents

    return Contents(missing="its portrait")


async def test_the_upload_of_a_run_that_is_over_is_due_once_it_rested(make_inbox, user, monkeypatch):
    from tests.inbox.conftest import Runs

    inbox = make_inbox()
    runs = Runs(inbox)
    user.pair("anna")
    await runs.take("run-1")
    monkeypatch.setattr("avatar.inbox.upload_owner.LatestNote.rested", property(lambda _: True))
    assert await due(inbox, runs) == set()
    runs.over.add("run-1")
    assert len(await due(inbox, runs)) == 1

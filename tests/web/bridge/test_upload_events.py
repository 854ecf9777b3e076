"""One event per burst: after quiet, for whole uploads only, and until Prefect has it."""

import asyncio

import httpx
import pytest

from avatar.errors import StoreUnavailable
from avatar.inbox.uploads import Inbox
from avatar.web import bucket_notifications
from avatar.web.bucket_notifications import BURST_SECONDS, EVENT, UploadEvents, WaitingUploads, upload_event
from avatar.workspace import Workspace
from tests.web.bridge.conftest import SETTLE

PAIR = ("portrait.png", "voice.mp3")
NOW = 1_795_000_000.0


@pytest.fixture
def noted(events, drop):
    """Drops files into an upload, and notes it as a notification would."""

    async def note(upload, *names, at=NOW):
        await drop(upload, *names)
        events.note({upload}, at)

    return note


async def test_a_quiet_pair_is_told_of_once(events, prefect, noted):
    """Nothing while it may still change, one event when it was quiet for long enough, and never again."""
    await noted("a", *PAIR)
    assert await events.step(NOW + 1) == SETTLE - 1
    assert prefect.told == []
    assert await events.step(NOW + SETTLE) == 0
    assert await events.step(NOW + SETTLE) is None
    assert prefect.told == [["a"]]
    (event,) = prefect.events
    assert (event["event"], event["resource"]) == (EVENT, {"prefect.resource.id": "avatar.inbox"})
    await noted("a", at=NOW + 50)
    assert await events.step(NOW + 100) == 0
    assert (events.waiting, prefect.asked) == ({}, 1)


async def test_a_burst_is_one_event(events, prefect, noted):
    """Uploads that arrive close together wait for each other."""
    for number in range(3):
        await noted(f"a{number}", *PAIR, at=NOW + number)
    assert await events.step(NOW + SETTLE) == 2
    await events.step(NOW + SETTLE + 2)
    await events.step(NOW + SETTLE + 2)
    assert prefect.told == [["a0", "a1", "a2"]]


async def test_nobody_waits_for_a_stream_without_end(events, prefect, noted):
    """Whole uploads are told of after some seconds, although others still arrive."""
    await noted("first", *PAIR)
    await noted("late", *PAIR, at=NOW + SETTLE + BURST_SECONDS - 1)
    assert await events.step(NOW + SETTLE + BURST_SECONDS - 1) == 1
    await events.step(NOW + SETTLE + BURST_SECONDS)
    await events.step(NOW + SETTLE + BURST_SECONDS)
    assert prefect.told == [["first"]]


async def test_half_an_upload_is_not_told_of(events, prefect, noted):
    """It is forgotten until the rest arrives, whose notification brings it back."""
    await noted("a", "portrait.png")
    await events.step(NOW + SETTLE)
    assert (events.waiting, prefect.asked) == ({}, 0)
    await noted("a", "voice.mp3", at=NOW + 60)
    await events.step(NOW + 60 + SETTLE)
    await events.step(NOW + 60 + SETTLE)
    assert prefect.told == [["a"]]


async def test_what_can_only_be_filed_away_is_told_of(events, prefect, noted, drop):
    """A job.json that cannot be read never becomes one: the run that is started files it with the reason."""
    await noted("a", "job.json")
    await events.step(NOW + SETTLE)
    await events.step(NOW + SETTLE)
    assert prefect.told == [["a"]]


async def test_the_same_files_again_are_another_upload(events, prefect, noted, store):
    """Dropped after the first were taken away, they are told of again, in an event of their own."""
    await noted("a", *PAIR)
    await events.step(NOW + SETTLE)
    for name in PAIR:
        written = (await store.stat(f"inbox/a/{name}")).modified
        await store.remove(f"inbox/a/{name}")
    while (await store.put("clock", b"", content_type="text/plain")).modified <= written:
        await asyncio.sleep(0.05)
    await noted("a", *PAIR, at=NOW + 60)
    await events.step(NOW + 70)
    await events.step(NOW + 70)
    assert prefect.told == [["a"], ["a"]]
    assert len({event["id"] for event in prefect.events}) == 2


async def test_the_folder_of_a_manifest_is_left_to_its_batch(events, prefect, noted):
    """It holds portraits and voices as an upload does."""
    await noted("a", *PAIR, "rows.csv")
    assert (await events.step(NOW + SETTLE), await events.step(NOW + SETTLE)) == (0, None)
    assert prefect.asked == 0


async def test_what_is_gone_is_not_told_of(events, prefect):
    """The bucket is looked at, not the notification believed."""
    events.note({"a"}, NOW)
    assert await events.step(NOW + SETTLE) == 0
    assert (await events.step(NOW + SETTLE), prefect.asked) == (None, 0)


async def test_an_old_notification_is_not_told_again(events, prefect, noted):
    """A store that delivers twice, also after the event was sent, starts nothing twice."""
    await noted("a", *PAIR)
    await events.step(NOW + SETTLE)
    await events.step(NOW + SETTLE)
    events.note({"a"}, NOW + 50)
    assert await events.step(NOW + 60) == 0
    assert (await events.step(NOW + 60), prefect.told) == (None, [["a"]])


async def test_prefect_away_loses_nothing(events, prefect, noted):
    """Uploads go on waiting, later ones beside them, and all are told of in one event when Prefect is back."""
    prefect.status = 503
    await noted("a", *PAIR)
    for later in (SETTLE, 10):
        with pytest.raises(httpx.HTTPStatusError):
            await events.step(NOW + later)
    await noted("b", *PAIR, at=NOW + 10)
    prefect.status = 204
    await events.step(NOW + 60)
    assert (prefect.told, events.waiting) == ([["a", "b"]], {})


async def test_an_event_whose_answer_was_lost_is_the_same_event(events, prefect, noted):
    """Prefect takes it once: its id follows from the uploads and their states."""
    await noted("a", *PAIR)
    prefect.keeps_quiet = 1
    with pytest.raises(httpx.HTTPStatusError):
        await events.step(NOW + SETTLE)
    await events.step(NOW + SETTLE + 1)
    first, second = prefect.events
    assert first["id"] == second["id"]


async def test_a_change_during_the_look_is_not_forgotten(events, prefect, noted, monkeypatch):
    """What changed while it was looked at goes on waiting."""
    await noted("a", *PAIR)
    states = events.uploads.states

    async def slowly(names):
        events.note({"a"}, NOW + 4)
        return await states(names)

    monkeypatch.setattr(events.uploads, "states", slowly)
    await events.step(NOW + SETTLE)
    assert events.waiting == {"a": NOW + 4}


async def test_what_is_remembered_is_bounded(events, monkeypatch):
    """The newest are kept; the sweep finds the others."""
    monkeypatch.setattr(bucket_notifications, "MOST_REMEMBERED", 2)
    events.note({"a"}, NOW)
    events.note({"b"}, NOW + 1)
    events.note({"a"}, NOW + 2)
    events.note({"c"}, NOW + 3)
    assert events.waiting == {"a": NOW + 2, "c": NOW + 3}


async def test_a_prefect_that_is_not_there_is_asked_again(events, prefect, noted, said):
    """The loop goes on by itself: it says once that Prefect is away, and once that it is back."""
    prefect.status = 503
    events.settle_seconds = 0
    await noted("a", *PAIR)
    async with asyncio.TaskGroup() as group:
        work = group.create_task(events.run())
        await until(lambda: prefect.asked)
        prefect.status = 204
        await until(lambda: prefect.told)
        await until(lambda: len(said) == 2)
        work.cancel()
    assert prefect.told == [["a"]]
    assert "503" in said[0]
    assert said[1] == "Prefect can be told of uploads again."


async def until(condition):
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


async def test_what_was_dropped_while_nobody_listened_is_found(events, prefect, drop, store):
    """The first thing a bridge does is to look into the inbox; what is taken, done or unreadable is left alone."""
    await drop("a", *PAIR)
    bucket = store._small
    bucket.put("inbox/b\tc/voice.mp3", b"1", "audio/mpeg", {})
    await drop(".done/b", *PAIR)
    await events.look_around(NOW)
    assert events.waiting == {"a": NOW}
    await events.step(NOW + SETTLE)
    await events.step(NOW + SETTLE)
    assert prefect.told == [["a"]]


async def test_an_event_that_is_refused_for_good_does_not_hold_up_others(events, prefect, noted, said):
    """422 means that it would be refused for ever: it is said, and the next one goes."""
    prefect.status = 422
    await noted("a", *PAIR)
    await events.step(NOW + SETTLE)
    await events.step(NOW + SETTLE)
    prefect.status = 204
    await noted("b", *PAIR, at=NOW + 10)
    await events.step(NOW + 20)
    await events.step(NOW + 20)
    assert prefect.told == [["b"]]
    assert "the sweep" in said[0]


async def test_a_page_that_is_no_prefect_is_not_believed(events, prefect, noted):
    """Only 204 means that Prefect has it: a login page answers 200 to everything."""
    prefect.status, prefect.page = 200, "<h1>Please log in</h1>"
    await noted("a", *PAIR)
    with pytest.raises(httpx.HTTPStatusError):
        await events.step(NOW + SETTLE)
    assert events.waiting == {"a": NOW}


async def test_prefects_own_protections_are_respected(events, prefect, noted, monkeypatch):
    """Basic authentication and the CSRF token go along, as Prefect's own client sends them."""
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "admin:pw")
    await noted("a", *PAIR)
    await events.step(NOW + SETTLE)
    await events.step(NOW + SETTLE)
    assert prefect.headers["Authorization"] == "Basic YWRtaW46cHc="
    assert (prefect.headers["Prefect-Csrf-Token"], len(prefect.headers["Prefect-Csrf-Client"])) == (
        "csrf-1",
        36,
    )


async def test_a_store_that_fails_is_no_empty_inbox(prefect, make_settings, store_settings, said):
    """While the store is away uploads go on waiting."""
    away = Workspace(make_settings(store=store_settings.model_copy(update={"endpoint": "127.0.0.1:9"})))
    events = UploadEvents(WaitingUploads(Inbox(away)), prefect.api_url, SETTLE, said.append)
    events.note({"a"}, NOW)
    with pytest.raises(StoreUnavailable):
        await events.step(NOW + SETTLE)
    await away.aclose()
    assert events.waiting == {"a": NOW}


async def test_a_change_of_this_very_moment_is_not_quiet(events, prefect, noted):
    """One that is noted while a step is under way is newer than the step's time: it waits as others do."""
    await noted("a", *PAIR, at=NOW + 0.5)
    assert await events.step(NOW) == SETTLE + 0.5
    assert prefect.told == []


def test_the_id_of_an_event_follows_from_what_it_tells():
    """The same uploads in the same states are the same event, in any order; others are not."""
    once, again = upload_event({"a": "1", "b": "2"}), upload_event({"b": "2", "a": "1"})
    assert once["id"] == again["id"] != upload_event({"a": "1", "b": "3"})["id"]

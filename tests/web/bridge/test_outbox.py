"""The outbox: what it was given it keeps, once, until it is told that it may forget."""

import pytest

from avatar.web.notifications import Change
from avatar.web.outbox import Event, Outbox

EVENT = Event("id-1", "{}")


def change(upload="a", version="1", key="voice.mp3"):
    return Change(upload, f"inbox/{upload}/{key}", version)


@pytest.fixture
def reopened(outbox, tmp_path):
    """Opens the file again, as a bridge does that was started after the last one was killed."""
    opened = []

    def reopen():
        opened.append(Outbox(tmp_path / "bridge.db"))
        return opened[-1]

    yield reopen
    for each in opened:
        each.close()


def test_it_outlives_its_process(outbox, reopened):
    """Changes and events are there for the next one, without the first having closed the file."""
    outbox.note([change("a"), change("b")], 10)
    outbox.settle({"b": 10}, EVENT, {"b": "state"}, 11)
    again = reopened()
    assert (again.waiting(), again.event()) == ({"a": 10.0}, EVENT)
    assert again.news({"b": "state"}) == {}


def test_a_notice_that_comes_twice_is_one(outbox):
    """The same version of the same object does not make an upload wait longer; another does."""
    outbox.note([change()], 10)
    outbox.note([change()], 11)
    assert outbox.waiting() == {"a": 10.0}
    outbox.note([change(version="2")], 12)
    assert outbox.waiting() == {"a": 12.0}


def test_a_change_during_the_look_is_not_forgotten(outbox):
    """What changed after it was looked at goes on waiting."""
    outbox.note([change("a"), change("b")], 10)
    looked_at = outbox.waiting()
    outbox.note([change("a", version="2")], 12)
    outbox.settle(looked_at, None, {}, 13)
    assert outbox.waiting() == {"a": 12.0}


def test_it_does_not_grow_with_repetition(outbox, tmp_path):
    """A thousand changes of one upload are one row, and what was settled leaves nothing but its state."""
    for number in range(1000):
        outbox.note([change(version=str(number))], number)
    assert outbox.waiting() == {"a": 999.0}
    outbox.settle(outbox.waiting(), None, {"a": "state"}, 1000)
    counts = [
        outbox._database.execute(f"select count(*) from {table}").fetchone()[0]
        for table in ("change", "waiting", "event", "told")
    ]
    assert counts == [0, 0, 0, 1]


def test_an_event_stays_until_it_was_sent(outbox):
    """It is the same each time it is asked for."""
    outbox.settle({}, EVENT, {}, 1)
    assert (outbox.event(), outbox.event()) == (EVENT, EVENT)
    outbox.sent(EVENT)
    assert outbox.event() is None


def test_the_same_files_dropped_again_are_news(outbox):
    """An upload is told of once per state, and again in another one."""
    outbox.settle({}, None, {"a": "first"}, 1)
    assert outbox.news({"a": "first", "b": "first"}) == {"b": "first"}
    assert outbox.news({"a": "second"}) == {"a": "second"}


@pytest.mark.parametrize(
    "nonsense", [b"this is no database at all, and longer than a header " * 40, b"SQLite"]
)
def test_a_broken_file_is_replaced(tmp_path, nonsense):
    """The bridge starts: what was in it is found by looking into the inbox."""
    path = tmp_path / "broken.db"
    path.write_bytes(nonsense)
    path.with_name("broken.db-wal").write_bytes(nonsense)
    outbox = Outbox(path)
    outbox.note([change()], 10)
    assert outbox.waiting() == {"a": 10.0}
    outbox.close()


def test_only_its_owner_may_look_into_it(outbox, tmp_path):
    """Names of uploads are nobody else's business."""
    assert (tmp_path / "bridge.db").stat().st_mode & 0o777 == 0o600

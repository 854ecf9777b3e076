"""How often a render is looked at."""

import pytest

from avatar.models import RemoteState, Snapshot
from avatar.providers.polling import PollPace
from avatar.settings_sections import PollingSettings
from tests.providers.conftest import make_submission

RUNNING = Snapshot(state=RemoteState.RUNNING)


def looks(seconds: float, last: Snapshot, polling: PollingSettings) -> int:
    """Looks that a render of that length takes, in windows as a task would watch it."""
    now, ends_at, count, forecasts = 0.0, 0.0, 0, 1
    while now < seconds:
        if now >= ends_at:
            ends_at, forecasts = now + polling.window_seconds, 1
        pace = PollPace(polling, make_submission(age=now))
        pace._forecasts, count = forecasts, count + 1
        now = min(now + pace.pause(last), ends_at)
        forecasts = pace._forecasts
    return count


@pytest.mark.parametrize(
    "last",
    [RUNNING, RUNNING.model_copy(update={"progress": 0.99}), RUNNING.model_copy(update={"eta_seconds": 0.0})],
)
@pytest.mark.parametrize("window", [60, 90, 120, 300])
def test_five_minutes_take_forty_looks_at_most(last, window):
    """Also in windows, and also for a render stuck at 99 %."""
    assert looks(300, last, PollingSettings(window_seconds=window)) <= 40


def test_a_young_render_is_looked_at_often():
    """A render that takes ten seconds is noticed within a few."""
    assert PollPace(PollingSettings(), make_submission(age=0)).pause() < 1.5
    assert PollPace(PollingSettings(), make_submission(age=4)).pause() < 4


@pytest.mark.parametrize("age", [0, 1, 10, 1e3, 1e6])
def test_no_pause_is_longer_than_the_setting(age):
    """The longest pause holds at any age, but for a tenth of jitter."""
    polling = PollingSettings(min_interval=0.5, max_interval=3)
    assert 0.5 <= PollPace(polling, make_submission(age=age)).pause() <= 3.3


def test_a_forecast_brings_one_look_forward():
    """A provider's progress or estimate is a hint, followed once."""
    pace = PollPace(PollingSettings(), make_submission(age=90))
    assert pace.pause(RUNNING.model_copy(update={"progress": 0.97})) < 4
    assert pace.pause(RUNNING.model_copy(update={"progress": 0.97})) >= 10
    assert (
        PollPace(PollingSettings(), make_submission(age=90)).pause(
            RUNNING.model_copy(update={"eta_seconds": 2.0})
        )
        == 2
    )


def test_retry_after_is_obeyed():
    """A server that asks to wait is given the time, though never less than the pace."""
    pace = PollPace(PollingSettings(), make_submission(age=100))
    assert pace.pause(asked=60) == 60
    assert pace.pause(asked=0) >= 10

"""What becomes of an upload by what became of its rows."""

import asyncio

import pytest

from avatar import errors, waiting
from avatar.batch.models import Outcome, Row, RowState
from avatar.batch.run import BatchStopped, run_row
from avatar.inbox.finish import decide_ending
from avatar.inbox.upload_owner import Ending, Taken
from avatar.inbox.uploads import File, Inbox
from avatar.models import AvatarJob
from avatar.stored_models import Asset
from avatar.workspace import Workspace
from tests.money.scripted import make_plan

TAKEN = Taken(
    name="anna",
    signature="a" * 32,
    owner="run-1",
    token="t",
    files=(File(key="inbox/anna/voice.mp3", etag="e", size=1),),
    rows=({"portrait": "p", "voice": "v"},),
)
FOR_GOOD = (
    errors.InvalidInput, errors.SubmitRefused, errors.RenderFailed, errors.RenderLost, errors.VideoRejected,
)  # fmt: skip
#: And whether that counts as a failure.
MAY_PASS = {
    errors.NotSent: True,
    errors.Throttled: True,
    errors.ProviderUnavailable: True,
    errors.StoreUnavailable: True,
    errors.StillRendering: True,
    errors.DownloadFailed: True,
    errors.ProviderFailure: True,  # not done in time; it goes on at the provider
    OSError: True,  # a full disk
    BatchStopped: True,
    errors.BudgetRefused: False,
    errors.OutcomeUnknown: False,
}


@pytest.fixture
async def inbox(make_settings):
    workspace = Workspace(make_settings())
    yield Inbox(workspace)
    await workspace.aclose()


class Stopping:
    """A runner on which every job ends with this error."""

    def __init__(self, inbox: Inbox, error: Exception) -> None:
        self.workspace, self.error, self.run, self.batch_id = inbox.workspace, error, "run-1", "b" * 32

    async def produce(self, *_):
        raise self.error


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "rest", lambda _: asyncio.sleep(0))


async def outcome_of(inbox, error):
    assets = [Asset(key=f"assets/{n * 64}.x", sha256=n * 64, size=1, content_type="x/x") for n in "ab"]
    plan = make_plan(*assets)
    job = AvatarJob(portrait="p", voice="v")
    row = Row(line=1, job=job, plan=plan, outcome=Outcome(line=1, state=RowState.WAITING, voice="v"))
    return await run_row(Stopping(inbox, error), row, None)


@pytest.mark.parametrize("kind", FOR_GOOD)
async def test_what_will_not_pass_has_failed(inbox, kind):
    """Refused, failed or rejected for certain: filed with the provider's words, and not sent again by itself."""
    judged = decide_ending(inbox, TAKEN, [await outcome_of(inbox, kind("These are the words."))])
    assert judged.ending is Ending.FAILED
    assert "These are the words." in judged.told


@pytest.mark.parametrize("kind", MAY_PASS)
async def test_what_may_pass_stays(inbox, kind):
    """It is tried again; what waits for a person or for money is no failure."""
    judged = decide_ending(inbox, TAKEN, [await outcome_of(inbox, kind("These are the words."))])
    assert judged.ending is Ending.LATER
    assert (judged.failures, judged.delays) == ((1, 0) if MAY_PASS[kind] else (0, 1))
    assert "These are the words." in judged.told


@pytest.mark.parametrize(
    ("stopped", "failures"), [(errors.StoreUnavailable("away"), 1), (errors.NotConfigured("no key"), 0)]
)
async def test_a_run_that_was_stopped_leaves_everything_in_place(inbox, stopped, failures):
    """Before all rows were reached; but what has a fault of its own is filed all the same."""
    judged = decide_ending(inbox, TAKEN, [], stopped)
    assert (judged.ending, judged.failures, judged.told) == (Ending.LATER, failures, str(stopped))
    faulty = TAKEN.model_copy(update={"rows": (), "fault": "job.json cannot be read"})
    assert decide_ending(inbox, faulty, [], stopped).ending is Ending.FAILED


async def test_one_row_that_may_pass_keeps_the_others(inbox):
    """An upload leaves the inbox as a whole: its videos cost nothing when it is tried again."""
    rows = [
        Outcome(line=1, state=RowState.PUBLISHED, voice="a"),
        Outcome(line=2, state=RowState.BAD, voice="b", reason="silent"),
        Outcome(line=3, state=RowState.FAILED, voice="c", reason="away", passes=True),
    ]
    taken = TAKEN.model_copy(update={"rows": TAKEN.rows * 3})
    assert decide_ending(inbox, taken, rows).ending is Ending.LATER
    assert decide_ending(inbox, taken, rows[:2] + rows[:1]).ending is Ending.FAILED

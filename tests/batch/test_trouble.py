"""What one row, one chunk or one bad minute does to the rest of a batch: nothing."""

import asyncio
from types import SimpleNamespace

import pytest

from avatar import waiting
from avatar.batch.chunks import split_rows
from avatar.batch.models import Checked, Outcome, RowState, Summary
from avatar.batch.report import require_videos
from avatar.batch.run import RowRunner, run_chunks
from avatar.errors import AvatarError, BatchIncomplete, BatchInterrupted, StoreUnavailable
from avatar.local.prefect_client import failed_for_now
from avatar.settings_sections import BatchSettings
from avatar.workspace import Workspace


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Waits between tries, which pass at once; those asked for, in seconds."""
    asked: list[float] = []

    async def rest(seconds: float) -> None:
        asked.append(seconds)
        await asyncio.sleep(0)

    monkeypatch.setattr(waiting, "rest", rest)
    return asked


async def test_a_chunk_that_cannot_be_kept_cancels_no_other(make_settings):
    """The others have paid requests under way: they end, and then the trouble is told."""
    answered = []

    async def one(_, chunk):
        await asyncio.sleep(0)
        if chunk == 1:
            raise StoreUnavailable("The outcomes of chunk 1 cannot be written.")
        for _ in range(50):
            await asyncio.sleep(0)
        answered.append(chunk)

    async with Workspace(make_settings()) as workspace:
        runner = RowRunner(workspace, batch_id="0" * 32, run="run-1", at_once=100, rows=300)
        with pytest.raises(StoreUnavailable):
            await run_chunks(runner, range(3), one)
    assert answered == [0, 2]


@pytest.mark.parametrize(("rows", "at_once"), [(2500, 20), (5000, 7), (5000, 50), (5000, 3), (90, 5)])
def test_shards_have_all_the_turns_of_their_batch(rows, at_once):
    """However they divide: none is lost, and no shard goes without."""
    from flows.batch import count_parts

    checked = Checked(batch_id="0" * 32, rows=rows, chunks=-(-rows // 100), ready=rows)
    parts = count_parts(checked, at_once, BatchSettings())
    shards = split_rows(checked, at_once, parts=parts)
    assert sum(shard.at_once for shard in shards) == at_once
    assert min(shard.at_once for shard in shards) >= 1
    assert sum(shard.rows for shard in shards) == rows


async def test_a_store_that_is_away_for_half_a_minute_costs_no_row(works, manifest, rows, sandbox, pauses):
    """Every read of it fails for a while in the middle of the batch: all are published, each sent once."""
    checked = await works.check(batch := manifest(rows(6)))
    store = works.workspace.store
    real, calls, began = store.get, [], []

    async def get(*given, **more):
        calls.append(given)
        if len(calls) > 4:
            began.append(sum(pauses))
            if sum(pauses) - began[0] < 30:
                raise StoreUnavailable("The store did not answer.")
        return await real(*given, **more)

    store.get = get
    summary = await works.run(batch, checked=checked)
    assert summary.states == {RowState.PUBLISHED: 6}, summary.troubles
    assert sandbox.state()["posts"] == 6
    assert sum(pauses) >= 30


@pytest.mark.usefixtures("pauses")
async def test_a_row_is_begun_anew_when_its_trouble_may_have_passed(
    works, manifest, rows, sandbox, monkeypatch
):
    """A bounded number of times, and only for what passes by itself."""
    from avatar.batch import run as running

    real, tries = running.render_all, []

    async def render_all(workspace, job, plan, *more, **given):
        tries.append(job.prompt)
        if job.prompt == "take 0" or (job.prompt == "take 1" and tries.count("take 1") < 3):
            raise StoreUnavailable("The store did not answer for minutes.")
        if job.prompt == "take 2":
            raise AvatarError("This will not pass.")
        return await real(workspace, job, plan, *more, **given)

    monkeypatch.setattr(running, "render_all", render_all)
    summary = await works.run(manifest(rows(4)))
    assert summary.states == {RowState.PUBLISHED: 2, RowState.FAILED: 2}
    assert [tries.count(f"take {number}") for number in range(4)] == [3, 3, 1, 1]
    assert sandbox.state()["posts"] == 2


async def test_inputs_that_the_provider_cannot_fetch_stop_the_batch_and_need_no_other_take(
    make_works, manifest, rows, sandbox
):
    """Told with what to set, not charged, not sent for every row; run again after that, all are rendered."""
    works = make_works(batch={"stop_after_unknown": 3})
    sandbox.behave(
        "submit", "fail", times=3, kind="file_download_error", message="Failed to download", status=422
    )
    batch = manifest(rows(8))
    summary = await works.run(batch, at_once=1)
    assert (summary.count(RowState.FAILED), summary.at_risk) == (3, 0)
    assert summary.count(RowState.WAITING) >= 3  # one or two may have been sent before the third was known
    assert sandbox.state()["posts"] == 8 - summary.count(RowState.WAITING)
    assert all("AVATAR_STORE__PUBLIC_ENDPOINT" in f"{row.reason} {row.hint}" for row in summary.troubles)
    again = await works.run(batch, run="run-2")
    assert again.count(RowState.PUBLISHED, RowState.ALREADY) == 8, again.troubles


@pytest.mark.parametrize(
    ("states", "passing", "goes_on"),
    [
        ({RowState.FAILED: 3, RowState.PUBLISHED: 2}, 1, True),
        ({RowState.FAILED: 3, RowState.UNKNOWN: 1}, 3, True),
        ({RowState.FAILED: 3}, 0, False),
        ({RowState.UNKNOWN: 2, RowState.REFUSED: 1}, 0, False),
        ({RowState.FAILED: 1, RowState.UNKNOWN: 3, RowState.WAITING: 9}, 1, False),
    ],
)
def test_a_batch_goes_on_by_itself_where_what_its_rows_failed_of_may_pass(states, passing, goes_on):
    """Not past a limit, nor with rows that wait because the outcome of others is not known: those are a person's."""
    summary = Summary(batch_id="0" * 32, rows=sum(states.values()), states=states, passing=passing)
    with pytest.raises(BatchIncomplete) as caught:
        require_videos(summary)
    error = caught.value
    assert (type(error) is BatchInterrupted) is goes_on
    said = f"Flow run encountered an exception: {type(error).__name__}: {error}"
    assert failed_for_now(["avatar", "batch"], ["batch"], said) is goes_on


@pytest.mark.parametrize(("runs", "carried_out"), [(1, [3]), (2, [2, 3])])
async def test_a_run_that_was_started_again_takes_up_what_its_child_runs_left(monkeypatch, runs, carried_out):
    """They have ended: a chunk without outcomes at once, one of whose rows the store was away for the next time."""
    from flows import batch

    outcome = Outcome(line=1, state=RowState.FAILED)
    ended = {1: [outcome], 2: [outcome, outcome.model_copy(update={"passes": True})], 3: None}
    seen: list[int] = []

    async def read(_, __, chunk, ___):
        return ended[chunk]

    async def carry_out(_, shard):
        seen.append(shard.first)

    monkeypatch.setattr(batch, "read_outcomes", read)
    monkeypatch.setattr(batch, "render_here", carry_out)
    monkeypatch.setattr(batch, "flow_run", SimpleNamespace(run_count=runs))
    shard = batch.Shard(batch_id="0" * 32, run="run-1", first=1, last=3, rows=300, at_once=2)
    await batch._finish_left_over(None, [shard])
    assert seen == carried_out

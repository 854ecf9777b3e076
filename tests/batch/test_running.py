"""Batches against a real store and a provider's stand-in: what is paid, and what is told of each row."""

import asyncio
import csv
import io
from collections import Counter
from decimal import Decimal

import pytest

from avatar.batch.models import RowState
from avatar.batch.report import require_videos, safe_cell
from avatar.errors import BatchIncomplete, InvalidInput
from avatar.money.settle import declare_not_charged

PRICE = 3 * Decimal("0.115")


async def test_every_row_is_published_and_paid_once(works, manifest, rows, sandbox):
    """Twenty-four rows, ten at a time: one accept each; run again, nothing is sent and nothing is billed."""
    batch = manifest(rows(24))
    first = await works.run(batch)
    assert first.states == {RowState.PUBLISHED: 24}, first.troubles
    again = await works.run(batch, run="run-2")
    assert again.states == {RowState.ALREADY: 24}
    assert (again.billed, again.batch_id) == (0, first.batch_id)
    seen = sandbox.state()
    assert (seen["posts"], seen["accepts"], seen["leaks"]) == (24, 24, [])
    assert len({job["request_id"] for job in seen["accepted"]}) == 24


async def test_no_more_are_at_the_provider_than_allowed(works, manifest, rows, sandbox):
    """Three at once: at no moment has the provider a fourth."""
    sandbox.reset(render_seconds=0.5)
    await works.run(manifest(rows(9)), at_once=3)
    jobs = sandbox.state()["accepted"]
    moments = sorted([(job["accepted"], 1) for job in jobs] + [(job["ended"], -1) for job in jobs])
    under_way, most = 0, 0
    for _, change in moments:
        under_way += change
        most = max(most, under_way)
    assert most == 3


async def test_a_failing_job_stops_no_other(works, manifest, rows, sandbox):
    """Refused, failed and rejected rows are told with their reasons; the other seven are published."""
    sandbox.behave("submit", "answer", status=422, body={"detail": "The face cannot be seen"})
    sandbox.behave("submit", "fail", kind="content_policy_violation", message="This face is not allowed")
    sandbox.behave("submit", "defective", defect="black")
    summary = await works.run(manifest(rows(10)))
    assert summary.states == {RowState.PUBLISHED: 7, RowState.FAILED: 2, RowState.REJECTED: 1}
    told = " ".join(row.reason for row in summary.troubles)
    assert all(words in told for words in ("cannot be seen", "This face is not allowed", "did not pass"))
    with pytest.raises(BatchIncomplete, match=r"3 of 10 rows have no video") as caught:
        require_videos(summary)
    assert caught.value.exit_code == 4


async def test_a_lost_answer_is_told_and_never_sent_again(works, manifest, rows, sandbox):
    """The row names its render and the command that settles it; run again, it is left alone until settled."""
    sandbox.behave("submit", "drop")
    batch = manifest(rows(5))
    summary = await works.run(batch)
    assert summary.states == {RowState.PUBLISHED: 4, RowState.UNKNOWN: 1}
    (lost,) = summary.troubles
    assert lost.at_risk == PRICE
    assert lost.hint.startswith(f"avatar resolve {lost.renders[0]}")
    again = await works.run(batch, run="run-2")
    assert again.states == {RowState.ALREADY: 4, RowState.UNKNOWN: 1}
    assert sandbox.state()["posts"] == 5
    await declare_not_charged(works.workspace, lost.renders[0], by="a test")
    assert (await works.run(batch, run="run-3")).states == {RowState.ALREADY: 4, RowState.PUBLISHED: 1}


async def test_a_provider_that_loses_answers_is_not_sent_the_rest(make_works, manifest, rows, sandbox):
    """After three unknown outcomes in a row the others wait, unpaid, and say why."""
    works = make_works(batch={"stop_after_unknown": 3})
    sandbox.behave("submit", "drop", times=100)
    summary = await works.run(manifest(rows(20)), at_once=1)
    assert summary.states == {RowState.UNKNOWN: 3, RowState.WAITING: 17}
    assert "in a row is unknown" in summary.troubles[-1].reason
    assert sandbox.state()["posts"] == 3
    claims = {claim.render_id for claim in await works.workspace.budget.claims(await today(works))}
    assert claims == {row.renders[0] for row in summary.troubles if row.state is RowState.UNKNOWN}


async def today(works) -> str:
    (day,) = await works.workspace.budget.days()
    return day


async def test_a_day_that_runs_out_refuses_what_no_longer_fits(make_works, manifest, rows, sandbox):
    """Money for four of six: four are published, two refused unsent; the next day's run would do them."""
    works = make_works(budget={"per_day": str(4 * PRICE + Decimal("0.10"))})
    summary = await works.run(manifest(rows(6)), at_once=1)
    assert summary.count(RowState.PUBLISHED) == sandbox.state()["accepts"] == 4
    assert summary.count(RowState.REFUSED) == 2
    assert "AVATAR_BUDGET__PER_DAY" in summary.troubles[0].reason


async def test_the_day_is_counted_for_many_rows_at_once(make_works, manifest, rows, monkeypatch):
    """Twelve rows under a limit for the day: one count, every cent booked, nothing left set aside."""
    works = make_works(budget={"per_day": "50.00"})
    counted, real = [], works.workspace.budget.claims
    monkeypatch.setattr(works.workspace.budget, "claims", lambda day: (counted.append(day), real(day))[1])
    assert (await works.run(manifest(rows(12)))).states == {RowState.PUBLISHED: 12}
    assert len(counted) == 1
    claims = await works.workspace.budget.claims(await today(works))
    assert (len(claims), {claim.state for claim in claims}) == (12, {"settled"})


async def test_what_is_set_aside_and_not_needed_is_given_back(make_works, manifest, rows, sandbox):
    """A video that somebody else published in the meantime frees the money that was set aside for it."""
    works, rival = make_works(budget={"per_day": "50.00"}), make_works()
    batch = manifest(rows(3))
    checked = await works.check(batch)
    await rival.run(manifest(rows(3)[2:], name="one.jsonl"))
    sandbox.reset()
    summary = await works.run(batch, checked=checked)
    assert summary.states == {RowState.PUBLISHED: 2, RowState.ALREADY: 1}
    claims = await works.workspace.budget.claims(await today(works))
    assert (len(claims), {claim.state for claim in claims}) == (3, {"settled"})


async def test_a_run_that_stops_is_continued_by_the_next(make_works, manifest, rows, sandbox):
    """Cancelled while ten are rendering: the next run waits for those, sends the rest, and pays for each once."""
    sandbox.reset(render_seconds=2)
    batch = manifest(rows(20))
    stopped = asyncio.create_task(make_works().run(batch))
    await asyncio.to_thread(sandbox.wait_for, "stream", 10)  # followed, so written down
    stopped.cancel()
    await asyncio.gather(stopped, return_exceptions=True)
    summary = await make_works().run(batch, run="run-2")
    assert summary.count(RowState.PUBLISHED) == 20, summary.troubles
    assert sandbox.state()["accepts"] == 20


async def test_a_defect_in_one_row_is_told(works, manifest, rows, monkeypatch):
    """An error of no kind that is expected ends its row, with its name in the report, and no other."""
    from avatar.batch import run as running

    real = running.publish_video

    async def publish(workspace, plan, renders, **more):
        if plan.prompt == "take 1":
            raise ZeroDivisionError("by hand")
        return await real(workspace, plan, renders, **more)

    monkeypatch.setattr(running, "publish_video", publish)
    summary = await works.run(manifest(rows(3)))
    assert summary.states == {RowState.PUBLISHED: 2, RowState.FAILED: 1}
    assert "ZeroDivisionError: by hand" in summary.troubles[0].reason


async def test_the_report_has_a_line_for_each_row(make_works, manifest, rows):
    """Line, state, length, cost, ids, link to the player; nothing in it is a formula to a spreadsheet."""
    works = make_works(gallery={"public_url": "https://videos.example"})
    given = [*rows(2), {"portrait": "=cmd()", "voice": "<b>voice.wav"}]
    summary = await works.run(manifest(given))
    table = (await works.workspace.store.get(summary.report_key)).data.decode()
    first, _, bad = csv.DictReader(io.StringIO(table))
    assert (first["line"], first["state"], Decimal(first["quoted"])) == ("1", "published", PRICE)
    assert first["link"] == f"https://videos.example/videos/{first['job_id']}"
    assert len(first["renders"]) == 32
    assert len(first["seconds"]) == len("3.000")
    assert bad["state"] == "bad"
    assert not any(cell.startswith(("=", "+", "-", "@")) for cell in bad.values())
    page = (await works.workspace.store.get(summary.page_key)).data.decode()
    assert page.count("<tr><td>") == 3
    assert "&lt;b&gt;voice.wav" in page
    assert "<b>" not in page


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@sum", "\tx"])
def test_a_formula_is_shown_as_text(text):
    """An apostrophe in front keeps a spreadsheet from running it."""
    assert safe_cell(text) == f"'{text}"
    assert safe_cell("plain") == "plain"


async def test_rows_of_several_sheets_keep_their_order(works, manifest, rows, monkeypatch):
    """Chunks of four rows: the report is in the manifest's order, whatever ended first."""
    from avatar.batch import check as checking

    monkeypatch.setattr(checking, "CHUNK_ROWS", 4)
    summary = await works.run(manifest(rows(10), provider="preview"), at_once=4)
    assert summary.states == {RowState.PUBLISHED: 10}
    table = (await works.workspace.store.get(summary.report_key)).data.decode()
    assert [line["line"] for line in csv.DictReader(io.StringIO(table))] == [str(n) for n in range(1, 11)]
    keys = [stat.key.rsplit("/", 1)[-1] for stat in await works.workspace.store.list("batches/")]
    assert Counter(key.split("-")[0] for key in keys if "-" in key) == {"rows": 3, "outcomes": 3}


async def test_a_manifest_that_is_no_file_is_refused(works, manifest, tmp_path):
    """Not there, or of another kind."""
    from avatar.batch.models import Batch

    for name, word in (("gone.csv", "not a file"), ("jobs.xlsx", "neither")):
        with pytest.raises(InvalidInput, match=word):
            await works.check(Batch(manifest=str(tmp_path / name)))

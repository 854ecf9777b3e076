"""Before anything is spent: every row looked at, priced, and told."""

import csv
import io
from decimal import Decimal

import pytest

from avatar.batch.check import check_budget
from avatar.batch.chunks import read_rows
from avatar.batch.manifest import open_manifest
from avatar.batch.models import Batch, OnBadRows, RowState
from avatar.batch.report import refuse_bad_rows, require_videos, write_report
from avatar.errors import BudgetRefused, InvalidInput, NotConfigured

#: A voice of 3 s, in whole seconds, at either provider's price in US dollars a second.
PRICE = 3 * Decimal("0.115")


async def report_of(works, summary) -> list[dict[str, str]]:
    blob = await works.workspace.store.get(summary.report_key)
    return list(csv.DictReader(io.StringIO(blob.data.decode())))


async def test_every_bad_row_is_told_before_anything_is_spent(works, manifest, rows, sandbox):
    """Faults of syntax, of files and of content are told by line; nothing is sent, and nothing committed."""
    given = rows(3)
    given[1]["voice"] = "nowhere.mp3"
    given += [{"portrait": "page.png", "voice": "voice.wav"}, {"portrait": "portrait.png"}]
    given += [
        {"portrait": "portrait.png", "voice": "portrait.png"},
        {"portrait": "a\0b", "voice": "voice.wav"},
    ]
    given += rows(1, prompt="dear", max_cost="0.10")
    checked = await works.check(manifest(given))
    assert (checked.rows, checked.ready, checked.bad) == (8, 2, 6)
    summary = await write_report(works.workspace, checked, "run-1")
    with pytest.raises(InvalidInput, match=r"6 of 8 rows.*Line 2.*nowhere\.mp3"):
        refuse_bad_rows(summary)
    told = {int(line["line"]): line["reason"] for line in await report_of(works, summary)}
    words = {
        2: "is not a file",
        4: "page.png",
        5: "voice is missing",
        6: "portrait.png",
        7: "file",
        8: "max_cost",
    }
    assert all(word in told[line] for line, word in words.items()), told
    assert told[1] == told[3] == ""
    assert sandbox.state()["posts"] == 0
    assert await works.workspace.store.list("jobs/") == []


async def test_a_face_without_consent_is_a_bad_row(make_works, manifest, rows, sandbox):
    """Where one is asked for: before anything is paid, with what to do. The free preview needs none."""
    works = make_works(consent="required")
    given = [*rows(2), *rows(1, provider="preview")]
    checked = await works.check(manifest(given))
    assert (checked.ready, checked.bad) == (1, 2)
    found = await read_rows(works.workspace, checked.batch_id, 0)
    assert "no consent is recorded" in found[0].outcome.reason
    assert "avatar consent add" in found[0].outcome.hint
    assert sandbox.state()["posts"] == 0


async def test_the_same_job_twice_is_done_once(works, manifest, rows, sandbox):
    """A duplicate is told with the line of the first, priced once and paid once."""
    batch = manifest([*rows(2), *rows(2)])
    assert (await works.check(batch)).owed == 2 * PRICE
    summary = await works.run(batch)
    assert summary.states == {RowState.PUBLISHED: 2, RowState.DUPLICATE: 2}
    assert [line["reason"] for line in await report_of(works, summary)][2:] == [
        "the same job as line 1",
        "the same job as line 2",
    ]
    assert sandbox.state()["accepts"] == 2


@pytest.mark.parametrize("limit", ["batch", "setting", "day"])
async def test_a_batch_above_its_budget_sends_nothing(make_works, manifest, rows, sandbox, limit):
    """max_cost, AVATAR_BUDGET__PER_BATCH and the day are compared with the whole batch, before the first request."""
    budget = {"batch": {}, "setting": {"per_batch": "1.00"}, "day": {"per_day": "1.00"}}[limit]
    works = make_works(budget=budget)
    batch = manifest(rows(3), max_cost="1.00" if limit == "batch" else None)
    checked = await works.check(batch)
    assert checked.owed == 3 * PRICE
    with pytest.raises(BudgetRefused, match=r"\$1\.0[34].*Nothing was sent or spent"):
        await check_budget(works.workspace, batch, checked)
    await check_budget(works.workspace, batch, await works.check(manifest(rows(2))))
    assert sandbox.state()["posts"] == 0


async def test_what_is_paid_is_not_asked_for_again(make_works, manifest, rows):
    """Half of the rows are published: the budget is asked for the other half only."""
    works = make_works(budget={"per_day": "1.50"})
    await works.run(manifest(rows(2)))
    batch = manifest(rows(4), max_cost="0.70")
    checked = await works.check(batch)
    assert (checked.ready, checked.owed) == (2, 2 * PRICE)
    await check_budget(works.workspace, batch, checked)
    assert (await works.run(batch)).states == {RowState.ALREADY: 2, RowState.PUBLISHED: 2}


async def test_a_shared_portrait_is_prepared_once(works, manifest, rows, monkeypatch):
    """Thirty rows over one portrait and one voice decode each once; checked again, neither."""
    from avatar.batch import check as checking

    asked = []
    for name in ("ready_portrait", "ready_voice"):
        real = getattr(checking, name)
        monkeypatch.setattr(
            checking,
            name,
            lambda *given, real=real, name=name, **named: (asked.append(name), real(*given, **named))[1],
        )
    batch = manifest(rows(30))
    await works.check(batch)
    assert sorted(asked) == ["ready_portrait", "ready_voice"]
    again = await works.check(batch)
    assert (len(asked), again.ready) == (2, 30)


async def test_a_changed_file_is_planned_anew(works, manifest, rows, media, tmp_path):
    """The same manifest over another voice: another job, not the plan of the earlier run."""
    batch = manifest(rows(1))
    checked = await works.check(batch)
    (before,) = await read_rows(works.workspace, checked.batch_id, 0)
    (tmp_path / "voice.wav").unlink()
    (tmp_path / "voice.wav").write_bytes((media / "voice.wav").read_bytes()[:-44_100])  # a second less
    again = await works.check(batch)
    (after,) = await read_rows(works.workspace, again.batch_id, 0)
    assert again.batch_id == checked.batch_id
    assert after.outcome.job_id != before.outcome.job_id
    assert after.plan.voice.seconds == pytest.approx(2, abs=0.01)


async def test_a_provider_without_a_key_stops_the_batch(make_works, manifest, rows):
    """No row could be rendered: told once, not for each."""
    with pytest.raises(NotConfigured, match="key"):
        await make_works(fal={}).check(manifest(rows(2)))


async def test_an_empty_manifest_is_refused(works, manifest):
    """A batch of nothing is a mistake."""
    with pytest.raises(InvalidInput, match="no rows"):
        await works.check(manifest("\n\n"))


async def test_a_template_is_one_portrait_in_many_voices(works, media, tmp_path):
    """A folder of voices on this machine, and one in the store, each file a job."""
    store = works.workspace.store
    for name in ("de.wav", "fr.wav"):
        await store.put(f"inbox/anna/{name}", (media / "voice.wav").read_bytes(), content_type="audio/wav")
    folder = tmp_path / "voices"
    folder.mkdir()
    (folder / "en.wav").write_bytes((media / "voice.wav").read_bytes()[:-44_100])
    given = (f"{folder}/", f"s3://{store.bucket}/inbox/anna/")
    batch = Batch(portrait=str(media / "portrait.png"), voices=given, provider="preview")
    checked = await works.check(batch)
    found = await read_rows(works.workspace, checked.batch_id, 0)
    assert [row.outcome.voice.rsplit("/", 1)[-1] for row in found] == ["en.wav", "de.wav", "fr.wav"]
    assert [row.outcome.state for row in found] == [
        "waiting",
        "waiting",
        "duplicate",
    ]  # de and fr hold the same
    assert (checked.owed, checked.paid) == (0, False)


async def test_a_manifest_in_the_store_is_read_there(works, media):
    """s3://…csv: its relative paths are keys beside it; a copy of it is kept with the batch."""
    store = works.workspace.store
    for name in ("portrait.png", "voice.wav"):
        await store.put(f"inbox/may/{name}", (media / name).read_bytes(), content_type="")
    table = b"portrait,voice\nportrait.png,voice.wav\n"
    await store.put("inbox/may/jobs.csv", table, content_type="text/csv")
    checked = await works.check(Batch(manifest=f"s3://{store.bucket}/inbox/may/jobs.csv"))
    assert (checked.ready, checked.bad) == (1, 0)
    assert (await store.get(f"batches/{checked.batch_id}/manifest.csv")).data == table


async def test_a_batch_of_bad_rows_alone_is_no_success(works, manifest):
    """With `skip` there is nothing left to render, and it says so."""
    summary = await works.run(manifest([{"portrait": "portrait.png"}], on_bad_rows=OnBadRows.SKIP))
    with pytest.raises(InvalidInput, match="1 of 1 rows cannot be rendered"):
        require_videos(summary)


async def test_paths_beside_a_relative_manifest_are_found_from_an_empty_directory(
    works, media, tmp_path, monkeypatch
):
    """A worker's run begins in an empty directory of its own: what is relative is so to where the worker was started."""
    started, empty = tmp_path / "started", tmp_path / "empty"
    (started / "jobs").mkdir(parents=True)
    empty.mkdir()
    (started / "jobs" / "jobs.csv").write_text("portrait,voice\nportrait.png,voice.mp3\n")
    monkeypatch.setenv("PREFECT__FLOW_RUN_ID", "1")
    monkeypatch.setenv("PWD", str(started))
    monkeypatch.chdir(empty)
    async with open_manifest(works.workspace, Batch(manifest="jobs/jobs.csv")) as manifest:
        assert manifest.base == str(started / "jobs")

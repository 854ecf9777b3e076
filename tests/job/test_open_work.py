"""What is open and left behind is found by listings; what somebody works on is not."""

from decimal import Decimal

import pytest

from avatar.job import open_work
from avatar.job.open_work import find_unfinished, find_unsettled_claims
from avatar.money.commit import open_job, open_key
from avatar.workspace import Workspace


@pytest.fixture
async def workspace(make_settings):
    opened = Workspace(make_settings())
    yield opened
    await opened.aclose()


@pytest.fixture
def hours_later(monkeypatch):
    """The store's clock goes ahead."""
    from datetime import timedelta

    real = open_work._clock

    async def later(store, stats):
        return await real(store, stats) + timedelta(hours=3)

    def go():
        monkeypatch.setattr(open_work, "_clock", later)

    return go


async def test_renders_and_jobs_count_once_nobody_gave_a_sign(workspace, monkeypatch, hours_later):
    await workspace.journal.keep_open("0" * 32)
    await open_job(workspace, "job-1")
    assert await find_unfinished(workspace) == set()
    hours_later()
    assert await find_unfinished(workspace) == {
        f"open/{'0' * 32}.json"
    }  # the job's note is as young as it was
    monkeypatch.setattr(open_work, "default_idle_seconds", lambda _: -1.0)
    assert await find_unfinished(workspace) == {f"open/{'0' * 32}.json", open_key("job-1")}


async def test_a_job_that_is_left_to_people_is_not_due(workspace, monkeypatch):
    await open_job(workspace, "job-1", tries=open_work.MOST_TRIES)
    monkeypatch.setattr(open_work, "default_idle_seconds", lambda _: -1.0)
    assert await find_unfinished(workspace) == set()


async def test_a_hint_that_nobody_used_is_due(workspace, hours_later):
    key = f"{open_work.PREFIX}{'0' * 32}.1.abc.json"
    await workspace.store.put(key, b"{}", content_type="application/json")
    assert await find_unfinished(workspace) == set()
    hours_later()
    assert await find_unfinished(workspace) == {key}


async def test_a_fresh_claim_is_its_makers_business(workspace):
    await workspace.budget.claim({"0" * 32: Decimal("0.10")})
    assert await find_unsettled_claims(workspace) == set()

"""The journal on a real store: append-only, one winner a step, readable alone."""

import asyncio
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from avatar.errors import StoreUnavailable
from avatar.models import Submission
from avatar.money.entries import TRANSITIONS, IllegalTransition, RenderState, transitions_table
from avatar.money.journal import Journal
from avatar.stored_models import ProviderName

RENDER = "a" * 32


@pytest.fixture
def journal(store) -> Journal:
    return Journal(store, lease_seconds=120)


async def begin(journal: Journal, after=None):
    return await journal.begin(
        after, render_id=RENDER, job_id="b" * 32, provider=ProviderName.FAL, quoted=Decimal(1)
    )


async def test_of_many_writers_one_owns_the_step(store):
    """Eight journals begin the same render: one gets the record, the others None."""
    journals = [Journal(store, lease_seconds=120) for _ in range(8)]
    records = await asyncio.gather(*(begin(journal) for journal in journals))
    assert sum(record is not None for record in records) == 1


async def test_the_newest_entry_carries_all_that_is_true(journal):
    """A reader needs one entry: the receipt is still there two steps later."""
    intent = await begin(journal)
    receipt = Submission(
        render_id=RENDER, provider=ProviderName.FAL, request_id="req-1", submitted_at=datetime.now(UTC)
    )
    submitted = await journal.append(intent, RenderState.SUBMITTED, submission=receipt)
    await journal.append(submitted, RenderState.RENDERED)
    head = await journal.head(RENDER)
    assert head.state is RenderState.RENDERED
    assert head.entry.submission == receipt
    assert [record.entry.seq for record in await journal.history(RENDER)] == [1, 2, 3]


async def test_age_is_told_by_the_stores_clock(journal):
    """A lease is measured by the store: the entry's own time, from the writer's clock, plays no part."""
    await begin(journal)
    head = await journal.head(RENDER)
    assert head.age is not None
    assert 0 <= head.age < 60


@pytest.mark.parametrize("state", [RenderState.COLLECTED, RenderState.RENDERED, RenderState.FAILED])
async def test_a_step_outside_the_table_is_stopped(journal, state):
    """An intent is followed by what can follow it, and by nothing else."""
    intent = await begin(journal)
    with pytest.raises(IllegalTransition):
        await journal.append(intent, state)
    assert (await journal.head(RENDER)).entry.seq == 1


async def test_an_entry_that_cannot_be_read_is_no_empty_journal(journal, store):
    """A damaged entry stops everything for that render: it is never taken for 'nobody asked yet'."""
    await store.put(f"journal/{RENDER}/000001.json", b"{", content_type="application/json")
    with pytest.raises(StoreUnavailable, match="cannot be read"):
        await journal.head(RENDER)


async def test_begun_renders_are_indexed_until_closed(journal):
    """What is under way can be listed without reading the whole journal."""
    await begin(journal)
    assert await journal.open_renders() == [RENDER]
    await journal.close(RENDER)
    assert await journal.open_renders() == []


def test_only_money_safe_states_lead_to_a_new_intent():
    """A new paid request may follow only where the last one was surely not charged, or a person said so."""
    before = {state for state, following in TRANSITIONS.items() if RenderState.INTENT in following}
    assert before == {
        None, RenderState.INTENT, RenderState.NOT_SENT, RenderState.REFUSED, RenderState.RESOLVED, RenderState.FAILED,
    }  # fmt: skip


def test_the_table_in_the_docs_names_every_state():
    """The rendered table has a row for each state and for the beginning."""
    assert len(transitions_table().splitlines()) == 2 + len(RenderState) + 1

"""Claims: one object with a key each, given back by it alone, or when it was left behind and nothing was paid on it."""

import asyncio
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from avatar.batch.run import GroupClaims
from avatar.errors import BudgetRefused, NotSent, SubmitRefused
from avatar.job.reconcile import reconcile_renders
from avatar.models import Continuity
from avatar.money import submit
from avatar.money.budget import LEAKED_SECONDS, USABLE_SECONDS, total
from avatar.money.collect import collect_render
from avatar.money.commit import commit_job, quoted_renders, release_unspent, still_to_buy
from avatar.money.entries import Failure, RenderState
from avatar.money.quote import quote_render
from avatar.money.settle import declare_not_charged
from avatar.money.state import attach
from avatar.money.submit import submit_render
from tests.money.scripted import Scripted

RENDER = "a" * 32


def today() -> str:
    return f"{datetime.now(UTC).date():%Y-%m-%d}"


@pytest.fixture
def workspace(make_workspace, store):
    store.server.now = datetime.now(UTC)
    return make_workspace(Scripted("req-1", "req-2"), budget={"per_day": Decimal(10)})


async def set_aside(workspace) -> Decimal:
    return total(await workspace.budget.claims(today()))


async def test_a_claim_of_seconds_is_not_taken_for_left_behind(workspace, plan, store):
    """The render was refused hours ago; the claim for asking again is five seconds old, and holds."""
    workspace.provider(plan.provider).answers.insert(0, SubmitRefused("no credit", kind="balance"))
    with pytest.raises(SubmitRefused):
        await submit_render(workspace, plan, plan.segments[0])
    store.server.tick(7 * 3600)
    claims = await commit_job(workspace, plan)
    store.server.tick(5)
    await reconcile_renders(workspace, idle_seconds=0)
    assert {claim.key for claim in await workspace.budget.objects(today())} >= set(claims.values())


async def test_a_claim_that_was_left_behind_is_given_back(workspace, store):
    """Its run is gone, and nothing was sent for it."""
    await workspace.budget.claim({RENDER: Decimal(6)})
    store.server.tick(LEAKED_SECONDS + 1)
    found = await reconcile_renders(workspace)
    assert found.released == [RENDER]
    assert await set_aside(workspace) == 0


async def test_a_claim_that_was_paid_on_stays(workspace, plan, store):
    """However old: it is the render's until the bill comes."""
    await commit_job(workspace, plan)
    await submit_render(workspace, plan, plan.segments[0])
    store.server.tick(5 * LEAKED_SECONDS)
    await reconcile_renders(workspace)
    assert await set_aside(workspace) == Decimal("0.92")


async def test_a_claim_beside_its_bill_is_given_back(make_workspace, plan, store, footage):
    """Two who find a lost request at the same moment both set its price aside again; one comes after the bill."""
    workspace = make_workspace(Scripted("req-1", video=footage), budget={"per_day": Decimal(10)})
    (key,) = (await commit_job(workspace, plan)).values()
    record = await submit_render(workspace, plan, plan.segments[0], claim=key)
    await collect_render(workspace, record.entry.render_id)
    await workspace.budget.restore(key)
    store.server.tick(LEAKED_SECONDS + 1)
    found = await reconcile_renders(workspace)
    assert found.released == [record.entry.render_id]
    assert {claim.state for claim in await workspace.budget.objects(today())} == {"settled"}


async def test_two_runs_of_a_job_give_back_their_own(make_workspace, plan, store):
    """One buys on its claim; the other gives its own back, and the bought one stays set aside."""
    one, other = (make_workspace(Scripted("req-1"), budget={"per_day": Decimal(10)}) for _ in range(2))
    claims = [await commit_job(each, plan) for each in (one, other)]
    (key,) = claims[0].values()
    await submit_render(one, plan, plan.segments[0], claim=key)
    await release_unspent(other, claims[1])
    assert [claim.key for claim in await one.budget.objects(today())] == [key]


async def test_a_claim_that_became_too_old_is_made_anew_before_it_is_sent_on(workspace, plan, monkeypatch):
    """The run waited for its turn for hours, or its machine slept: others may have given its claim back."""
    (key,) = (await commit_job(workspace, plan)).values()
    later = datetime.now(UTC).timestamp() + USABLE_SECONDS + 1
    monkeypatch.setattr("avatar.waiting.time.time", lambda: later)
    monkeypatch.setattr("avatar.money.attempt.SENDS_WITHIN", 1e9)
    record = await submit_render(workspace, plan, plan.segments[0], claim=key)
    assert record.entry.claim != key
    assert [claim.key for claim in await workspace.budget.objects(today())] == [record.entry.claim]


async def test_and_is_refused_if_the_day_has_no_money_left(workspace, plan, monkeypatch):
    """Its money went to others meanwhile: nothing is sent."""
    (key,) = (await commit_job(workspace, plan)).values()
    later = datetime.now(UTC).timestamp() + USABLE_SECONDS + 1
    monkeypatch.setattr("avatar.waiting.time.time", lambda: later)
    await workspace.budget.release(key)
    await workspace.budget.claim({RENDER: Decimal("9.5")})
    with pytest.raises(BudgetRefused):
        await submit_render(workspace, plan, plan.segments[0], claim=key)
    assert workspace.provider(plan.provider).seen == []


async def test_an_intent_that_took_hours_to_be_written_is_not_sent_on(
    workspace, make_workspace, plan, store, monkeypatch
):
    """The machine slept in between, and others gave its claim back, since no intent named it yet: it begins anew."""
    (key,) = (await commit_job(workspace, plan)).values()
    create = store.create

    async def asleep(key, *args):
        if not key.startswith("journal/"):
            return await create(key, *args)
        monkeypatch.setattr(store, "create", create)
        store.server.tick(LEAKED_SECONDS + 1)
        await asyncio.sleep(LEAKED_SECONDS + 1)
        found = await reconcile_renders(make_workspace(Scripted()))
        assert found.released == [quote_render(workspace, plan, plan.segments[0]).render_id]
        return await create(key, *args)

    monkeypatch.setattr(store, "create", asleep)
    record = await submit_render(workspace, plan, plan.segments[0], claim=key)
    history = await workspace.journal.history(record.entry.render_id)
    assert [str(each.state) for each in history] == ["intent", "not_sent", "intent", "submitted"]
    assert [claim.key for claim in await workspace.budget.objects(today())] == [record.entry.claim]
    assert len(workspace.provider(plan.provider).seen) == 1


async def test_a_claim_is_not_sent_on_after_a_long_sleep(workspace, make_workspace, plan, store, monkeypatch):
    """The machine slept when its price was set aside, and others gave it back, since no intent named it yet."""
    ensure = workspace.budget.ensure

    async def asleep(*args):
        monkeypatch.setattr(workspace.budget, "ensure", ensure)
        key = await ensure(*args)
        store.server.tick(LEAKED_SECONDS + 1)
        await asyncio.sleep(LEAKED_SECONDS + 1)
        found = await reconcile_renders(make_workspace(Scripted()))
        assert found.released == [quote_render(workspace, plan, plan.segments[0]).render_id]
        return key

    monkeypatch.setattr(workspace.budget, "ensure", asleep)
    record = await submit_render(workspace, plan, plan.segments[0])
    history = await workspace.journal.history(record.entry.render_id)
    assert [str(each.state) for each in history] == ["intent", "not_sent", "intent", "submitted"]
    assert [claim.key for claim in await workspace.budget.objects(today())] == [record.entry.claim]


async def test_nothing_is_bought_without_a_claim(workspace, plan):
    """Another run had it under way when this one committed, and it failed: what is bought now is set aside first."""
    await submit_render(workspace, plan, plan.segments[0])
    assert await set_aside(workspace) == Decimal("0.92")


class Rows(list):
    """Rows of a chunk, each with a render of its own at six dollars."""

    def __init__(self, count: int, plan) -> None:
        super().__init__(
            type("Row", (), {"plan": plan, "owed": {f"{number:032x}": Decimal(6)}})()
            for number in range(count)
        )


async def test_what_a_chunk_claims_ahead_is_claimed_again_when_it_is_needed_late(
    make_workspace, plan, store, monkeypatch
):
    """Given back after hours, as nothing was paid on it: the next row does not go by the old word."""
    store.server.now = datetime.now(UTC)
    workspace = make_workspace(Scripted(), budget={"per_day": Decimal(1000)})
    rows = Rows(100, plan)
    ahead = GroupClaims(workspace, rows)
    await ahead.claim(rows[0].owed)
    assert await set_aside(workspace) == 6 * 50
    store.server.tick(LEAKED_SECONDS + 60)
    assert len((await reconcile_renders(workspace)).released) == 50
    later = datetime.now(UTC).timestamp() + LEAKED_SECONDS + 60
    monkeypatch.setattr("avatar.waiting.time.time", lambda: later)
    for row in rows[1:3]:
        claims = await ahead.claim(row.owed)
        assert {claim.key for claim in await workspace.budget.objects(today())} >= set(claims.values())


async def test_a_chunk_gives_back_what_it_did_not_need(make_workspace, plan, store):
    """Fifty rows were claimed for, and one ran."""
    workspace = make_workspace(Scripted(), budget={"per_day": Decimal(1000)})
    rows = Rows(50, plan)
    ahead = GroupClaims(workspace, rows)
    used = await ahead.claim(rows[0].owed)
    await ahead.give_back()
    assert [claim.key for claim in await workspace.budget.objects(today())] == list(used.values())


async def test_what_a_person_freed_and_was_accepted_after_all_is_set_aside_again(workspace, plan):
    """The claim went with the person's word; the late receipt brings it back, whatever the limit."""
    (key,) = (await commit_job(workspace, plan)).values()
    record = await submit_render(workspace, plan, plan.segments[0], claim=key)
    journal, submission = workspace.journal, record.entry.submission
    failed = await journal.append(record, RenderState.FAILED, failure=Failure(kind="x", message="x"))
    resolved = await declare_not_charged(workspace, failed.entry.render_id, by="anna")
    assert await set_aside(workspace) == 0
    await attach(workspace, resolved, submission.model_copy(update={"request_id": "req-late"}), "late")
    assert await set_aside(workspace) == Decimal("0.92")


async def test_a_chain_that_goes_on_claims_for_what_is_left(workspace, plan, footage):
    """The first of two segments is bought: only the second is still to be paid."""
    second = plan.segments[0].model_copy(update={"index": 1, "start": 8.0, "sha256": "c" * 64})
    chain = plan.model_copy(update={"segments": (plan.segments[0], second), "continuity": Continuity.CHAIN})
    workspace.provider(plan.provider).video = footage
    assert len(await still_to_buy(workspace, chain)) == 2
    record = await submit_render(workspace, chain, chain.segments[0])
    await collect_render(workspace, record.entry.render_id)
    (placeholder,) = await still_to_buy(workspace, chain)
    orders = await quoted_renders(workspace, chain)
    assert placeholder == orders[1][0].render_id != quote_render(workspace, chain, second).render_id


async def test_a_claim_serves_one_attempt(workspace, plan, monkeypatch):
    """Whoever settles an attempt gives its claim back: the next attempt has its own, and the old one is gone."""
    monkeypatch.setattr(submit, "_pause", lambda error, last: 0.0)
    workspace.provider(plan.provider).answers.insert(0, NotSent("refused"))
    (key,) = (await commit_job(workspace, plan)).values()
    record = await submit_render(workspace, plan, plan.segments[0], claim=key)
    assert record.entry.attempt == 2
    assert record.entry.claim != key
    assert [claim.key for claim in await workspace.budget.objects(today())] == [record.entry.claim]


async def test_a_refused_request_leaves_nothing_set_aside(workspace, plan):
    """It was not charged: its claim goes at once."""
    workspace.provider(plan.provider).answers.insert(0, SubmitRefused("no credit", kind="balance"))
    (key,) = (await commit_job(workspace, plan)).values()
    with pytest.raises(SubmitRefused):
        await submit_render(workspace, plan, plan.segments[0], claim=key)
    assert await workspace.budget.objects(today()) == []

"""The one paid request of a render, on a real store. `seen` counts the requests."""

import asyncio
from itertools import count

import pytest

from avatar import waiting
from avatar.errors import NotSent, OutcomeUnknown, RenderFailed, StoreUnavailable, SubmitRefused, Throttled
from avatar.money import submit
from avatar.money.entries import Failure, RenderState
from avatar.money.quote import quote_render
from avatar.money.submit import submit_render
from tests.money.scripted import Scripted


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch):
    monkeypatch.setattr(submit, "_pause", lambda error, last: 0.0)


async def states(workspace, plan) -> list[str]:
    render_id = quote_render(workspace, plan, plan.segments[0]).render_id
    return [record.state.value for record in await workspace.journal.history(render_id)]


async def test_a_submit_leaves_intent_and_receipt(make_workspace, plan):
    """One request, and the journal tells who asked, for how much, and the provider's id."""
    workspace = make_workspace(provider := Scripted("req-1"))
    record = await submit_render(workspace, plan, plan.segments[0])
    assert record.entry.submission.request_id == "req-1"
    assert await states(workspace, plan) == ["intent", "submitted"]
    assert len(provider.seen) == 1


async def test_asked_again_by_another_process_nothing_is_sent(make_workspace, plan):
    """A second worker finds the receipt and follows it."""
    await submit_render(make_workspace(Scripted("req-1")), plan, plan.segments[0])
    other = make_workspace(late := Scripted("req-2"))
    record = await submit_render(other, plan, plan.segments[0])
    assert record.entry.submission.request_id == "req-1"
    assert late.seen == []


async def test_of_many_at_once_exactly_one_sends(make_workspace, plan):
    """Eight workers at the same moment: one request, and all of them get its receipt."""
    provider = Scripted(*[f"req-{n}" for n in range(8)])
    workers = [make_workspace(provider) for _ in range(8)]
    records = await asyncio.gather(*(submit_render(worker, plan, plan.segments[0]) for worker in workers))
    assert len(provider.seen) == 1
    assert {record.entry.submission.request_id for record in records} == {"req-0"}


async def test_a_request_that_never_left_is_tried_again(make_workspace, plan):
    """Connecting failed twice, then it went through: three intents, one acceptance."""
    workspace = make_workspace(Scripted(NotSent("refused"), NotSent("refused"), "req-1"))
    await submit_render(workspace, plan, plan.segments[0])
    assert await states(workspace, plan) == ["intent", "not_sent"] * 2 + ["intent", "submitted"]


async def test_a_throttled_request_is_tried_again_and_gives_up_at_last(make_workspace, plan):
    """429 is no acceptance; after the last attempt the error says so."""
    workspace = make_workspace(provider := Scripted(*[Throttled("busy")] * submit.MAX_ATTEMPTS))
    with pytest.raises(Throttled):
        await submit_render(workspace, plan, plan.segments[0])
    assert len(provider.seen) == submit.MAX_ATTEMPTS


async def test_whoever_comes_second_in_its_last_try_returns_what_the_first_bought(
    make_workspace, plan, monkeypatch
):
    """A rival took the render between our last look and our intent: it was bought, and we say so."""
    monkeypatch.setattr(submit, "MAX_ATTEMPTS", 1)
    provider = Scripted("req-1", "req-2")
    both = [submit.submit_render(make_workspace(provider), plan, plan.segments[0]) for _ in range(2)]
    first, second = await asyncio.gather(*both)
    assert first.entry == second.entry
    assert len(provider.seen) == 1


async def test_what_another_run_tries_is_no_attempt_of_ours(make_workspace, plan, monkeypatch):
    """Every attempt but the last was refused for now; another run is first then, and refused too: ours is still to come."""
    workspace = make_workspace(Scripted(*[Throttled("busy")] * (submit.MAX_ATTEMPTS - 1), "req-1"))
    begin, tries = workspace.journal.begin, count(1)

    async def forestalled(*args, **facts):
        intent = await begin(*args, **facts)
        if next(tries) != submit.MAX_ATTEMPTS:
            return intent
        failure = Failure(kind="throttled", message="busy")
        await workspace.journal.append(intent, RenderState.REFUSED, failure=failure)
        return None

    monkeypatch.setattr(workspace.journal, "begin", forestalled)
    await submit.submit_render(workspace, plan, plan.segments[0])
    assert await states(workspace, plan) == ["intent", "refused"] * submit.MAX_ATTEMPTS + [
        "intent",
        "submitted",
    ]


async def test_a_lost_answer_is_never_sent_again(make_workspace, plan):
    """The first run stops with the sum at risk; every later one stops too, without a request."""
    workspace = make_workspace(provider := Scripted(OutcomeUnknown("the connection was cut"), "req-2"))
    for _ in range(3):
        with pytest.raises(OutcomeUnknown, match=r"\$0.92 may have been charged") as caught:
            await submit_render(workspace, plan, plan.segments[0])
        assert "avatar resolve" in caught.value.hint
    assert len(provider.seen) == 1
    assert await states(workspace, plan) == ["intent", "unknown"]


async def test_a_refusal_is_recorded_and_a_later_run_may_ask_again(make_workspace, plan):
    """A refused request was not charged, so a corrected key or balance lets the next run through."""
    workspace = make_workspace(
        Scripted(SubmitRefused("no balance", kind="payment_required", status=402), "req-1")
    )
    with pytest.raises(SubmitRefused):
        await submit_render(workspace, plan, plan.segments[0])
    record = await submit_render(workspace, plan, plan.segments[0])
    assert record.entry.submission.request_id == "req-1"


async def in_mid_request(workspace, plan) -> asyncio.Task:
    """A run whose paid request is under way."""
    run = asyncio.create_task(submit_render(workspace, plan, plan.segments[0]))
    while await states(workspace, plan) != ["intent"]:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)  # into the request itself, past the scripted latency
    return run


async def test_cancelled_in_mid_request_is_unknown(make_workspace, plan, monkeypatch):
    """Stopping a run while its request is under way, and goes on to be, leaves a journal that says so."""
    monkeypatch.setattr(waiting, "LAST_SECONDS", 0.1)
    workspace = make_workspace(Scripted(asyncio.Event().wait))
    run = await in_mid_request(workspace, plan)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert await states(workspace, plan) == ["intent", "unknown"]


async def test_cancelled_while_the_store_is_away_it_does_not_wait_for_long(
    make_workspace, plan, store, monkeypatch
):
    """Nobody who stops a run waits for minutes: the intent stands, and becomes unknown when its lease runs out."""
    monkeypatch.setattr(waiting, "LAST_SECONDS", 0.1)
    workspace = make_workspace(Scripted(asyncio.Event().wait))
    run = await in_mid_request(workspace, plan)

    async def away(*_):
        raise StoreUnavailable("away")

    monkeypatch.setattr(store, "create", away)
    began = asyncio.get_running_loop().time()
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert asyncio.get_running_loop().time() - began < 60
    assert await states(workspace, plan) == ["intent"]


async def test_cancelled_in_mid_request_its_answer_is_waited_for(make_workspace, plan):
    """It comes within seconds: the receipt is in the journal, and the run ends as cancelled."""
    asked = asyncio.Event()

    async def slow() -> str:
        asked.set()
        await asyncio.sleep(0.2)
        return "req-slow"

    workspace = make_workspace(Scripted(slow))
    run = asyncio.create_task(submit_render(workspace, plan, plan.segments[0]))
    await asked.wait()
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert await states(workspace, plan) == ["intent", "submitted"]


async def test_an_intent_whose_holder_died_becomes_unknown(make_workspace, plan):
    """No sign of life for longer than the lease: it may have been sent, so nobody sends it again."""
    dead = make_workspace(Scripted(), journal={"lease_seconds": 2})
    order = quote_render(dead, plan, plan.segments[0])
    await dead.journal.begin(None, render_id=order.render_id, job_id=plan.job_id, provider=plan.provider, quoted=order.quoted)  # fmt: skip
    alive = make_workspace(provider := Scripted("req-1"))
    with pytest.raises(OutcomeUnknown, match="no sign of life"):
        await submit_render(alive, plan, plan.segments[0])
    assert provider.seen == []


async def test_a_slow_but_living_holder_keeps_its_turn(make_workspace, plan):
    """A request that takes longer than the lease is kept alive by renewals; a rival waits and follows."""

    async def slow() -> str:
        await asyncio.sleep(5)  # the provider's latency, well past the lease
        return "req-slow"

    holder = make_workspace(Scripted(slow), journal={"lease_seconds": 2})
    rival = make_workspace(other := Scripted("req-rival"), journal={"lease_seconds": 2})
    first = asyncio.create_task(submit_render(holder, plan, plan.segments[0]))
    while await states(holder, plan) != ["intent"]:
        await asyncio.sleep(0.01)
    record = await submit_render(rival, plan, plan.segments[0])
    assert record.entry.submission.request_id == (await first).entry.submission.request_id == "req-slow"
    assert other.seen == []


async def test_a_holder_declared_dead_still_brings_its_receipt(make_workspace, plan):
    """An answer that comes after the verdict `unknown` settles it: the paid video is not lost."""
    workspace = make_workspace(Scripted())
    order = quote_render(workspace, plan, plan.segments[0])

    async def declared_dead_meanwhile() -> str:
        head = await workspace.journal.head(order.render_id)
        await workspace.journal.append(
            head, RenderState.UNKNOWN, failure=Failure(kind="holder_gone", message="late")
        )
        return "req-late"

    workspace.provider(plan.provider).answers.append(declared_dead_meanwhile)
    record = await submit_render(workspace, plan, plan.segments[0])
    assert record.entry.submission.request_id == "req-late"
    assert await states(workspace, plan) == ["intent", "unknown", "submitted"]


@pytest.mark.parametrize(("billed", "sent"), [(False, 2), (None, 1), (True, 1)])
async def test_a_failed_render_is_asked_for_again_only_if_it_was_not_charged(
    make_workspace, plan, billed, sent
):
    """A failure that may have been charged needs a person; one that surely was not may be tried by the next run."""
    workspace = make_workspace(provider := Scripted("req-1", "req-2"))
    record = await submit_render(workspace, plan, plan.segments[0])
    await workspace.journal.append(
        record, RenderState.FAILED, failure=Failure(kind="x", message="No face", billed=billed)
    )
    if billed is False:
        await submit_render(workspace, plan, plan.segments[0])
    else:
        with pytest.raises(RenderFailed, match=r"\(x\): No face\. Up to \$"):
            await submit_render(workspace, plan, plan.segments[0])
    assert len(provider.seen) == sent

"""After the money: the result is journaled first, the video is kept, the unknown is settled, nothing is sent again."""

import shutil
from decimal import Decimal

import pytest

from avatar.errors import (
    InvalidInput,
    OutcomeUnknown,
    ProviderUnavailable,
    RenderFailed,
    RenderLost,
    ResultUnreadable,
    StillRendering,
)
from avatar.job.publish import find_video
from avatar.job.reconcile import reconcile_renders
from avatar.models import CancelOutcome, RemoteState, Snapshot
from avatar.money import local_receipts
from avatar.money.budget import total
from avatar.money.collect import collect_render
from avatar.money.commit import commit_job, release_unspent
from avatar.money.follow import follow_render
from avatar.money.quote import quote_render
from avatar.money.settle import attach_request, cancel_render, declare_not_charged
from avatar.money.submit import submit_render
from tests.money.scripted import Scripted


async def bought(workspace, plan):
    """A render that was committed to and accepted; its id."""
    claims = await commit_job(workspace, plan)
    record = await submit_render(workspace, plan, plan.segments[0], claim=next(iter(claims.values()), None))
    return record.entry.render_id


async def states(workspace, render_id) -> list[str]:
    return [record.state.value for record in await workspace.journal.history(render_id)]


async def test_the_result_is_journaled_before_the_download(make_workspace, plan, footage):
    """The download fails for good: the journal holds the raw result, and the next try needs no new render."""
    provider = Scripted("req-1", video=footage)
    workspace = make_workspace(provider)
    render_id = await bought(workspace, plan)

    async def broken(video, target):
        raise ProviderUnavailable("the connection is cut")

    working, provider.download = provider.download, broken
    with pytest.raises(ProviderUnavailable):
        await collect_render(workspace, render_id)
    head = await workspace.journal.head(render_id)
    assert head.state == "rendered"
    assert head.entry.remote.payload == {"video": {"url": "…"}}
    provider.download = working
    render = await collect_render(workspace, render_id)
    assert (await workspace.store.stat(render.key)).sha256 == render.sha256
    assert len(provider.seen) == 1


async def test_an_expired_url_is_asked_for_anew(make_workspace, plan, footage):
    """The recorded URL is gone; the provider still answers for the request id."""
    provider = Scripted("req-1", video=footage)
    workspace = make_workspace(provider)
    render_id = await bought(workspace, plan)
    tries = []

    async def expired_once(video, target):
        tries.append(video.url)
        if len(tries) == 1:
            raise ProviderUnavailable("gone", kind="expired")
        shutil.copy(footage, target)

    provider.download = expired_once
    await collect_render(workspace, render_id)
    assert await states(workspace, render_id) == ["intent", "submitted", "rendered", "rendered", "collected"]


async def test_the_bill_replaces_the_claim(make_workspace, plan, footage):
    """Quoted by the voice, billed by the video: the day's books hold the bill."""
    workspace = make_workspace(Scripted("req-1", video=footage), budget={"per_day": Decimal(1)})
    render_id = await bought(workspace, plan)
    render = await collect_render(workspace, render_id)
    day = (await workspace.journal.head(render_id)).entry.claimed_on
    (claim,) = await workspace.budget.claims(day)
    assert (claim.state, claim.amount) == ("settled", render.billed)
    assert await workspace.journal.open_renders() == []


async def test_a_lost_request_is_no_recorded_failure(make_workspace, plan):
    """A 404 may come from a wrong key or address: the run fails, the journal keeps the receipt."""
    workspace = make_workspace(Scripted("req-1", looks=[Snapshot(state=RemoteState.LOST)]))
    render_id = await bought(workspace, plan)
    with pytest.raises(RenderLost, match="req-1"):
        await follow_render(workspace, render_id, ignore)
    assert await states(workspace, render_id) == ["intent", "submitted"]


async def test_a_result_that_is_kept_no_more_ends_before_a_person(make_workspace, plan, monkeypatch):
    """Its status says that it is done, and there is no result: for a while that may pass, and not for ever."""
    workspace = make_workspace(provider := Scripted("req-1"))
    render_id = await bought(workspace, plan)

    async def gone(submission):
        raise RenderLost("fal knows no result of request req-1 (any more).")

    monkeypatch.setattr(provider, "collect", gone)
    with pytest.raises(RenderLost):
        await collect_render(workspace, render_id)
    assert await states(workspace, render_id) == ["intent", "submitted"]
    monkeypatch.setattr(
        "avatar.money.follow.age_of", lambda _: workspace.settings.polling.deadline_seconds + 1
    )
    for _ in range(2):
        with pytest.raises(RenderLost):
            await collect_render(workspace, render_id)
    assert await states(workspace, render_id) == ["intent", "submitted", "stalled"]


async def test_a_window_that_closes_is_retried(make_workspace, plan):
    """Not done yet is the one error that polling retries."""
    workspace = make_workspace(Scripted("req-1", looks=[Snapshot(state=RemoteState.RUNNING)]))
    render_id = await bought(workspace, plan)
    with pytest.raises(StillRendering):
        await follow_render(workspace, render_id, ignore)


async def ignore(snapshot, age):
    return None


async def test_an_orphan_is_finished_by_reconcile(make_workspace, plan, footage):
    """The run died after the submit: reconcile collects and publishes, and sends nothing."""
    await bought(make_workspace(Scripted("req-1", video=footage)), plan)
    other = make_workspace(late := Scripted(video=footage))
    found = await reconcile_renders(other, idle_seconds=0)
    assert found.published == [plan.job_id]
    video = await find_video(other, plan.job_id)
    assert (await other.store.stat(video.key)).sha256 == video.sha256
    assert late.seen == []


async def test_reconcile_leaves_a_living_run_alone(make_workspace, plan, footage):
    """A render whose run gave a sign of life just now is not taken over."""
    await bought(make_workspace(Scripted("req-1", video=footage)), plan)
    found = await reconcile_renders(make_workspace(Scripted(video=footage)))
    assert (found.collected, found.published) == ([], [])


async def test_reconcile_reports_the_unknown_and_sends_nothing(make_workspace, plan):
    """Unknown stays unknown until somebody brings news."""
    workspace = make_workspace(provider := Scripted(OutcomeUnknown("cut")))
    with pytest.raises(OutcomeUnknown):
        await bought(workspace, plan)
    found = await reconcile_renders(workspace, idle_seconds=0)
    assert len(found.unknown) == len(provider.seen) == 1


async def test_a_request_id_settles_the_unknown(make_workspace, plan, footage):
    """Found on the dashboard, confirmed by the provider, collected: paid once, video kept."""
    provider = Scripted(OutcomeUnknown("cut"), video=footage)
    workspace = make_workspace(provider)
    with pytest.raises(OutcomeUnknown) as caught:
        await bought(workspace, plan)
    render_id = caught.value.render_id
    await attach_request(workspace, render_id, "req-found", by="anna")
    assert (await workspace.journal.head(render_id)).entry.settled_by == "anna"
    render = await collect_render(workspace, render_id)
    assert render.request_id == "req-found"
    assert len(provider.seen) == 1


async def test_a_request_id_the_provider_does_not_know_is_refused(make_workspace, plan):
    """A typing error must not turn the unknown into a wait without end."""
    workspace = make_workspace(Scripted(OutcomeUnknown("cut"), looks=[Snapshot(state=RemoteState.LOST)]))
    with pytest.raises(OutcomeUnknown) as caught:
        await bought(workspace, plan)
    with pytest.raises(InvalidInput, match="does not know"):
        await attach_request(workspace, caught.value.render_id, "req-typo", by="anna")


async def test_not_charged_lets_it_be_sent_again_and_returns_the_money(make_workspace, plan):
    """A person's word reopens the render; the claim is given back first."""
    workspace = make_workspace(provider := Scripted(OutcomeUnknown("cut"), "req-2"))
    with pytest.raises(OutcomeUnknown) as caught:
        await bought(workspace, plan)
    record = await declare_not_charged(workspace, caught.value.render_id, by="anna")
    assert total(await workspace.budget.claims(record.entry.claimed_on)) == 0
    await bought(workspace, plan)
    assert len(provider.seen) == 2


async def test_there_is_nothing_to_settle_in_a_healthy_render(make_workspace, plan):
    """`resolve` cannot be used to buy again what is under way."""
    workspace = make_workspace(Scripted("req-1"))
    render_id = await bought(workspace, plan)
    with pytest.raises(InvalidInput, match="nothing to settle"):
        await declare_not_charged(workspace, render_id, by="anna")


async def test_a_receipt_on_this_machine_settles_a_crash(make_workspace, plan):
    """Killed between the provider's answer and the journal: the receipt on disk brings the request id."""
    workspace = make_workspace(Scripted(), journal={"lease_seconds": 2})
    order = quote_render(workspace, plan, plan.segments[0])
    await workspace.journal.begin(
        None, render_id=order.render_id, job_id=plan.job_id, provider=plan.provider, quoted=order.quoted
    )
    from datetime import UTC, datetime

    from avatar.models import Submission

    receipt = Submission(
        render_id=order.render_id,
        provider=plan.provider,
        request_id="req-disk",
        submitted_at=datetime.now(UTC),
    )
    local_receipts.keep_receipt(workspace.settings.state_dir, receipt, attempt=1)
    record = await submit_render(make_workspace(late := Scripted()), plan, plan.segments[0])
    assert record.entry.submission.request_id == "req-disk"
    assert late.seen == []


async def test_money_claimed_for_what_was_not_sent_is_given_back(make_workspace, plan):
    """A job that stops before its request leaves the day's budget as it was."""
    workspace = make_workspace(Scripted())
    claims = await commit_job(workspace, plan)
    (day,) = await workspace.budget.days()
    assert total(await workspace.budget.claims(day)) == Decimal("0.92")
    await release_unspent(workspace, claims)
    assert total(await workspace.budget.claims(day)) == 0


async def test_cancelling_says_whether_it_saves_money(make_workspace, plan):
    """Told to stop is not stopped: the journal goes on waiting for the video."""
    provider = Scripted("req-1")
    workspace = make_workspace(provider)
    render_id = await bought(workspace, plan)
    ended = await cancel_render(workspace, render_id)
    assert ended.outcome is CancelOutcome.UNSUPPORTED
    assert "will be charged" in ended.text

    async def removed(submission):
        return CancelOutcome.REMOVED

    provider.cancel = removed
    ended = await cancel_render(workspace, render_id)
    assert "not charged" in ended.text
    day = (await workspace.journal.head(render_id)).entry.claimed_on
    assert total(await workspace.budget.claims(day)) == 0


async def test_a_result_that_names_no_video_yet_is_asked_for_again(make_workspace, plan, footage):
    """The word may run ahead of the result: nobody is troubled for that."""
    workspace = make_workspace(Scripted("req-1", video=footage))
    render_id = await bought(workspace, plan)
    provider = workspace.provider(plan.provider)
    answers = iter([ResultUnreadable("no video", answer="{}"), provider.collect])

    async def late(submission):
        if isinstance(answer := next(answers), Exception):
            raise answer
        return await answer(submission)

    provider.collect = late
    await collect_render(workspace, render_id)
    assert "stalled" not in await states(workspace, render_id)


async def test_who_asks_for_a_result_that_names_no_video_is_told_what_to_do(make_workspace, plan):
    """What may have been charged, and how its video is brought."""
    workspace = make_workspace(Scripted("req-1"))
    render_id = await bought(workspace, plan)

    async def odd(_):
        raise ResultUnreadable("no video", answer="{}")

    workspace.provider(plan.provider).collect = odd
    with pytest.raises(ResultUnreadable) as caught:
        await collect_render(workspace, render_id)
    assert f"avatar resolve {render_id}` with --video-url URL" in caught.value.hint
    assert caught.value.cost_at_risk == quote_render(workspace, plan, plan.segments[0]).quoted


async def test_a_refusal_by_the_result_alone_must_come_twice(make_workspace, plan, footage):
    """The status names no failure: one refusal on the way is none of the provider's."""
    workspace = make_workspace(Scripted("req-1", video=footage))
    render_id = await bought(workspace, plan)
    provider = workspace.provider(plan.provider)
    answers = iter([RenderFailed("no"), provider.collect, provider.collect])

    async def refusing_once(submission):
        if isinstance(answer := next(answers), Exception):
            raise answer
        return await answer(submission)

    provider.collect = refusing_once
    with pytest.raises(StillRendering):
        await collect_render(workspace, render_id)
    await collect_render(workspace, render_id)
    assert "failed" not in await states(workspace, render_id)


async def test_an_answer_without_a_status_word_is_no_failure_at_once(make_workspace, plan):
    """`success: false` may be the gateway's, about the question."""
    workspace = make_workspace(Scripted("req-1"))
    render_id = await bought(workspace, plan)
    provider = workspace.provider(plan.provider)
    provider.looks = [Snapshot(state=RemoteState.FAILED, message="temporarily unavailable")]
    looks = iter([*provider.looks, *provider.looks, Snapshot(state=RemoteState.RUNNING)])

    async def passing(submission):
        return next(looks)

    provider.poll = passing
    with pytest.raises(StillRendering):
        await follow_render(workspace, render_id, ignore)
    assert "failed" not in await states(workspace, render_id)

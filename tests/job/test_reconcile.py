# ruff: noqa: F811 - fixtures of tests/money are imported by name
"""What runs left behind is brought to its end, whoever started it; trouble with one thing stops none of the others."""

import shutil
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from avatar.errors import ProviderUnavailable, RenderFailed, ResultUnreadable
from avatar.job import produce
from avatar.job.publish import find_video
from avatar.job.reconcile import reconcile_renders
from avatar.models import AvatarJob, RemoteState, RemoteVideo, Snapshot
from avatar.money.collect import FETCH_AGAIN, FETCHES, RENDERS, ExpiredRecord, collect_render, expired_key
from avatar.money.commit import commit_job, open_jobs, still_to_buy
from avatar.money.entries import Failure, RenderState
from avatar.money.failures import record_failure
from avatar.money.quote import quote_render
from avatar.money.settle import attach_video, declare_not_charged
from avatar.money.submit import submit_render
from tests.money.conftest import footage, inputs, make_workspace, plan, store, store_settings  # noqa: F401 - fixtures
from tests.money.scripted import Scripted

DAY = 86_400


async def bought(workspace, plan, segment=0):
    """A render that was committed to and accepted, by a run that is gone; its id."""
    claims = await commit_job(workspace, plan)
    order = quote_render(workspace, plan, plan.segments[segment])
    await submit_render(workspace, plan, plan.segments[segment], claim=claims.get(order.render_id))
    return order.render_id


async def aged(workspace, render_id: str, seconds: float) -> None:
    """Let it have been submitted longer ago, by the writer's clock and by the store's."""
    server = workspace.store.server
    server.tick(seconds)
    kept = server.buckets["avatar"]
    key = max(key for key in kept if key.startswith(f"journal/{render_id}/0"))
    head = await workspace.journal.head(render_id)
    submission = head.entry.submission.model_copy(
        update={"submitted_at": head.entry.submission.submitted_at - timedelta(seconds=seconds)}
    )
    modified = kept[key].stat.modified
    workspace.store.keep(
        key, head.entry.model_copy(update={"submission": submission}).model_dump_json().encode()
    )
    kept[key].stat.__dict__["modified"] = modified


@pytest.fixture(autouse=True)
def _now(store):
    store.server.now = datetime.now(UTC)


async def test_killed_between_collect_and_publish_it_is_published(make_workspace, plan, footage):
    """The run's last deed was to collect: nothing is open but the job, and it is brought to its end."""
    workspace = make_workspace(Scripted("req-1", video=footage))
    render_id = await bought(workspace, plan)
    await collect_render(workspace, render_id)
    assert await workspace.journal.open_renders() == []
    assert await open_jobs(workspace) == [plan.job_id]
    workspace.store.server.tick(DAY)
    found = await reconcile_renders(workspace)
    assert found.published == [plan.job_id]
    assert await find_video(workspace, plan.job_id)
    assert await open_jobs(workspace) == []


async def test_a_job_whose_run_is_at_work_is_left_to_it(make_workspace, plan, footage):
    """Collected just now: its run is about to publish."""
    workspace = make_workspace(Scripted("req-1", video=footage))
    await collect_render(workspace, await bought(workspace, plan))
    found = await reconcile_renders(workspace)
    assert (found.published, await open_jobs(workspace)) == ([], [plan.job_id])


async def test_what_an_earlier_version_left_behind_is_published_too(make_workspace, plan, footage):
    """It noted no open jobs: the open render leads to its job."""
    workspace = make_workspace(Scripted("req-1", video=footage))
    await bought(workspace, plan)
    await workspace.store.remove(f"open/jobs/{plan.job_id}.json")
    found = await reconcile_renders(workspace, idle_seconds=0)
    assert found.published == [plan.job_id]


def unplayable(video, target):
    target.write_bytes(b"junk")


async def test_a_video_that_does_not_play_is_fetched_a_bounded_number_of_times(make_workspace, plan):
    """With growing pauses; then it is booked, and in front of a person. It is not bought again."""
    provider, fetched, told = Scripted("req-1"), [], []
    workspace = make_workspace(provider)
    workspace.notify = told.append

    async def download(video, target):
        fetched.append(workspace.store.server.now)
        unplayable(video, target)

    provider.download = download
    render_id = await bought(workspace, plan)
    for _ in range(2 * DAY // 600):
        await reconcile_renders(workspace, idle_seconds=0)
        workspace.store.server.tick(600)
    assert len(fetched) == FETCHES * (len(FETCH_AGAIN) + 1)
    head = await workspace.journal.head(render_id)
    assert (head.state, head.entry.failure.kind) == (RenderState.STALLED, "unplayable")
    assert [notice.kind for notice in told if notice.EVENT == "avatar.render.stalled"] == ["unplayable"]
    (claim,) = await workspace.budget.claims(head.entry.claimed_on)
    assert (claim.state, claim.amount) == ("settled", Decimal("0.92"))
    assert len([key for key in workspace.store.server.buckets["avatar"] if key.startswith("renders/")]) == 1
    assert len(provider.seen) == 1


async def test_a_full_disk_at_one_render_stops_nothing_else(make_workspace, plan, footage):
    """The other render is collected, the leaked claim is given back, and the trouble is told."""
    provider = Scripted("req-1", "req-2", video=footage)
    workspace = make_workspace(provider)
    broken = await bought(workspace, plan)
    other = plan.model_copy(update={"job_id": "2" * 32, "take": 1})
    await bought(workspace, other)

    async def download(video, target):
        if video.url.endswith("req-1"):
            raise OSError(28, "No space left on device")
        shutil.copy(footage, target)

    async def collect(submission):
        return RemoteVideo(url=f"https://example.invalid/{submission.request_id}")

    provider.download, provider.collect = download, collect
    await workspace.budget.claim({"f" * 32: Decimal(1)})
    workspace.store.server.tick(3 * 3600)
    await workspace.store.put("open/stray-object.txt", b"?", content_type="text/plain")
    await workspace.store.put(
        f"budget/{datetime.now(UTC) - timedelta(days=1):%Y-%m-%d}/stray.json",
        b"{}",
        content_type="text/plain",
    )
    found = await reconcile_renders(workspace, idle_seconds=0)
    assert found.published == ["2" * 32]
    assert found.released == ["f" * 32]
    assert "No space left" in found.failed[broken]


async def test_a_lost_render_ends_in_front_of_a_person(make_workspace, plan):
    """Before the deadline it may be a wrong key; after it, it has stalled, told once."""
    told = []
    workspace = make_workspace(Scripted("req-1", looks=[Snapshot(state=RemoteState.LOST)]))
    workspace.notify = told.append
    render_id = await bought(workspace, plan)
    await aged(workspace, render_id, 600)
    found = await reconcile_renders(workspace, idle_seconds=0)
    assert "does not know request" in found.failed[render_id]
    assert (await workspace.journal.head(render_id)).state is RenderState.SUBMITTED
    await aged(workspace, render_id, 30 * DAY)
    for _ in range(3):
        await reconcile_renders(workspace, idle_seconds=0)
        workspace.store.server.tick(DAY)
    head = await workspace.journal.head(render_id)
    assert (head.state, head.entry.failure.kind, head.entry.seq) == (RenderState.STALLED, "lost", 3)
    assert [(notice.EVENT, notice.kind) for notice in told] == [("avatar.render.stalled", "lost")]


async def test_a_render_that_is_never_done_stalls_and_is_fetched_if_it_is_done_after_all(
    make_workspace, plan, footage
):
    """Stuck at the provider beyond the deadline; days later it ends, and its video comes home."""
    provider = Scripted("req-1", video=footage, looks=[Snapshot(state=RemoteState.RUNNING)])
    workspace = make_workspace(provider)
    render_id = await bought(workspace, plan)
    await aged(workspace, render_id, DAY)
    await reconcile_renders(workspace, idle_seconds=0)
    assert (await workspace.journal.head(render_id)).entry.failure.kind == "overdue"
    workspace.store.server.tick(DAY)
    provider.looks = [Snapshot(state=RemoteState.DONE)]
    found = await reconcile_renders(workspace, idle_seconds=0)
    assert found.published == [plan.job_id]
    assert (await workspace.journal.head(render_id)).entry.failure is None


async def test_an_answer_that_cannot_be_read_is_kept_and_a_person_brings_the_video(
    make_workspace, plan, footage
):
    """Never "failed": the answer stands in the journal, and `--video-url` has the video collected and published."""
    provider = Scripted("req-1", video=footage)
    workspace = make_workspace(provider)
    render_id = await bought(workspace, plan)

    async def odd(submission):
        raise ResultUnreadable("it names no video", answer='{"weird": [1]}')

    provider.collect = odd
    await reconcile_renders(workspace, idle_seconds=0)
    head = await workspace.journal.head(render_id)
    assert (head.state, head.entry.failure.answer) == (RenderState.STALLED, '{"weird": [1]}')
    await attach_video(workspace, render_id, "https://cdn.example/v.mp4", by="anna")
    found = await reconcile_renders(workspace, idle_seconds=0)
    assert found.published == [plan.job_id]
    assert len(provider.seen) == 1


async def test_a_refund_lets_a_stalled_render_be_bought_again(make_workspace, plan):
    """A person's word: the money is given back, and the next run may ask."""
    provider = Scripted("req-1", "req-2", looks=[Snapshot(state=RemoteState.LOST)])
    workspace = make_workspace(provider)
    render_id = await bought(workspace, plan)
    await aged(workspace, render_id, DAY)
    await reconcile_renders(workspace, idle_seconds=0)
    record = await declare_not_charged(workspace, render_id, by="anna")
    assert await workspace.budget.claims(record.entry.claimed_on) == []
    await bought(workspace, plan)
    assert len(provider.seen) == 2


async def test_a_link_that_is_not_there_yet_is_no_end(make_workspace, plan, footage):
    """A fresh link answers 404 at first: the step may be repeated, and the video comes."""
    provider = Scripted("req-1", video=footage)
    workspace = make_workspace(provider)
    render_id = await bought(workspace, plan)
    working, tries = provider.download, []

    async def late(video, target):
        tries.append(video)
        if len(tries) <= 2:
            raise ProviderUnavailable("its link is no longer valid (404)", kind="expired")
        await working(video, target)

    provider.download = late
    with pytest.raises(ProviderUnavailable):
        await collect_render(workspace, render_id)
    await collect_render(workspace, render_id)


class TestTwoWitnesses:
    async def test_a_status_that_says_failed_beside_a_video_is_no_failure(
        self, make_workspace, plan, footage
    ):
        """The result holds the video: it is fetched."""
        workspace = make_workspace(
            Scripted("req-1", video=footage, looks=[Snapshot(state=RemoteState.FAILED, kind="worker")])
        )
        await bought(workspace, plan)
        assert (await reconcile_renders(workspace, idle_seconds=0)).published == [plan.job_id]

    async def test_failed_twice_is_failed(self, make_workspace, plan):
        """The result says nothing, and a second look says failed again."""
        provider = Scripted("req-1", looks=[Snapshot(state=RemoteState.FAILED, kind="worker", billed=False)])
        workspace = make_workspace(provider)
        render_id = await bought(workspace, plan)

        async def away(submission):
            raise ProviderUnavailable("503")

        provider.collect = away
        found = await reconcile_renders(workspace, idle_seconds=0)
        assert "worker" in found.failed[render_id]
        head = await workspace.journal.head(render_id)
        assert head.state is RenderState.FAILED
        assert await workspace.budget.claims(head.entry.claimed_on) == []

    async def test_a_result_that_says_failed_while_it_renders_is_not_believed(self, make_workspace, plan):
        """Its status says running: looked at again later."""
        provider = Scripted("req-1")
        workspace = make_workspace(provider)
        render_id = await bought(workspace, plan)

        async def refused(submission):
            provider.looks = [Snapshot(state=RemoteState.RUNNING)]
            raise RenderFailed("no", kind="content_policy_violation")

        provider.collect = refused
        found = await reconcile_renders(workspace, idle_seconds=0)
        assert found.running == [render_id]
        assert (await workspace.journal.head(render_id)).state is RenderState.SUBMITTED


async def test_a_job_that_cannot_be_put_together_is_tried_ever_less_often(
    make_workspace, plan, footage, monkeypatch
):
    """It stays open, and a day of reconciling decodes it a few times, not hundreds."""
    from avatar.job import finish_open_job

    tries = []

    async def broken(*_):
        tries.append(1)
        raise OSError("cannot be decoded")

    monkeypatch.setattr(finish_open_job, "publish_video", broken)
    workspace = make_workspace(Scripted("req-1", video=footage))
    await collect_render(workspace, await bought(workspace, plan))
    for _ in range(DAY // 120):
        workspace.store.server.tick(120)
        await reconcile_renders(workspace)
    assert 3 <= len(tries) <= 10
    assert await open_jobs(workspace) == [plan.job_id]


async def test_a_bill_that_is_not_the_quote_is_told(make_workspace, plan, footage):
    """An event, a mark in the budget, and a note in the record."""
    told = []
    provider = Scripted("req-1", video=footage)
    workspace = make_workspace(provider)
    workspace.notify = told.append

    async def collect(submission):
        return RemoteVideo(url="https://example.invalid/v.mp4", billed_seconds=Decimal(10272))

    provider.collect = collect
    render_id = await bought(workspace, plan)
    await reconcile_renders(workspace, idle_seconds=0)
    (notice,) = (notice for notice in told if notice.EVENT == "avatar.bill.differs")
    assert (notice.quoted, notice.billed) == (Decimal("0.92"), Decimal("1181.28"))
    day = (await workspace.journal.head(render_id)).entry.claimed_on
    (claim,) = await workspace.budget.claims(day)
    assert claim.differs
    assert any("billed at $1181.28" in note for note in (await find_video(workspace, plan.job_id)).notes)


async def test_the_providers_books_stand_above_its_answers(make_workspace, plan, footage):
    """Where they can be read, what they say is booked, and asked for once an hour."""
    asked = []

    class Booked(Scripted):
        async def bills(self, request_ids):
            asked.append(request_ids)
            return {"req-1": Decimal("0.80")}

    provider = Booked("req-1", video=footage)
    provider.capabilities = type(provider.capabilities)(paid=True, bills=True)
    workspace = make_workspace(provider)
    render_id = await bought(workspace, plan)
    for _ in range(3):
        await reconcile_renders(workspace, idle_seconds=0)
    assert asked == [["req-1"]]
    day = (await workspace.journal.head(render_id)).entry.claimed_on
    assert [claim.amount for claim in await workspace.budget.claims(day)] == [Decimal("0.80")]


async def test_put_together_by_another_version_it_is_published_beside_what_is_there(
    make_workspace, plan, footage
):
    """Killed before its record was written, and the media library writes other bytes since: nothing is overwritten."""
    workspace = make_workspace(Scripted("req-1", video=footage))
    await bought(workspace, plan)
    key = f"videos/{plan.job_id}/video.mp4"
    workspace.store.keep(key, b"by another version", metadata={"sha256": "0" * 64})
    found = await reconcile_renders(workspace, idle_seconds=0)
    assert found.published == [plan.job_id]
    video = await find_video(workspace, plan.job_id)
    assert video.key != key
    assert (await workspace.store.get(key)).data == b"by another version"


class TestTheNextTake:
    """`--force` buys a take that can still get a video; never one that it would leave again."""

    @pytest.fixture
    async def workspace(self, make_workspace, plan, footage, monkeypatch):
        workspace = make_workspace(Scripted("req-0", "req-1", video=footage))
        monkeypatch.setattr(produce, "identify", lambda job, *_: f"{job.take}" * 32)
        return workspace

    async def take(self, workspace, plan) -> int:
        job = AvatarJob(portrait="p", voice="v", provider="fal")
        return (await produce.next_take(workspace, job, plan.portrait.asset, plan.voice.source)).take

    async def begun(self, workspace, plan) -> str:
        return await bought(workspace, plan.model_copy(update={"job_id": "0" * 32}))

    async def test_is_the_first_if_nothing_was_bought(self, workspace, plan):
        """And one that was cut short is continued."""
        assert await self.take(workspace, plan) == 0
        await self.begun(workspace, plan)
        assert await self.take(workspace, plan) == 0

    @pytest.mark.parametrize("state", [RenderState.FAILED, RenderState.STALLED])
    async def test_leaves_one_that_failed_or_stalled(self, workspace, plan, state):
        """Whatever was charged for it, its text says to ask for another take."""
        head = await workspace.journal.head(await self.begun(workspace, plan))
        await workspace.journal.append(
            head, state, failure=Failure(kind="unplayable", message="x", billed=True)
        )
        assert await self.take(workspace, plan) == 1

    async def test_leaves_one_that_has_expired(self, workspace, plan):
        """Its render was deleted by a rule."""
        render_id = await self.begun(workspace, plan)
        render = await collect_render(workspace, render_id)
        mark = ExpiredRecord(name=render_id, at=datetime.now(UTC), days=1, keys=(render.key,))
        await workspace.store.put(
            expired_key(RENDERS, render_id), mark.model_dump_json().encode(), content_type="application/json"
        )
        assert await self.take(workspace, plan) == 0
        await workspace.store.remove(render.key)
        assert await self.take(workspace, plan) == 1


async def test_the_money_is_approved_for_what_is_still_owed(make_workspace, plan, monkeypatch):
    """Bought by an earlier run: nobody is asked again."""
    workspace = make_workspace(Scripted("req-1"), budget={"approve_above": Decimal("0.5")})
    await bought(workspace, plan)
    assert await still_to_buy(workspace, plan) == {}


async def test_a_job_that_is_bought_in_part_is_told_of_once(make_workspace, plan, footage):
    """Its run is gone after one of two segments: a machine may not buy the other, so a person is told."""
    second = plan.segments[0].model_copy(update={"index": 1, "start": 8.0, "sha256": "c" * 64})
    both = plan.model_copy(update={"segments": (plan.segments[0], second)})
    told = []
    workspace = make_workspace(Scripted("req-1", video=footage))
    workspace.notify = told.append
    render_id = await bought(workspace, both)
    for _ in range(2 * DAY // 600):
        workspace.store.server.tick(600)
        await reconcile_renders(workspace)
    (notice,) = told
    assert (notice.EVENT, notice.renders) == ("avatar.job.unfinished", (render_id,))
    assert "1 of its 2 renders are bought" in notice.reason
    assert await open_jobs(workspace) == [plan.job_id]


async def test_two_who_learn_of_a_failure_at_once_write_it_once(make_workspace, plan):
    """The second finds it written, and tells the same."""
    workspace = make_workspace(Scripted("req-1"))
    record = await workspace.journal.head(await bought(workspace, plan))
    failure = Failure(kind="content_policy_violation", message="no", billed=None)
    for _ in range(2):
        with pytest.raises(RenderFailed):
            await record_failure(workspace, record, failure)
        record = await workspace.journal.head(record.entry.render_id)
    assert [each.state.value for each in await workspace.journal.history(record.entry.render_id)] == [
        "intent", "submitted", "failed",
    ]  # fmt: skip


async def test_a_failure_that_nobody_was_told_of_is_told(make_workspace, plan):
    """The run wrote it down and died before it could tell: the job is still open, and its failure is told once."""
    told = []
    workspace = make_workspace(Scripted("req-1"))
    workspace.notify = told.append
    record = await workspace.journal.head(await bought(workspace, plan))
    with pytest.raises(RenderFailed):
        await record_failure(workspace, record, Failure(kind="content_policy_violation", message="flagged"))
    for _ in range(DAY // 600):
        workspace.store.server.tick(600)
        await reconcile_renders(workspace)
    assert [(notice.EVENT, "flagged" in notice.reason) for notice in told] == [
        ("avatar.job.unfinished", True)
    ]

"""Attempts that lost their turn: nothing is written into another's, nothing is sent late, no accepted request is lost."""

import asyncio
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from avatar.errors import NotSent, OutcomeUnknown, StoreUnavailable, SubmitRefused
from avatar.models import RemoteState, Snapshot, Submission
from avatar.money import local_receipts, submit
from avatar.money.attempt import Attempt
from avatar.money.entries import Failure, RenderState
from avatar.money.journal import Journal
from avatar.money.quote import quote_render
from avatar.money.settle import declare_not_charged, describe_history, what_to_look_for
from avatar.money.state import read_current
from avatar.money.submit import submit_render
from avatar.providers.base import ListedRequest
from avatar.stored_models import ProviderName
from avatar.waiting import Moment
from tests.money.scripted import Scripted

RENDER = "a" * 32
WHAT = {"render_id": RENDER, "job_id": "b" * 32, "provider": ProviderName.FAL, "quoted": Decimal(6)}


def receipt(request_id: str, render_id: str = RENDER) -> Submission:
    return Submission(
        render_id=render_id, provider=ProviderName.FAL, request_id=request_id, submitted_at=datetime.now(UTC)
    )


def journal(store, holder: str) -> Journal:
    return Journal(store, lease_seconds=120, holder=holder)


@pytest.fixture
async def given_up(store):
    """A's attempt while its machine sleeps: given up, declared not charged by a person, and B's has begun."""
    a, b = journal(store, "A"), journal(store, "B")
    first = await a.begin(None, **WHAT)
    unknown = await b.append(first, RenderState.UNKNOWN, failure=Failure(kind="holder_gone", message="x"))
    resolved = await b.append(unknown, RenderState.RESOLVED, settled_by="Anna")
    second = await b.begin(resolved, **WHAT)
    return Attempt(a, first, Moment.now()), Attempt(b, second, Moment.now())


async def told(journal: Journal) -> list[tuple[str, str, int]]:
    history = await journal.history(RENDER)
    return [(each.entry.holder, each.state.value, each.entry.attempt) for each in history]


async def test_what_never_left_is_not_written_into_anothers_attempt(given_up):
    """B's request is under way: A's failed connection says nothing about it."""
    a, b = given_up
    record = await a.write(RenderState.NOT_SENT, failure=Failure(kind="not_sent", message="connect failed"))
    assert (record.entry.holder, record.state) == ("B", RenderState.INTENT)
    assert await told(b.journal) == [
        ("A", "intent", 1),
        ("B", "unknown", 1),
        ("B", "resolved", 1),
        ("B", "intent", 2),
    ]


@pytest.mark.parametrize("state", [RenderState.REFUSED, RenderState.UNKNOWN])
async def test_no_other_end_is_written_there_either(given_up, state):
    """Whatever A has to say, B's attempt stays B's."""
    a, b = given_up
    await a.write(state, failure=Failure(kind="x", message="x"))
    assert (await b.journal.head(RENDER)).entry == b.record.entry


async def test_an_accepted_request_beside_anothers_is_kept(given_up):
    """Both may be charged: the journal follows B's, and A's is kept beside it, once."""
    a, b = given_up
    await b.accepted(receipt("B-req"))
    for _ in range(2):
        record = await a.accepted(receipt("A-req"))
    assert record.entry.submission.request_id == "B-req"
    assert record.strays or (await b.journal.head(RENDER)).strays
    (stray,) = await b.journal.strays(RENDER)
    assert (stray.submission.request_id, stray.attempt) == ("A-req", 1)
    assert await b.journal.open_renders() == [RENDER]


async def test_an_accepted_request_is_followed_when_the_other_was_refused(make_workspace, given_up):
    """Only A's is charged: it is attached, by whoever looks next, and nothing is sent again."""
    a, b = given_up
    await b.write(RenderState.REFUSED, failure=Failure(kind="balance", message="no credit"))
    await a.accepted(receipt("A-req"))
    record = await read_current(make_workspace(Scripted()), RENDER)
    assert (record.state, record.entry.submission.request_id) == (RenderState.SUBMITTED, "A-req")
    assert await b.journal.strays(RENDER) == ()


async def test_a_receipt_of_an_earlier_attempt_does_not_settle_a_later_one(make_workspace, given_up):
    """On A's disk since before it was killed: B's attempt is unknown, and stays so, with A's request beside it."""
    _, b = given_up
    await b.write(RenderState.UNKNOWN, failure=Failure(kind="answer_lost", message="cut"))
    workspace = make_workspace(Scripted())
    local_receipts.keep_receipt(workspace.settings.state_dir, receipt("A-req"), attempt=1)
    record = await read_current(workspace, RENDER)
    assert record.state is RenderState.UNKNOWN
    assert [stray.submission.request_id for stray in await workspace.journal.strays(RENDER)] == ["A-req"]
    assert local_receipts.renders_with_receipt(workspace.settings.state_dir) == []


async def test_a_machine_that_slept_while_connecting_does_not_send(make_workspace, plan, monkeypatch):
    """Asked right before the first byte, the attempt says no; the next one goes through."""
    monkeypatch.setattr(submit, "_pause", lambda error, last: 0.0)
    answers = []

    class Sleeper(Scripted):
        async def submit(self, inputs):
            if not answers:
                monkeypatch.setattr("avatar.waiting.time.time", lambda: later)
            answers.append(inputs.may_send())
            if not answers[-1]:
                monkeypatch.undo()
                raise NotSent("its turn was over")
            return await super().submit(inputs)

    later = datetime.now(UTC).timestamp() + 100
    workspace = make_workspace(Sleeper("req-1"))
    record = await submit_render(workspace, plan, plan.segments[0])
    assert answers == [False, True]
    assert (record.state, record.entry.attempt) == (RenderState.SUBMITTED, 2)


async def test_what_was_not_sent_is_written_down_however_long_the_store_is_away(
    make_workspace, plan, store, monkeypatch
):
    """A pause of the store does not turn a refusal into `unknown`."""

    async def away() -> str:
        store.server.faults["create"] = ["refused"] * 10
        raise SubmitRefused("no credit", kind="balance")

    workspace = make_workspace(Scripted(away))
    with pytest.raises(SubmitRefused):
        await submit_render(workspace, plan, plan.segments[0])
    head = await workspace.journal.head(quote_render(workspace, plan, plan.segments[0]).render_id)
    assert (head.state, head.entry.failure.kind) == (RenderState.REFUSED, "balance")


async def test_an_answer_that_nobody_understands_is_kept_however_long_the_store_is_away(
    make_workspace, plan, store
):
    """It names the request, in an unexpected place: what only this run has read would be lost with it."""

    async def away() -> str:
        store.server.faults["create"] = ["refused"] * 10
        raise OutcomeUnknown("odd", answer='{"data": {"request_id": "req-odd"}}')

    record = await submit_render(make_workspace(Scripted(away)), plan, plan.segments[0])
    assert (record.state, record.entry.submission.request_id) == (RenderState.SUBMITTED, "req-odd")


async def test_a_cancelled_run_still_writes_what_was_not_sent(make_workspace, plan):
    """Stopped while it writes that nothing was sent: it is written all the same."""
    leaving = asyncio.Event()

    async def not_sent() -> str:
        leaving.set()
        raise NotSent("refused")

    workspace = make_workspace(Scripted(not_sent))
    run = asyncio.create_task(submit_render(workspace, plan, plan.segments[0]))
    await leaving.wait()
    await asyncio.sleep(0)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    head = await workspace.journal.head(quote_render(workspace, plan, plan.segments[0]).render_id)
    assert head.state is RenderState.NOT_SENT


async def test_a_store_that_is_away_for_a_while_ends_no_submit(make_workspace, plan, store):
    """Every step before the intent is free, and waits; the intent itself is not taken for another's."""
    provider = Scripted("req-1")
    workspace = make_workspace(provider)
    store.server.faults |= {
        "list": ["refused"] * 4,
        "create": ["refused", "lost", "refused"],
        "put": ["refused"] * 3,
    }
    record = await submit_render(workspace, plan, plan.segments[0])
    assert record.state is RenderState.SUBMITTED
    assert len(provider.seen) == 1


class Listing(Scripted):
    """A provider that lists the account's requests."""

    def __init__(self, *answers, listed=(), **more):
        super().__init__(*answers, **more)
        self.capabilities = type(self.capabilities)(paid=True, history=True)
        self.listed = listed

    async def history(self, since, until, endpoint=""):
        return self.listed(self.seen[0]) if callable(self.listed) else self.listed


def as_listed(inputs, request_id="req-listed", **other) -> ListedRequest:
    facts = {"image_url": inputs.portrait_url, "audio_url": inputs.voice_url, "prompt": inputs.prompt} | other
    return ListedRequest(request_id=request_id, sent_at=datetime.now(UTC), **facts)


async def lost_answer(make_workspace, plan, listed):
    workspace = make_workspace(Listing(OutcomeUnknown("cut"), listed=listed))
    with pytest.raises(OutcomeUnknown) as caught:
        await submit_render(workspace, plan, plan.segments[0])
    return workspace, caught.value


async def test_an_unknown_request_is_found_in_the_providers_list(make_workspace, plan):
    """Exactly one has our two files and our prompt: it is attached, and nothing is sent again."""
    listed = lambda inputs: [as_listed(inputs), as_listed(inputs, "req-other", prompt="another")]  # noqa: E731
    workspace = make_workspace(Listing(OutcomeUnknown("cut"), listed=listed))
    record = await submit_render(workspace, plan, plan.segments[0])
    assert record.entry.submission.request_id == "req-listed"
    assert "list of requests" in record.entry.settled_by
    assert len(workspace.provider(plan.provider).seen) == 1


@pytest.mark.parametrize(
    ("answer", "seen"),
    [
        ('{"success": true, "id": "req-odd"}', None),
        ('{"data": {"request_id": "req-odd"}}', None),
        ('{"Result": [{"Request_ID": "req-odd"}]}', None),
        ('{"status_url": "https://queue.example/a/b/requests/req-odd/status"}', None),
        ('{"polling_url": "https://gateway.example/v2/requests/status/req-odd?x=1"}', None),
        ("{}", "req-odd"),
    ],
)
async def test_an_id_in_an_unexpected_place_is_put_to_the_provider(make_workspace, plan, answer, seen):
    """The queue knows it: it is the request, and the run goes on."""
    workspace = make_workspace(Scripted(OutcomeUnknown("odd", answer=answer, request_id=seen)))
    record = await submit_render(workspace, plan, plan.segments[0])
    assert (record.state, record.entry.submission.request_id) == (RenderState.SUBMITTED, "req-odd")
    assert [each.state.value for each in await workspace.journal.history(record.entry.render_id)] == [
        "intent", "unknown", "submitted",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("shown", "settled"),
    [
        ("https://v3b.fal.media/files/b/panda/Xy7_{name}", True),
        ("https://v3b.fal.media/files/b/panda%2FXy7_{name}?v=1", True),
        ("https://v3b.fal.media/files/b/panda/{name}.old", False),
        ("https://v3b.fal.media/files/b/panda/Xy7_{other}", False),
    ],
)
async def test_a_copy_at_the_provider_is_known_by_the_end_of_its_name(make_workspace, plan, shown, settled):
    """The content's hash is in the name, whatever the provider's storage puts before it; nothing less will do."""
    name, other = plan.voice.heard.key.rsplit("/", 1)[-1], f"{'f' * 64}.wav"
    url = shown.format(name=name, other=other)
    workspace = make_workspace(
        Listing(OutcomeUnknown("cut"), listed=lambda inputs: [as_listed(inputs, audio_url=url)])
    )
    if settled:
        record = await submit_render(workspace, plan, plan.segments[0])
        assert record.entry.submission.request_id == "req-listed"
    else:
        with pytest.raises(OutcomeUnknown):
            await submit_render(workspace, plan, plan.segments[0])
    assert len(workspace.provider(plan.provider).seen) == 1


async def test_an_answer_that_comes_after_the_attempt_was_given_up_is_kept_all_the_same(store):
    """The machine slept, another declared it unknown: the odd answer may name the request. Kept once, verbatim."""
    a, b = journal(store, "A"), journal(store, "B")
    attempt = Attempt(a, await a.begin(None, **WHAT), Moment.now())
    await b.append(attempt.record, RenderState.UNKNOWN, failure=Failure(kind="holder_gone", message="x"))
    odd = Failure(kind="answer_lost", message="odd", answer='{"data": {"request_id": "req-odd"}}')
    for _ in range(2):
        record = await attempt.write(RenderState.UNKNOWN, failure=odd)
        await attempt.write(RenderState.UNKNOWN, failure=Failure(kind="answer_lost", message="cut"))
    assert record.entry.failure == odd
    assert await told(b) == [("A", "intent", 1), ("B", "unknown", 1), ("A", "unknown", 1)]


async def test_an_id_that_the_provider_does_not_know_settles_nothing(make_workspace, plan):
    """A number that was an error's code, say."""
    lost = [Snapshot(state=RemoteState.LOST)]
    workspace = make_workspace(Scripted(OutcomeUnknown("odd", answer='{"id": 500}'), looks=lost))
    with pytest.raises(OutcomeUnknown):
        await submit_render(workspace, plan, plan.segments[0])


@pytest.mark.parametrize(
    "listed",
    [
        None,
        [],
        lambda inputs: [as_listed(inputs), as_listed(inputs, "req-2")],
        lambda inputs: [as_listed(inputs, image_url="https://x/other.png")],
        lambda inputs: [as_listed(inputs, audio_url="https://x/other.mp3")],
        lambda inputs: [ListedRequest("req", datetime(2020, 1, 1, tzinfo=UTC), inputs.portrait_url, inputs.voice_url, inputs.prompt)],
    ],
    ids=["no list", "none", "two", "another portrait", "another voice", "another time"],
)  # fmt: skip
async def test_what_the_list_does_not_prove_stays_unknown(make_workspace, plan, listed):
    """Absence proves nothing, and neither do two."""
    workspace, error = await lost_answer(make_workspace, plan, listed)
    assert (await read_current(workspace, error.render_id)).state is RenderState.UNKNOWN


async def test_the_request_of_another_take_is_not_taken_for_it(make_workspace, plan):
    """It has the same files and the same prompt, and is held by its own render."""
    workspace = make_workspace(
        Listing("req-1", OutcomeUnknown("cut"), listed=lambda inputs: [as_listed(inputs, "req-1")])
    )
    await submit_render(workspace, plan, plan.segments[0])
    with pytest.raises(OutcomeUnknown) as caught:
        await submit_render(workspace, plan.model_copy(update={"take": 1}), plan.segments[0])
    assert (await read_current(workspace, caught.value.render_id)).state is RenderState.UNKNOWN


async def test_the_text_names_what_a_person_can_see(make_workspace, plan):
    """Endpoint, minutes, prompt and file names; never a tag that ordinary accounts do not show."""
    workspace = make_workspace(Scripted(OutcomeUnknown("cut")))
    with pytest.raises(OutcomeUnknown) as caught:
        await submit_render(workspace, plan, plan.segments[0])
    names = [asset.key.rsplit("/", 1)[1] for asset in (plan.portrait.asset, plan.segments[0].asset)]
    assert all(part in caught.value.message for part in ["UTC", f"{plan.prompt!r}", *names])
    assert "tag" not in caught.value.message + caught.value.hint


async def test_nothing_is_sent_while_the_store_does_not_answer(make_workspace, plan, store):
    """Away for longer than the patience: the run ends, and nothing was sent."""
    provider = Scripted("req-1")
    workspace = make_workspace(provider)
    store.server.faults["list"] = ["refused"] * 1000
    with pytest.raises(StoreUnavailable):
        await submit_render(workspace, plan, plan.segments[0])
    assert provider.seen == []


async def test_a_holder_that_wakes_to_a_collected_render_writes_nothing(given_up):
    """Its request was attached and its video fetched while it slept: what it would say is no news."""
    _, b = given_up
    submitted = await b.journal.append(b.record, RenderState.SUBMITTED, submission=receipt("B-req"))
    rendered = await b.journal.append(submitted, RenderState.RENDERED)
    await b.journal.append(rendered, RenderState.COLLECTED)
    assert not await b.renew()
    record = await b.write(RenderState.UNKNOWN, failure=Failure(kind="answer_lost", message="cut"))
    assert record.state is RenderState.COLLECTED


async def test_a_person_is_told_what_to_look_for_and_that_the_word_stands_alone(make_workspace, plan):
    """Before anything is settled by it: where to look, and what it costs if the word is wrong."""
    workspace, error = await lost_answer(make_workspace, plan, None)
    told = await what_to_look_for(workspace, error.render_id)
    assert f"{plan.prompt!r}" in told
    assert "UTC" in told
    assert "pays a second time" in await describe_history(workspace, error.render_id)
    await declare_not_charged(workspace, error.render_id, by="Anna")
    assert await what_to_look_for(workspace, error.render_id) == ""

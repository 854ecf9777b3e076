"""What a webhook may do: bring the request id that a lost answer should have brought."""

import pytest

from avatar.errors import OutcomeUnknown, ProviderUnavailable
from avatar.job.reconcile import reconcile_renders
from avatar.money import settle as standing
from avatar.money import webhooks as hints
from avatar.money.commit import commit_job
from avatar.money.quote import quote_render
from avatar.money.settle import declare_not_charged
from avatar.money.submit import submit_render
from avatar.money.webhooks import keep_note, valid_request_id
from avatar.stored_models import ProviderName
from tests.money.hooked import CUT, PUBLIC, Hooked, hint, kept
from tests.money.scripted import make_plan


async def states(workspace, render_id) -> list[str]:
    return [record.state.value for record in await workspace.journal.history(render_id)]


async def unknown(workspace, plan):
    """A render whose answer was lost."""
    (claim,) = (await commit_job(workspace, plan)).values()
    with pytest.raises(OutcomeUnknown):
        await submit_render(workspace, plan, plan.segments[0], claim=claim)


class TestAnUnknownRender:
    async def test_learns_its_request_and_is_collected(self, make_workspace, plan, render_id, footage):
        """The next `reconcile` attaches, collects and publishes, whatever its run does; paid once."""
        workspace = make_workspace(provider := Hooked(CUT, video=footage), bridge=PUBLIC)
        await unknown(workspace, plan)
        await keep_note(workspace.store, workspace.journal, hint(render_id))
        found = await reconcile_renders(workspace)
        assert (found.attached, found.published, found.unknown) == ([render_id], [plan.job_id], [])
        history = await workspace.journal.history(render_id)
        assert [str(one.state) for one in history] == ["intent", "unknown", "submitted", "rendered", "collected"]  # fmt: skip
        assert history[2].entry.settled_by.startswith("fal webhook received")
        assert len(provider.seen) == 1
        assert await kept(workspace) == []

    async def test_is_followed_by_the_next_run(self, make_workspace, plan, render_id):
        """Run again, the job finds the request instead of an error; nothing is sent."""
        workspace = make_workspace(provider := Hooked(CUT))
        await unknown(workspace, plan)
        await keep_note(workspace.store, workspace.journal, hint(render_id))
        record = await submit_render(workspace, plan, plan.segments[0])
        assert record.entry.submission.request_id == "req-1"
        assert len(provider.seen) == 1

    async def test_waits_while_its_holder_lives(self, make_workspace, plan, render_id):
        """The holder may still bring the answer itself; when its lease has run out, the hint does, with no alarm."""
        dead = make_workspace(Hooked(), journal={"lease_seconds": 2})
        order = quote_render(dead, plan, plan.segments[0])
        intent = await dead.journal.begin(
            None, render_id=render_id, job_id=plan.job_id, provider=plan.provider, quoted=order.quoted
        )
        assert await keep_note(dead.store, dead.journal, hint(render_id)) is not None
        assert (await standing.read_current(dead, render_id)).entry == intent.entry
        found = await reconcile_renders(dead)
        assert (found.attached, await states(dead, render_id)) == ([], ["intent"])
        record = await submit_render(make_workspace(late := Hooked()), plan, plan.segments[0])
        assert record.entry.submission.request_id == "req-1"
        assert (await states(dead, render_id), late.seen) == (["intent", "submitted"], [])

    @pytest.mark.parametrize("known", [(), ProviderUnavailable("away")])
    async def test_stays_so_without_the_provider_s_word(self, make_workspace, plan, render_id, known):
        """Not known there, also soon after the submit, or nobody answers: a person is told, the hint stays."""
        workspace = make_workspace(provider := Hooked(CUT))
        provider.known = known
        await unknown(workspace, plan)
        await keep_note(workspace.store, workspace.journal, hint(render_id))
        with pytest.raises(OutcomeUnknown):
            await submit_render(workspace, plan, plan.segments[0])
        assert len(await kept(workspace)) == len(provider.seen) == 1
        provider.known = ("req-1",)
        assert (await submit_render(workspace, plan, plan.segments[0])).state == "submitted"

    async def test_does_not_take_another_render_s_request(self, make_workspace, plan, render_id):
        """A request id that another render holds, at rest or not, is dropped, though the provider knows it."""
        workspace = make_workspace(Hooked("req-1", CUT))
        other = make_plan(plan.portrait.asset, plan.voice.source, take=7)
        await submit_render(workspace, other, other.segments[0])
        await unknown(workspace, plan)
        await keep_note(workspace.store, workspace.journal, hint(render_id))
        with pytest.raises(OutcomeUnknown):
            await submit_render(workspace, plan, plan.segments[0])
        assert await kept(workspace) == []

    @pytest.mark.parametrize("renders", [3, 60])
    async def test_asks_the_index_who_holds_a_request(self, make_workspace, plan, render_id, renders):
        """However many renders there are, none of their journals is read; before `avatar repair`, all are."""
        workspace = make_workspace(Hooked(CUT))
        await unknown(workspace, plan)
        await keep_note(workspace.store, workspace.journal, hint(render_id))
        for number in range(renders):
            workspace.store.keep(f"journal/{number:032x}/000001.json", b"{}")
        workspace.store.keep("index/complete.json", b"{}")
        workspace.store.server.calls.clear()
        assert (await standing.read_current(workspace, render_id)).state == "submitted"
        asked = {key.split("/")[1] for _, key in workspace.store.server.calls if key.startswith("journal/")}
        assert asked == {render_id}

    @pytest.mark.parametrize(
        ("stray", "state"), [(b"?", "submitted"), (b'{"format": 9, "request": "req-1"}', "unknown")]
    )
    async def test_is_settled_beside_an_entry_that_cannot_be_read(
        self, make_workspace, plan, render_id, stray, state
    ):
        """A stray object under another render stands against nothing, unless the request is named in it."""
        workspace = make_workspace(Hooked(CUT))
        await unknown(workspace, plan)
        await keep_note(workspace.store, workspace.journal, hint(render_id))
        workspace.store.keep(f"journal/{'f' * 32}/000001.json", stray)
        assert (await standing.read_current(workspace, render_id)).state == state

    async def test_does_not_take_its_own_earlier_request(self, make_workspace, plan, render_id, caplog):
        """A failed request's webhook comes late, when the answer to the next was lost: it stands for the first."""
        workspace = make_workspace(Hooked("req-1", CUT))
        record = await submit_render(workspace, plan, plan.segments[0])
        await workspace.journal.append(
            record, "failed", failure={"kind": "x", "message": "m", "billed": False}
        )
        await unknown(workspace, plan)
        assert await keep_note(workspace.store, workspace.journal, hint(render_id, attempt=1)) is None
        await keep_note(workspace.store, workspace.journal, hint(render_id, attempt=2))
        assert "which the journal does not hold" not in caplog.text
        with pytest.raises(OutcomeUnknown):
            await submit_render(workspace, plan, plan.segments[0])

    async def test_with_two_requests_is_left_to_a_person(self, make_workspace, plan, render_id, caplog):
        """If the provider knows both, somebody has to look: the log names them."""
        workspace = make_workspace(provider := Hooked(CUT))
        provider.known = ("req-1", "req-2")
        await unknown(workspace, plan)
        for request_id in provider.known:
            await keep_note(workspace.store, workspace.journal, hint(render_id, request_id))
        with pytest.raises(OutcomeUnknown):
            await submit_render(workspace, plan, plan.segments[0])
        assert "req-1" in caplog.text
        assert "req-2" in caplog.text

    @pytest.mark.parametrize(
        "change", [{"attempt": 2}, {"provider": ProviderName.PIXAZO}, {"request_id": None}]
    )
    async def test_needs_a_hint_about_its_very_request(self, make_workspace, plan, render_id, change):
        """Another attempt's, another provider's, or one without an id, changes nothing."""
        workspace = make_workspace(Hooked(CUT))
        await unknown(workspace, plan)
        await keep_note(workspace.store, workspace.journal, hint(render_id, **change))
        with pytest.raises(OutcomeUnknown):
            await submit_render(workspace, plan, plan.segments[0])

    async def test_is_not_moved_by_a_damaged_hint(self, make_workspace, plan, render_id):
        """What is no hint, or is one under a name not its own, is left alone."""
        workspace = make_workspace(Hooked(CUT))
        await unknown(workspace, plan)
        for name, data in (("a", b"{"), ("b", hint("cd" * 16).model_dump_json().encode())):
            await workspace.store.create(f"hints/{render_id}.1.{name}.json", data)
        with pytest.raises(OutcomeUnknown):
            await submit_render(workspace, plan, plan.segments[0])

    async def test_declared_not_charged_in_error_is_not_paid_again(self, make_workspace, plan, render_id):
        """A person erred; the webhook knows better. While the provider cannot be asked, nothing is sent."""
        workspace = make_workspace(provider := Hooked(CUT))
        await unknown(workspace, plan)
        await declare_not_charged(workspace, render_id, by="anna")
        await keep_note(workspace.store, workspace.journal, hint(render_id))
        provider.known = ProviderUnavailable("away")
        with pytest.raises(ProviderUnavailable):
            await submit_render(workspace, plan, plan.segments[0])
        provider.known = ("req-1",)
        assert (await submit_render(workspace, plan, plan.segments[0])).state == "submitted"
        assert await workspace.journal.open_renders() == [render_id]
        assert len(provider.seen) == 1


class TestAHint:
    async def test_is_kept_once(self, make_workspace, plan, render_id):
        """Deliveries repeat: the same hint again changes nothing."""
        workspace = make_workspace(Hooked("req-1"))
        await submit_render(workspace, plan, plan.segments[0])
        for _ in range(3):
            assert await keep_note(workspace.store, workspace.journal, hint(render_id)) is not None
        assert len(await kept(workspace)) == 1

    async def test_is_not_kept_without_bound(self, make_workspace, plan, render_id):
        """Who knows an address may make up ids: a few are kept."""
        workspace = make_workspace(Hooked(CUT))
        await unknown(workspace, plan)
        for number in range(hints.MOST + 3):
            await keep_note(workspace.store, workspace.journal, hint(render_id, f"made-up-{number}"))
        assert len(await kept(workspace)) == hints.MOST

    async def test_is_of_no_use_to_what_nobody_waits_for(self, make_workspace, plan, render_id, footage):
        """A render nobody asked for, and one that is collected: nothing is kept."""
        workspace = make_workspace(Hooked("req-1", video=footage))
        assert await keep_note(workspace.store, workspace.journal, hint(render_id)) is None
        (claim,) = (await commit_job(workspace, plan)).values()
        await submit_render(workspace, plan, plan.segments[0], claim=claim)
        await reconcile_renders(workspace, idle_seconds=0)
        assert await keep_note(workspace.store, workspace.journal, hint(render_id)) is None
        assert await kept(workspace) == []

    async def test_of_another_request_is_told(self, make_workspace, plan, render_id, caplog):
        """A webhook about a request that the journal does not hold may mean a second payment."""
        workspace = make_workspace(Hooked("req-1"))
        await submit_render(workspace, plan, plan.segments[0])
        assert await keep_note(workspace.store, workspace.journal, hint(render_id, "req-9")) is None
        assert "req-9" in caplog.text

    async def test_left_behind_is_swept(self, make_workspace, plan, render_id, footage):
        """One that outlived its render, because the process without webhooks collected it, goes with `reconcile`."""
        workspace = make_workspace(Hooked("req-1", video=footage))
        await submit_render(workspace, plan, plan.segments[0])
        await keep_note(workspace.store, workspace.journal, hint(render_id))
        await reconcile_renders(workspace, idle_seconds=0)
        await reconcile_renders(workspace, idle_seconds=0)
        assert await kept(workspace) == []

    @pytest.mark.parametrize(
        "value", ["", None, 7, ["a"], "a b", "a/b", "../a", ".", "-a", "a\n", "ü", "a" * 201, "a%2Fb", 'a"']
    )
    def test_brings_no_odd_id(self, value):
        """An id from a stranger has the form that documented ids have, or is none."""
        assert valid_request_id(value) is None

    @pytest.mark.parametrize("value", ["a", "kling-ai-avatar-v2-pro-789_019d", "a" * 200, "1:2.3~4"])
    def test_brings_an_id(self, value):
        assert valid_request_id(value) == value

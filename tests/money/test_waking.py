"""Whoever waits for a render looks at once when a webhook has come in for it."""

import asyncio

import pytest

from avatar.errors import StoreUnavailable
from avatar.models import RemoteState, Snapshot
from avatar.money import follow
from avatar.money import webhooks as waking
from avatar.money.follow import follow_render
from avatar.money.submit import submit_render
from avatar.money.webhooks import keep_note
from tests.money.hooked import PUBLIC, Hooked, hint


class Silent(Hooked):
    """Its watch never says anything; it counts its looks."""

    polls = 0

    async def watch(self, submission, window):
        yield Snapshot(state=RemoteState.RUNNING)
        await asyncio.Event().wait()

    async def poll(self, submission):
        self.polls += 1
        return await super().poll(submission)


class TestWhoWaits:
    @pytest.fixture(autouse=True)
    def _at_once(self, monkeypatch):
        monkeypatch.setattr(waking, "EVERY", 0.02)
        monkeypatch.setattr(follow, "LOOKS", (0.0, 0.01))

    async def test_is_woken(self, make_workspace, plan, render_id):
        """The hint is written by one process; another, whose provider is silent, looks and finds the end."""
        workspace = make_workspace(Silent("req-1"), bridge=PUBLIC)
        await submit_render(workspace, plan, plan.segments[0])
        seen = []

        async def on_snapshot(snapshot, age):
            seen.append(snapshot.state)
            if len(seen) == 1:
                other = make_workspace(Hooked())
                await keep_note(other.store, other.journal, hint(render_id))

        assert (await follow_render(workspace, render_id, on_snapshot)).state is RemoteState.DONE
        assert seen == [RemoteState.RUNNING, RemoteState.DONE]

    async def test_goes_on_waiting_after_a_false_hint(self, make_workspace, plan, render_id):
        """The provider is not done: a few looks, then the usual wait, until the next hint."""
        workspace = make_workspace(provider := Silent("req-1"), bridge=PUBLIC)
        provider.looks = [Snapshot(state=RemoteState.RUNNING)]
        await submit_render(workspace, plan, plan.segments[0])
        await keep_note(workspace.store, workspace.journal, hint(render_id))

        async def on_snapshot(snapshot, age):
            if provider.polls == len(follow.LOOKS):
                provider.looks = [Snapshot(state=RemoteState.DONE)]
                await keep_note(workspace.store, workspace.journal, hint(render_id, None))

        await follow_render(workspace, render_id, on_snapshot)
        assert provider.polls == len(follow.LOOKS) + 1

    async def test_does_not_ask_the_store_when_webhooks_are_off(self, make_workspace, plan, render_id):
        """Without a public URL nobody lists hints."""
        workspace = make_workspace(Hooked("req-1"))
        await submit_render(workspace, plan, plan.segments[0])
        await follow_render(workspace, render_id, ignore)
        assert "webhook_listener" not in vars(workspace)

    async def test_asks_once_for_all(self, make_workspace, monkeypatch):
        """However many wait, one listener lists the hints; it ends with the last of them, and starts again."""
        workspace, lists = make_workspace(Hooked()), []

        async def listed(prefix):
            lists.append(prefix)
            return []

        monkeypatch.setattr(workspace.store, "list", listed)
        monkeypatch.setattr(waking, "EVERY", 3600.0)
        for _ in range(2):
            async with asyncio.TaskGroup() as group:
                waits = [
                    group.create_task(self.wait_briefly(workspace.webhook_listener, f"{n:032x}"))
                    for n in range(200)
                ]
            assert len(waits) == 200
        assert lists == ["hints/", "hints/"]

    async def wait_briefly(self, webhook_listener, render_id):
        with webhook_listener.listening(render_id) as called:
            for _ in range(10):
                await asyncio.sleep(0)
            assert not called.is_set()

    async def test_is_not_stopped_by_a_store_that_fails(self, make_workspace, monkeypatch):
        """A list that fails is one without hints: the next one called."""
        workspace = make_workspace(Hooked())
        answers = [StoreUnavailable("away"), StoreUnavailable("away")]
        honest = workspace.store.list

        async def listed(prefix):
            if answers:
                raise answers.pop()
            return await honest(prefix)

        monkeypatch.setattr(workspace.store, "list", listed)
        monkeypatch.setattr(waking, "AFTER_FAILURE", 0.02)
        await workspace.store.create("hints/" + "ab" * 16 + ".1.x.json", b"{}")
        with workspace.webhook_listener.listening("ab" * 16) as called:
            await called.wait()


async def ignore(snapshot, age):
    return None

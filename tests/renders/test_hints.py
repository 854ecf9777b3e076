"""What a webhook may do: wake whoever waits, and bring the request id that a lost answer should have brought."""

import asyncio
import re
from datetime import UTC, datetime

import pytest

from tasks.errors import NotConfigured, OutcomeUnknown, ProviderUnavailable, StoreUnavailable, Throttled
from tasks.jobs.commit import commit_job
from tasks.models import ProviderName, RemoteState, Snapshot
from tasks.providers.base import Capabilities
from tasks.renders import hints, standing, submit, waking
from tasks.renders.callbacks import SECRET_KEY, Asked, Callbacks, open_callbacks
from tasks.renders.follow import follow_render
from tasks.renders.hints import Hint, keep_hint, plain_id
from tasks.renders.order import order_for
from tasks.renders.reconcile import reconcile_renders
from tasks.renders.resolve import declare_not_charged
from tasks.renders.submit import submit_render
from tests.renders.scripted import Scripted, make_plan

PUBLIC = {"public_url": "https://bridge.example/base/"}
CUT = OutcomeUnknown("cut")


class Hooked(Scripted):
    """A provider with webhooks, which knows some requests and no others."""

    capabilities = Capabilities(paid=True, webhook=True)
    known = ("req-1",)

    async def poll(self, submission):
        if isinstance(self.known, Exception):
            raise self.known
        known = submission.request_id in self.known
        return self.looks[0] if known else Snapshot(state=RemoteState.QUEUED, word="NOT_FOUND")


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch):
    monkeypatch.setattr(submit, "_pause", lambda error, last: 0.0)


@pytest.fixture
def render_id(make_workspace, plan):
    return order_for(make_workspace(Scripted()), plan, plan.segments[0]).render_id


def hint(render_id, request_id="req-1", attempt=1, provider=ProviderName.FAL):
    return Hint(
        render_id=render_id,
        attempt=attempt,
        provider=provider,
        request_id=request_id,
        received_at=datetime.now(UTC),
    )


async def states(workspace, render_id) -> list[str]:
    return [record.state.value for record in await workspace.journal.history(render_id)]


async def unknown(workspace, plan):
    """A render whose answer was lost."""
    day = await commit_job(workspace, plan)
    with pytest.raises(OutcomeUnknown):
        await submit_render(workspace, plan, plan.segments[0], claimed_on=day)


async def kept(workspace) -> list[str]:
    return [stat.key for stat in await workspace.store.list("hints/")]


class TestTheAddress:
    async def test_is_given_only_where_webhooks_are_wanted(self, make_workspace, plan):
        """No public URL, or a provider without webhooks: none is asked for, and no secret is made."""
        for number, (kind, bridge) in enumerate([(Hooked, {}), (Scripted, PUBLIC)]):
            workspace = make_workspace(provider := kind("req-1"), bridge=bridge)
            await submit_render(workspace, plan.model_copy(update={"take": number}), plan.segments[0])
            assert provider.seen[0].webhook_url is None
        assert await workspace.store.exists(SECRET_KEY) is None

    async def test_is_new_for_every_request(self, make_workspace, plan, render_id):
        """Tried again after a 429, the render is the same and the address another."""
        workspace = make_workspace(provider := Hooked(Throttled("busy"), "req-1"), bridge=PUBLIC)
        await submit_render(workspace, plan, plan.segments[0])
        first, second = (inputs.webhook_url for inputs in provider.seen)
        form = rf"https://bridge\.example/base/webhooks/fal/{render_id}/(\d)/([0-9a-f]{{40}})"
        parts = [re.fullmatch(form, url).groups() for url in (first, second)]
        assert [attempt for attempt, _ in parts] == ["1", "2"]
        assert parts[0][1] != parts[1][1]
        callbacks = await workspace.callbacks()
        assert callbacks.verified("fal", render_id, *parts[1]) == Asked(ProviderName.FAL, render_id, 2)

    async def test_reaches_the_provider_and_nobody_else(self, make_workspace, plan, caplog):
        """Neither the journal nor anything else in the bucket, nor a log or a repr, holds the MAC."""
        caplog.set_level("DEBUG")
        workspace = make_workspace(provider := Hooked("req-1"), bridge=PUBLIC)
        await submit_render(workspace, plan, plan.segments[0])
        mac = provider.seen[0].webhook_url.rsplit("/", 1)[1]
        objects = [await workspace.store.get(stat.key) for stat in await workspace.store.list("")]
        assert len(objects) > 3
        assert not [blob.stat.key for blob in objects if mac.encode() in blob.data or mac in blob.stat.key]
        assert mac not in caplog.text + repr(provider.seen)

    def test_holds_for_its_request_alone(self):
        """Whatever part of it is another, and with any other secret, it is not known."""
        render_id, other = "ab" * 16, "cd" * 16
        callbacks = Callbacks(b"s" * 32, "https://b")
        mac = callbacks._mac(Asked(ProviderName.FAL, render_id, 1))
        assert callbacks.verified("fal", render_id, "1", mac)
        for parts in [
            ("pixazo", render_id, "1", mac),
            ("fal", other, "1", mac),
            ("fal", render_id, "2", mac),
            ("fal", render_id, "01", mac),
            ("fal", render_id, "1", mac[:-1]),
            ("fal", render_id, "1", mac + "0"),
            ("fal", render_id, "1", ""),
            ("fal", render_id, "1", "ü" * 40),
            ("fal", "../" + render_id, "1", mac),
            ("nobody", render_id, "1", mac),
        ]:
            assert callbacks.verified(*parts) is None
        assert Callbacks(b"t" * 32, "https://b").verified("fal", render_id, "1", mac) is None

    async def test_is_signed_with_one_secret_by_all(self, make_workspace, store):
        """Eight processes at once make one secret between them; that of the settings goes before it."""
        opened = [make_workspace(Hooked(), bridge=PUBLIC) for _ in range(8)]
        callbacks = await asyncio.gather(*(each.callbacks() for each in opened))
        assert len({each._secret for each in callbacks}) == 1
        given = make_workspace(Hooked(), bridge={"secret": "x" * 16})
        assert (await given.callbacks())._secret == b"x" * 16

    @pytest.mark.parametrize("data", [b"", b"{}", b'{"secret": "00"}', b'{"secret": 7}'])
    async def test_is_not_signed_with_a_damaged_secret(self, make_settings, store, data):
        """A secret that is empty or short would sign for anybody."""
        await store.put(SECRET_KEY, data, content_type="application/json")
        with pytest.raises(NotConfigured, match="Nothing was sent"):
            await open_callbacks(make_settings().bridge, store)


class TestAnUnknownRender:
    async def test_learns_its_request_and_is_collected(self, make_workspace, plan, render_id, footage):
        """The next `reconcile` attaches, collects and publishes, whatever its run does; paid once."""
        workspace = make_workspace(provider := Hooked(CUT, video=footage), bridge=PUBLIC)
        await unknown(workspace, plan)
        await keep_hint(workspace, hint(render_id))
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
        await keep_hint(workspace, hint(render_id))
        record = await submit_render(workspace, plan, plan.segments[0])
        assert record.entry.submission.request_id == "req-1"
        assert len(provider.seen) == 1

    async def test_waits_while_its_holder_lives(self, make_workspace, plan, render_id):
        """The holder may still bring the answer itself; when its lease has run out, the hint does, with no alarm."""
        dead = make_workspace(Hooked(), journal={"lease_seconds": 2})
        order = order_for(dead, plan, plan.segments[0])
        intent = await dead.journal.begin(
            None, render_id=render_id, job_id=plan.job_id, provider=plan.provider, quoted=order.quoted
        )
        assert await keep_hint(dead, hint(render_id)) is not None
        assert (await standing.current(dead, render_id)).entry == intent.entry
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
        await keep_hint(workspace, hint(render_id))
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
        await keep_hint(workspace, hint(render_id))
        with pytest.raises(OutcomeUnknown):
            await submit_render(workspace, plan, plan.segments[0])
        assert await kept(workspace) == []

    async def test_does_not_take_its_own_earlier_request(self, make_workspace, plan, render_id, caplog):
        """A failed request's webhook comes late, when the answer to the next was lost: it stands for the first."""
        workspace = make_workspace(Hooked("req-1", CUT))
        record = await submit_render(workspace, plan, plan.segments[0])
        await workspace.journal.append(
            record, "failed", failure={"kind": "x", "message": "m", "billed": False}
        )
        await unknown(workspace, plan)
        assert await keep_hint(workspace, hint(render_id, attempt=1)) is None
        await keep_hint(workspace, hint(render_id, attempt=2))
        assert "which the journal does not hold" not in caplog.text
        with pytest.raises(OutcomeUnknown):
            await submit_render(workspace, plan, plan.segments[0])

    async def test_with_two_requests_is_left_to_a_person(self, make_workspace, plan, render_id, caplog):
        """If the provider knows both, somebody has to look: the log names them."""
        workspace = make_workspace(provider := Hooked(CUT))
        provider.known = ("req-1", "req-2")
        await unknown(workspace, plan)
        for request_id in provider.known:
            await keep_hint(workspace, hint(render_id, request_id))
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
        await keep_hint(workspace, hint(render_id, **change))
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
        await keep_hint(workspace, hint(render_id))
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
            assert await keep_hint(workspace, hint(render_id)) is not None
        assert len(await kept(workspace)) == 1

    async def test_is_not_kept_without_bound(self, make_workspace, plan, render_id):
        """Who knows an address may make up ids: a few are kept."""
        workspace = make_workspace(Hooked(CUT))
        await unknown(workspace, plan)
        for number in range(hints.MOST + 3):
            await keep_hint(workspace, hint(render_id, f"made-up-{number}"))
        assert len(await kept(workspace)) == hints.MOST

    async def test_is_of_no_use_to_what_nobody_waits_for(self, make_workspace, plan, render_id, footage):
        """A render nobody asked for, and one that is collected: nothing is kept."""
        workspace = make_workspace(Hooked("req-1", video=footage))
        assert await keep_hint(workspace, hint(render_id)) is None
        day = await commit_job(workspace, plan)
        await submit_render(workspace, plan, plan.segments[0], claimed_on=day)
        await reconcile_renders(workspace, idle_seconds=0)
        assert await keep_hint(workspace, hint(render_id)) is None
        assert await kept(workspace) == []

    async def test_of_another_request_is_told(self, make_workspace, plan, render_id, caplog):
        """A webhook about a request that the journal does not hold may mean a second payment."""
        workspace = make_workspace(Hooked("req-1"))
        await submit_render(workspace, plan, plan.segments[0])
        assert await keep_hint(workspace, hint(render_id, "req-9")) is None
        assert "req-9" in caplog.text

    async def test_left_behind_is_swept(self, make_workspace, plan, render_id, footage):
        """One that outlived its render, because the process without webhooks collected it, goes with `reconcile`."""
        workspace = make_workspace(Hooked("req-1", video=footage))
        await submit_render(workspace, plan, plan.segments[0])
        await keep_hint(workspace, hint(render_id))
        await reconcile_renders(workspace, idle_seconds=0)
        await reconcile_renders(workspace, idle_seconds=0)
        assert await kept(workspace) == []

    @pytest.mark.parametrize(
        "value", ["", None, 7, ["a"], "a b", "a/b", "../a", ".", "-a", "a\n", "ü", "a" * 201, "a%2Fb", 'a"']
    )
    def test_brings_no_odd_id(self, value):
        """An id from a stranger has the form that documented ids have, or is none."""
        assert plain_id(value) is None

    @pytest.mark.parametrize("value", ["a", "kling-ai-avatar-v2-pro-789_019d", "a" * 200, "1:2.3~4"])
    def test_brings_an_id(self, value):
        assert plain_id(value) == value


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
        monkeypatch.setattr(waking, "LOOKS", (0.0, 0.01))

    async def test_is_woken(self, make_workspace, plan, render_id):
        """The hint is written by one process; another, whose provider is silent, looks and finds the end."""
        workspace = make_workspace(Silent("req-1"), bridge=PUBLIC)
        await submit_render(workspace, plan, plan.segments[0])
        seen = []

        async def on_snapshot(snapshot, age):
            seen.append(snapshot.state)
            if len(seen) == 1:
                await keep_hint(make_workspace(Hooked()), hint(render_id))

        assert (await follow_render(workspace, render_id, on_snapshot)).state is RemoteState.DONE
        assert seen == [RemoteState.RUNNING, RemoteState.DONE]

    async def test_goes_on_waiting_after_a_false_hint(self, make_workspace, plan, render_id):
        """The provider is not done: a few looks, then the usual wait, until the next hint."""
        workspace = make_workspace(provider := Silent("req-1"), bridge=PUBLIC)
        provider.looks = [Snapshot(state=RemoteState.RUNNING)]
        await submit_render(workspace, plan, plan.segments[0])
        await keep_hint(workspace, hint(render_id))

        async def on_snapshot(snapshot, age):
            if provider.polls == len(waking.LOOKS):
                provider.looks = [Snapshot(state=RemoteState.DONE)]
                await keep_hint(workspace, hint(render_id, None))

        await follow_render(workspace, render_id, on_snapshot)
        assert provider.polls == len(waking.LOOKS) + 1

    async def test_does_not_ask_the_store_when_webhooks_are_off(self, make_workspace, plan, render_id):
        """Without a public URL nobody lists hints."""
        workspace = make_workspace(Hooked("req-1"))
        await submit_render(workspace, plan, plan.segments[0])
        await follow_render(workspace, render_id, ignore)
        assert "doorbell" not in vars(workspace)

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
                    group.create_task(self.wait_briefly(workspace.doorbell, f"{n:032x}")) for n in range(200)
                ]
            assert len(waits) == 200
        assert lists == ["hints/", "hints/"]

    async def wait_briefly(self, doorbell, render_id):
        with doorbell.listening(render_id) as rings:
            for _ in range(10):
                await asyncio.sleep(0)
            assert not rings.is_set()

    async def test_is_not_stopped_by_a_store_that_fails(self, make_workspace, monkeypatch):
        """A list that fails is one without hints: the next one rings."""
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
        with workspace.doorbell.listening("ab" * 16) as rings:
            await rings.wait()


async def ignore(snapshot, age):
    return None

"""The addresses that providers call: one for each paid request, and nobody else's to know."""

import asyncio
import re

import pytest

from avatar.errors import NotConfigured, Throttled
from avatar.money import submit
from avatar.money.submit import submit_render
from avatar.money.webhooks import SECRET_KEY, WebhookAddresses, WebhookTarget, open_webhook_addresses
from avatar.stored_models import ProviderName
from tests.money.hooked import PUBLIC, Hooked
from tests.money.scripted import Scripted


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch):
    monkeypatch.setattr(submit, "_pause", lambda error, last: 0.0)


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
        callbacks = await workspace.webhook_addresses()
        assert callbacks.verified("fal", render_id, *parts[1]) == WebhookTarget(
            ProviderName.FAL, render_id, 2
        )

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
        callbacks = WebhookAddresses(b"s" * 32, "https://b")
        mac = callbacks._mac(WebhookTarget(ProviderName.FAL, render_id, 1))
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
        assert WebhookAddresses(b"t" * 32, "https://b").verified("fal", render_id, "1", mac) is None

    async def test_is_signed_with_one_secret_by_all(self, make_workspace, store):
        """Eight processes at once make one secret between them; that of the settings goes before it."""
        opened = [make_workspace(Hooked(), bridge=PUBLIC) for _ in range(8)]
        callbacks = await asyncio.gather(*(each.webhook_addresses() for each in opened))
        assert len({each._secret for each in callbacks}) == 1
        given = make_workspace(Hooked(), bridge={"secret": "x" * 16})
        assert (await given.webhook_addresses())._secret == b"x" * 16

    @pytest.mark.parametrize("data", [b"", b"{}", b'{"secret": "00"}', b'{"secret": 7}'])
    async def test_is_not_signed_with_a_damaged_secret(self, make_settings, store, data):
        """A secret that is empty or short would sign for anybody."""
        await store.put(SECRET_KEY, data, content_type="application/json")
        with pytest.raises(NotConfigured, match="Nothing was sent"):
            await open_webhook_addresses(make_settings().bridge, store)

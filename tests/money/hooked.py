"""A provider that calls when a render has ended, and what its calls leave behind."""

from datetime import UTC, datetime

from avatar.errors import OutcomeUnknown
from avatar.models import RemoteState, Snapshot
from avatar.money.webhooks import WebhookNote
from avatar.providers.base import Capabilities
from avatar.stored_models import ProviderName
from tests.money.scripted import Scripted

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


def hint(render_id, request_id="req-1", attempt=1, provider=ProviderName.FAL):
    return WebhookNote(
        render_id=render_id,
        attempt=attempt,
        provider=provider,
        request_id=request_id,
        received_at=datetime.now(UTC),
    )


async def kept(workspace) -> list[str]:
    return [stat.key for stat in await workspace.store.list("hints/")]

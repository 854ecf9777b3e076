"""What a run works with, handed down to every step: settings, store, journal, budget, providers, turns, listeners."""

import contextlib
import copy
import logging
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

from avatar.models import AvatarJob, Snapshot
from avatar.settings import AvatarSettings
from avatar.store.local_copies import Copies
from avatar.store.store import Store
from avatar.stored_models import Asset, ProviderName

if TYPE_CHECKING:
    from avatar.events import Notice
    from avatar.money.inspect_render import Look
    from avatar.money.webhooks import WebhookAddresses, WebhookListener
    from avatar.providers.base import Provider

# Where a job stands, for whoever wants to show it: the command's bars, a test, the Prefect artifact.
#: The stages of a job, in order.
STAGES = ("upload", "validate", "submit", "render", "collect", "publish")


@dataclass(frozen=True)
class Step:
    """A stage was entered, or moved on."""

    stage: str
    text: str
    render_id: str | None = None
    snapshot: Snapshot | None = None
    age: float | None = None  # seconds since the render was submitted


Listener = Callable[[Step], None]
#: Passes on what is worth telling the outside.
Deliver = Callable[["Notice"], None]


def ignore(_: object) -> None:
    """Where nobody listens."""


class Turns(Protocol):
    """Counts the renders that the accounts have."""

    def hold(self, provider: ProviderName, *, under_way: bool) -> AbstractAsyncContextManager[None]:
        """Hold a turn while the block runs. A render that is `under_way` counts, and does not wait for its turn."""


class NoTurns:
    """Where nobody else counts: each render may go at once."""

    def hold(self, provider: ProviderName, *, under_way: bool) -> AbstractAsyncContextManager[None]:  # noqa: ARG002
        return contextlib.nullcontext()


@dataclass
class RunSubject:
    """What a run is about, as far as it is known by now."""

    job: AvatarJob | None = None
    job_id: str = ""
    batch_id: str = ""


log = logging.getLogger("avatar.notices")


class Workspace:
    """What belongs together in one run. Makes no connection by itself.

    No model and no dataclass: Prefect would look through all of it for results of other tasks.

    Args:
        settings: everything else follows from them.
        listener: is told where jobs stand.
        deliver: is given what is worth telling the outside.
        turns: counts the renders at the providers' accounts.
    """

    def __init__(
        self,
        settings: AvatarSettings,
        *,
        listener: Listener = ignore,
        deliver: Deliver = ignore,
        turns: Turns | None = None,
    ) -> None:
        from avatar.money.budget import Budget
        from avatar.money.journal import Journal

        self.settings = settings
        self.store = Store(settings.store)
        #: What this run has stored or fetched, as far as it is small.
        self.copies = self.store.copies = Copies(lambda: self.scratch)
        self.journal = Journal(self.store, lease_seconds=settings.journal.lease_seconds)
        self.budget = Budget(self.store, per_day=settings.budget.per_day)
        self.turns: Turns = turns or NoTurns()
        self.subject = RunSubject()
        #: How to look at the videos of renders that are awaited, by render id.
        self.looks: dict[str, Look] = {}
        self._listener, self._deliver = listener, deliver
        self._providers: dict[tuple[ProviderName, str], Provider] = {}
        self._webhook_addresses: WebhookAddresses | None = None

    def with_changes(
        self, *, deliver: Deliver | None = None, turns: Turns | None = None, subject: RunSubject | None = None
    ) -> Self:
        """The same store, journal and providers, with what differs in one run. Only the original is closed."""
        changes: dict[str, Any] = {"_deliver": deliver, "turns": turns, "subject": subject}
        other = copy.copy(self)
        vars(other).update({name: value for name, value in changes.items() if value is not None})
        return other

    def announce(self, step: Step) -> None:
        """Tell whoever shows this run where a job stands."""
        self._listener(step)

    def notify(self, notice: "Notice") -> None:
        """Tell the outside, if anybody listens. Whatever goes wrong with that is a line in the log."""
        try:
            self._deliver(notice)
        except Exception:  # the job is more than its notice
            log.exception("The notice %s was not delivered.", notice.EVENT)

    def provider(self, name: ProviderName | None = None, model: str | None = None) -> "Provider":
        """The provider by that name for that model; without them, those that the settings name."""
        from avatar.providers import open_provider

        chosen = name or self.settings.provider, model or self.settings.model
        if chosen not in self._providers:
            self._providers[chosen] = open_provider(chosen[0], self.settings, self.store, chosen[1])
        return self._providers[chosen]

    async def webhook_addresses(self) -> "WebhookAddresses":
        """What makes webhook addresses and knows them again. Its secret is read from the store once."""
        from avatar.money.webhooks import open_webhook_addresses

        if self._webhook_addresses is None:
            self._webhook_addresses = await open_webhook_addresses(self.settings.bridge, self.store)
        return self._webhook_addresses

    @cached_property
    def webhook_listener(self) -> "WebhookListener":
        """Wakes those of this process who wait for a render when a webhook came in for it."""
        from avatar.money.webhooks import WebhookListener

        return WebhookListener(self.store)

    @cached_property
    def scratch(self) -> Path:
        """Where files are put down on their way: beside the state, so that large videos do not fill /tmp."""
        state = self.settings.state_dir.expanduser()
        state.mkdir(mode=0o700, parents=True, exist_ok=True)  # as StateDirectory does, whoever comes first
        folder = state / "scratch"
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder

    @asynccontextmanager
    async def local_copy(self, asset: Asset) -> AsyncIterator[Path]:
        """The asset as a file, for as long as the block runs."""
        with tempfile.TemporaryDirectory(dir=self.scratch) as folder:
            path = Path(folder) / asset.key.rsplit("/", 1)[-1]
            await self.download(asset.key, path)
            yield path

    async def download(self, key: str, path: Path) -> None:
        """An object whose key names its content, to `path`; from this machine if this run had it already."""
        await self.store.fetch(key, path)

    async def read(self, key: str) -> bytes:
        """A small object that this run has just stored, or that the store has."""
        return await self.store.content(key)

    async def aclose(self) -> None:
        self.copies.close()
        await self.store.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

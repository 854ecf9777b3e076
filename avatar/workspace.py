"""What every step works with: the settings, the store, the journal and the providers, once per event loop."""

import asyncio
import tempfile
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from avatar.models import Asset, ProviderName, Snapshot
from avatar.settings import AvatarSettings
from avatar.store.store import Store

if TYPE_CHECKING:
    from avatar.money.follow import Doorbell
    from avatar.money.webhooks import Callbacks
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
_listeners: list[Listener] = []


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Send every step announced in this process to `listener` while the block runs."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def announce(step: Step) -> None:
    for listener in tuple(_listeners):
        listener(step)


class Workspace:
    """Settings, store, journal and providers that belong together. Makes no connection by itself."""

    def __init__(self, settings: AvatarSettings) -> None:
        from avatar.money.budget import Budget
        from avatar.money.journal import Journal

        self.settings = settings
        self.store = Store(settings.store)
        self.journal = Journal(self.store, lease_seconds=settings.journal.lease_seconds)
        self.budget = Budget(self.store, per_day=settings.budget.per_day)
        self._providers: dict[ProviderName, Provider] = {}
        self._callbacks: Callbacks | None = None

    def provider(self, name: ProviderName | None = None) -> "Provider":
        """The provider by that name, or the one the settings name."""
        from avatar.providers import open_provider

        chosen = name or self.settings.provider
        if chosen not in self._providers:
            self._providers[chosen] = open_provider(chosen, self.settings, self.store)
        return self._providers[chosen]

    async def callbacks(self) -> "Callbacks":
        """What makes webhook addresses and knows them again. Its secret is read from the store once."""
        from avatar.money.webhooks import open_callbacks

        if self._callbacks is None:
            self._callbacks = await open_callbacks(self.settings.bridge, self.store)
        return self._callbacks

    @cached_property
    def doorbell(self) -> "Doorbell":
        """Wakes those of this process who wait for a render when a webhook came in for it."""
        from avatar.money.follow import Doorbell

        return Doorbell(self.store)

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
            await self.store.download(asset.key, path)
            yield path

    async def aclose(self) -> None:
        await self.store.aclose()


_open: "weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Workspace]" = weakref.WeakKeyDictionary()


def workspace() -> Workspace:
    """The workspace of the running event loop, made from the environment on first use."""
    loop = asyncio.get_running_loop()
    if loop not in _open:
        _open[loop] = Workspace(AvatarSettings())
    return _open[loop]


async def close_workspace() -> None:
    """Close the running loop's workspace, if one was opened."""
    opened = _open.pop(asyncio.get_running_loop(), None)
    if opened is not None:
        await opened.aclose()

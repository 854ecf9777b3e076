"""What a provider is: one contract, so that flows never ask which one they talk to.

`submit` sends exactly one POST and never retries it. How it can end:

=================  =============================================================================
returns            `Submission`: accepted; the request id is known
raises NotSent     connecting failed; no byte of the request left; may be tried again
raises Throttled   429: refused for now; may be tried again, after `retry_after` seconds if given
raises             `SubmitRefused`: refused for certain (another 4xx); not charged
raises             `OutcomeUnknown`: anything else; never tried again by a machine
=================  =============================================================================

All other calls are free and may be repeated: they raise `ProviderUnavailable` for what may pass.
"""

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import ClassVar

from avatar.models import CancelOutcome, Limits, RemoteVideo, Snapshot, Submission
from avatar.stored_models import Portrait, ProviderName, Segment


@dataclass(frozen=True)
class Capabilities:
    """What a provider's API can do beyond submit, poll and collect."""

    paid: bool = True
    cancel: bool = False
    stream: bool = False
    upload: bool = False
    webhook: bool = False
    history: bool = False  #: lists the account's requests
    bills: bool = False  #: tells what a request was billed at


@dataclass(frozen=True)
class ListedRequest:
    """A request as the provider's history shows it. The links are secrets, as in `RenderInputs`."""

    request_id: str
    sent_at: datetime | None
    image_url: str = field(repr=False)
    audio_url: str = field(repr=False)
    prompt: str


@dataclass(frozen=True)
class RenderInputs:
    """Everything one submit needs. The URLs are secrets: they are fetched by the provider and never stored by us."""

    render_id: str
    portrait: Portrait
    segment: Segment
    prompt: str
    portrait_url: str = field(repr=False)
    voice_url: str = field(repr=False)
    webhook_url: str | None = field(default=None, repr=False)
    #: Asked right before the first byte of the paid request leaves; no: it is not sent.
    may_send: Callable[[], bool] = field(default=lambda: True, repr=False)


@dataclass(frozen=True)
class UnitPrice:
    """What one unit costs this account. The unit's name differs from model to model: `second`, `video_second`."""

    amount: Decimal
    unit: str
    currency: str

    @property
    def per_second(self) -> bool:
        """Whether it can be compared with a price in US dollars per second of video."""
        return "second" in self.unit.lower() and "compute" not in self.unit.lower() and self.currency == "USD"


class Provider(ABC):
    """One way of getting a render made."""

    name: ClassVar[ProviderName]
    model: str  #: the name it has in ids
    endpoint: str = ""  #: what is asked, as the provider's own pages name it
    media_url: str = ""  #: where videos are fetched from, where that is known beforehand
    price_per_second: Decimal
    limits: Limits
    capabilities: ClassVar[Capabilities]

    @abstractmethod
    def check_configured(self) -> None:
        """Raise `NotConfigured` if a key or setting is missing, or as `check_offered` does. No network."""

    def check_offered(self) -> None:  # noqa: B027 - a provider with one model of its own always has it
        """Raise `NotConfigured` if the model is unknown, off, or not to be had here."""

    async def deliver(self, inputs: RenderInputs) -> RenderInputs:
        """Bring the inputs to where the provider reads them, before money is at stake. Default: as they are."""
        return inputs

    @abstractmethod
    async def submit(self, inputs: RenderInputs) -> Submission:
        """Send the one paid POST (see the module's table for how it ends)."""

    @abstractmethod
    async def poll(self, submission: Submission) -> Snapshot:
        """One look. Raises `ProviderUnavailable` if the look failed, which says nothing about the render."""

    @abstractmethod
    def watch(self, submission: Submission, window: float) -> AsyncGenerator[Snapshot, None]:
        """Looks, as cheaply as the API allows, until the render has ended or `window` seconds passed."""

    @abstractmethod
    async def collect(self, submission: Submission) -> RemoteVideo:
        """The finished render; its `payload` is the provider's answer as it came.

        Raises:
            RenderFailed: the provider said so: its status names a failure, or the result is refused as documented.
            RenderLost: it no longer knows the request.
            ResultUnreadable: it has ended, and its answer names no video.
            ProviderUnavailable: anything else, which says nothing about the render: not yet.
        """

    @abstractmethod
    async def download(self, video: RemoteVideo, target: Path) -> None:
        """Write the video to `target`, resuming a cut transfer. Never sends the key."""

    @abstractmethod
    async def cancel(self, submission: Submission) -> CancelOutcome:
        """Ask the provider to stop."""

    async def history(
        self,
        since: datetime,  # noqa: ARG002
        until: datetime,  # noqa: ARG002
        endpoint: str = "",  # noqa: ARG002
    ) -> list[ListedRequest] | None:
        """The account's requests sent between the two, as far as they are listed with their inputs.

        `endpoint` is whose requests; empty: this model's.

        None: it cannot be told (no such page, not allowed, inputs not kept). That one is not listed proves nothing.

        Raises:
            ProviderUnavailable: the provider could not be asked now.
        """
        return None

    async def bills(self, request_ids: Sequence[str]) -> Mapping[str, Decimal]:  # noqa: ARG002
        """US dollars that the provider's books show, by request id; those it shows nothing for are left out.

        Raises:
            ProviderUnavailable: the provider could not be asked now.
        """
        return {}

    async def listed_price(self) -> UnitPrice | None:
        """What the provider's own list of prices says of the model, for this account; None if it has none to tell.

        Raises:
            ProviderUnavailable: the provider could not be asked now.
        """
        return None

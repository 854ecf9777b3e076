"""Every error this project raises, and what each means for money.

AvatarError
├── InvalidInput              bad portrait, voice, prompt or manifest: nothing was spent            exit 2
├── Refused                   refused before paying: nothing was spent                              exit 3
│   ├── BudgetRefused         a limit the user set would be passed
│   ├── ApprovalDenied        a person said no, or did not answer
│   ├── ConsentMissing        nobody's consent is recorded for the portrait, or it has ended
│   ├── NotConfigured         a key or a setting is missing
│   └── StoreUnfit            the store cannot keep the promise (no conditional create)
├── ProviderFailure           the provider said no or failed, for certain                           exit 4
│   ├── SubmitRefused         it refused the request: not charged
│   ├── RenderFailed          it accepted, then failed; `billed` says whether it charges
│   ├── RenderLost            it no longer knows the request
│   ├── ResultUnreadable      it answered, and its answer names no video: kept, and never taken for a failure
│   ├── DownloadFailed        it rendered, the video could not be fetched yet (the request id is kept)
│   └── VideoRejected         the video arrived and did not pass its checks: kept, not published
├── OutcomeUnknown            the answer to a paid request was lost: a person must settle it        exit 5
├── BatchIncomplete           some rows of a batch have no video; each is accounted for in its report   exit 3, 4, 5
├── Cancelled                 stopped on request                                                    exit 1
└── Transient                 may pass by itself; the only errors that are ever retried             exit 1
    ├── BatchInterrupted      a `BatchIncomplete`: what its rows failed of may have passed               exit 3, 4, 5
    ├── NotSent               the request provably never left this machine
    ├── Throttled             the provider refused for now (429) and may say when to come back
    ├── ProviderUnavailable   a free call (status, result, download) did not get through
    ├── StoreUnavailable      the store did not answer, or answered with a failure
    ├── SourceUnavailable     the server that an input is fetched from did not answer: nothing was spent
    └── StillRendering        the polling window closed before the render was done

A store that fails is `StoreUnavailable`, never `ObjectNotFound`.
"""

from collections.abc import Callable
from decimal import Decimal
from functools import partial
from typing import Any, ClassVar


class AvatarError(Exception):
    """Base of all errors: one paragraph for a person, and what a handler needs beside it.

    Args:
        message: what happened, what it cost, what was kept, what to do next.
        provider: `fal`, `pixazo` or `preview`.
        render_id: the render concerned.
        request_id: the provider's name for it, once known.
        cost_at_risk: US dollars that may have been charged without a video to show for them.
        hint: the next step, as a command or a setting.
    """

    exit_code: ClassVar[int] = 1

    def __init__(
        self,
        message: str,
        *,
        provider: str | None = None,
        render_id: str | None = None,
        request_id: str | None = None,
        cost_at_risk: Decimal | None = None,
        hint: str | None = None,
        **more: Any,
    ) -> None:
        message, hint = _tame(message), hint and _tame(hint)
        super().__init__(message)
        self.message = message
        self.provider = provider
        self.render_id = render_id
        self.request_id = request_id
        self.cost_at_risk = cost_at_risk
        self.hint = hint
        for name, value in more.items():
            setattr(self, name, value)

    def __reduce__(self) -> tuple[Callable[..., "AvatarError"], tuple[Any, ...]]:
        """Keep the keyword arguments across processes (Prefect stores and ships exceptions)."""
        state = {name: value for name, value in vars(self).items() if name != "message"}
        return partial(type(self), **state), (self.message,)

    def describe(self) -> dict[str, str]:
        """The error as the `error` object of `--json`."""
        facts = {
            "type": type(self).__name__,
            "message": self.message,
            "hint": self.hint,
            "provider": self.provider,
            "render_id": self.render_id,
            "request_id": self.request_id,
            "cost_at_risk": self.cost_at_risk,
        }
        return {name: str(value) for name, value in facts.items() if value is not None}


def _tame(text: str) -> str:
    """Without control characters: names and ids by others are told too, and would steer a terminal."""
    return text if text.isprintable() else "".join(c if c.isprintable() or c == "\n" else " " for c in text)


class InvalidInput(AvatarError):
    """The input cannot be used. Nothing was spent."""

    exit_code = 2


class Refused(AvatarError):
    """Refused before any money was spent."""

    exit_code = 3


class BudgetRefused(Refused):
    """A limit the user set would be passed; names the sum, the limit and the setting."""


class ApprovalDenied(Refused):
    """A person refused the job, or nobody approved it in time."""


class ConsentMissing(Refused):
    """AVATAR_CONSENT=required, and for the portrait no consent is recorded, or one that has ended."""


class NotConfigured(Refused):
    """A key or setting that the chosen provider needs is missing."""


class StoreUnfit(Refused):
    """The store lacks what safe payment needs (an honoured `If-None-Match: *`)."""


class ProviderFailure(AvatarError):
    """The provider said no, or failed, for certain."""

    exit_code = 4


class SubmitRefused(ProviderFailure):
    """The provider refused the submit: not accepted, not charged."""

    kind: str = "refused"
    status: int | None = None


class RenderFailed(ProviderFailure):
    """The provider accepted the request, then failed it.

    Attributes:
        kind: the provider's own error type (`content_policy_violation`, …).
        billed: False when the provider documents no charge, None when it may charge.
    """

    kind: str = "failed"
    billed: bool | None = None


class RenderLost(ProviderFailure):
    """The provider no longer knows the request id, or its result has expired."""


class ResultUnreadable(ProviderFailure):
    """The provider says that the render has ended, or answered with a success, and no video is named anywhere in it.

    Attributes:
        answer: the body as it came, without the key.
    """

    answer: str = ""


class DownloadFailed(ProviderFailure):
    """The render is done at the provider, but its video could not be fetched."""


class VideoRejected(ProviderFailure):
    """The video did not pass its checks. It is kept, and was not published.

    Attributes:
        in_place: whether it stands where published videos do, with a page; a file that cannot be played does not.
    """

    in_place: bool = False


class OutcomeUnknown(AvatarError):
    """Whether the provider accepted (and charges) is not known. Never resubmitted by itself.

    Attributes:
        answer: the body of a success that names no request, as it came, without the key; None if there was none.
    """

    exit_code = 5
    answer: str | None = None


class BatchIncomplete(AvatarError):
    """Some rows of a batch ended without a video. The others are published; the report tells of each.

    Attributes:
        exit_code: that of the worst row.
    """


class Cancelled(AvatarError):
    """Stopped on request; the message says what the provider was told."""


class Transient(AvatarError):
    """May pass by itself. Retry policies ask for this type and for nothing else."""


class BatchInterrupted(BatchIncomplete, Transient):
    """Rows of a batch ended without a video for a reason that may pass: its run is started again by itself."""


class NotSent(Transient):
    """The request provably never left: connecting failed before a byte of it was written."""


class Throttled(Transient):
    """The provider refused for now.

    Attributes:
        retry_after: seconds the provider asked to wait, if it said.
    """

    retry_after: float | None = None


class ProviderUnavailable(Transient):
    """A free call to the provider (status, result, cancel, download) did not get through.

    Attributes:
        retry_after: seconds the provider asked to wait, if it said.
        kind: of a download: `expired` for a link that is refused, so that a fresh one may help.
    """

    retry_after: float | None = None
    kind: str = ""


class StoreUnavailable(Transient):
    """The store did not answer, or answered with a failure."""


class SourceUnavailable(Transient):
    """The server that a portrait, a voice or a manifest is fetched from did not answer. Nothing was spent."""


class StillRendering(Transient):
    """The render was not done when the polling window closed."""


class ObjectNotFound(AvatarError):
    """The store answered, and there is no such object."""

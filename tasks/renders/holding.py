"""An intent while its paid request is under way: kept alive, then followed by how it ended."""

import asyncio
import contextlib
from typing import Any

from tasks.errors import AvatarError, StoreUnavailable
from tasks.storage.journal import Failure, Journal, Record, RenderState

#: States in which the provider has accepted the render.
ACCEPTED = {RenderState.SUBMITTED, RenderState.RENDERED, RenderState.COLLECTED}


class Holding:
    """A held intent: renewed while the request is under way, then followed by how it ended."""

    def __init__(self, journal: Journal, intent: Record) -> None:
        self.journal = journal
        self.record = intent
        self._renewal: asyncio.Task[None] | None = None

    async def __aenter__(self) -> None:
        self._renewal = asyncio.create_task(self._renew())

    async def __aexit__(self, *_: object) -> None:
        if self._renewal:
            self._renewal.cancel()
            await asyncio.gather(self._renewal, return_exceptions=True)

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self.journal.lease_seconds / 3)
            with contextlib.suppress(StoreUnavailable):
                renewed = await self.journal.append(self.record, RenderState.INTENT)
                if renewed is None:
                    return  # declared unknown by another; the answer is appended after that
                self.record = renewed

    async def write(self, state: RenderState, **facts: Any) -> Record:
        """Append `state`, after whatever others wrote in the meantime."""
        while True:
            written = await self.journal.append(self.record, state, **facts)
            if written is not None:
                return written
            newest = await self.journal.head(self.record.entry.render_id)
            if newest is None:
                raise StoreUnavailable(f"The journal of render {self.record.entry.render_id} has vanished.")
            if newest.state is state or newest.state in ACCEPTED:
                return newest
            self.record = newest


def as_failure(error: BaseException, kind: str) -> Failure:
    return Failure(
        kind=kind,
        message=_reason(error),
        request_id=getattr(error, "request_id", None),
        status=getattr(error, "status", None),
        billed=None if kind == "answer_lost" else False,
        retry_after=getattr(error, "retry_after", None),
    )


def _reason(error: BaseException) -> str:
    """The short reason where the provider gave one; the text a person sees is built around it."""
    reason = getattr(error, "reason", None)
    if reason:
        return str(reason)
    return str(error) if isinstance(error, AvatarError) else f"{type(error).__name__} in mid-request"

"""Watching a render: few calls, soon noticing the end, and no failed look ends it."""

import asyncio
import logging
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from datetime import UTC, datetime

from avatar.errors import Transient
from avatar.models import RemoteState, Snapshot, Submission
from avatar.providers.wire import MAX_BODY
from avatar.settings_sections import PollingSettings

log = logging.getLogger("avatar.provider")

ENDED = {RemoteState.DONE, RemoteState.FAILED, RemoteState.LOST}
#: A stream silent for this long is checked by a look: a dead connection looks the same.
SILENCE = 15.0
#: Connections in a row that brought nothing, after which the stream is given up for this watch.
EMPTY_STREAMS = 2

#: A 404 this soon after the submit may be one that has not got around yet, in seconds (not documented; a margin).
GRACE = 30.0
#: The word of a look that found nothing, whatever is made of it.
NOT_FOUND = "NOT_FOUND"


# Server-sent events, none larger than an answer, as far as a status stream needs them (WHATWG HTML §9.2).
#: Bytes after which a stream is closed: a render has some hundred events of some hundred bytes.
MAX_STREAM = 64 * MAX_BODY


class StreamDropped(Exception):
    """The stream broke; it may be opened again."""


class NoStream(Exception):
    """There is no stream here; ask instead."""


async def read_events(chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
    """The data of each event. Comments, ids and event names are passed over.

    Lines are split on bytes: a JSON text may hold U+2028, at which `str.splitlines` would cut it.
    """
    data: list[bytes] = []
    size = 0
    async for line in _lines(chunks):
        name, _, value = line.partition(b":")
        if name == b"data":
            data.append(value.removeprefix(b" "))
            size += len(value) + 1
        if size > MAX_BODY:
            raise StreamDropped("an event without end")
        if not line and data:
            yield b"\n".join(data)
            data, size = [], 0


async def _lines(chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
    rest, size = bytearray(), 0
    async for chunk in chunks:
        size += len(chunk)
        first, *lines = chunk.split(b"\n")
        rest += first
        for line in lines:
            yield bytes(rest).removesuffix(b"\r")
            rest = bytearray(line)
        if len(rest) > MAX_BODY:
            raise StreamDropped("a line without end")
        if size > MAX_STREAM:
            raise StreamDropped("a stream without end")


Look = Callable[[], Awaitable[Snapshot]]
OpenStream = Callable[[], AsyncGenerator[Snapshot]]


def age_of(submission: Submission) -> float:
    """Seconds since the submit, by this machine's clock."""
    return max(0.0, (datetime.now(UTC) - submission.submitted_at).total_seconds())


def not_found(submission: Submission) -> Snapshot:
    """What a 404 on the status means: not there yet, or lost."""
    early = age_of(submission) < GRACE
    return Snapshot(state=RemoteState.QUEUED if early else RemoteState.LOST, word=NOT_FOUND)


class PollPace:
    """How long to rest between looks.

    The pause follows the render's age, min + age / 2: the same as growing by half each time, but with nothing to
    remember, so a new window or process goes on at the pace of the last.
    """

    def __init__(self, polling: PollingSettings, submission: Submission) -> None:
        self._shortest, self._longest = polling.min_interval, polling.max_interval
        self._submission = submission
        # A provider's forecast moves a look forward once per watch, or a render stuck at 99 % is asked without end.
        self._forecasts = 1

    def pause(self, last: Snapshot | None = None, asked: float | None = None) -> float:
        """Seconds until the next look, after `last`; `asked` is the server's Retry-After."""
        age = age_of(self._submission)
        usual = min(self._longest, self._shortest + age / 2) * random.uniform(1.0, 1.1)  # noqa: S311 - jitter
        if asked is not None:
            return max(usual, asked)
        forecast = _seconds_left(last, age)
        if forecast is None or forecast >= usual or not self._forecasts:
            return usual
        self._forecasts -= 1
        return max(self._shortest, forecast)


def _seconds_left(last: Snapshot | None, age: float) -> float | None:
    """The provider's forecast: from its progress, else its estimate, whose unit Pixazo does not state."""
    if last is None:
        return None
    if last.progress:
        return age * (1 - last.progress) / last.progress
    return last.eta_seconds


class RenderWatch:
    """Looks at one render until it has ended or the window has passed.

    Args:
        look: one look, by a request.
        pace: how long to rest between looks.
        window: seconds to watch for.
        open_stream: opens the provider's status stream, if it has one; may raise `NoStream` or `StreamDropped`.
    """

    def __init__(
        self, look: Look, pace: PollPace, *, window: float, open_stream: OpenStream | None = None
    ) -> None:
        self._ask, self._pace, self._open_stream = look, pace, open_stream
        self._ends_at = time.monotonic() + window
        self._asked_to_wait: float | None = None

    async def snapshots(self) -> AsyncGenerator[Snapshot]:
        """Each snapshot that differs from the one before; the last may be that of the end."""
        previous: Snapshot | None = None
        async with aclosing(self._all()) as seen:
            async for snapshot in seen:
                if snapshot != previous:
                    yield snapshot
                previous = snapshot
                if snapshot.state in ENDED:
                    return

    async def _all(self) -> AsyncGenerator[Snapshot]:
        if self._open_stream is not None:
            async with aclosing(self._listen(self._open_stream)) as heard:
                async for snapshot in heard:
                    yield snapshot
        while self._left() > 0:
            look = await self._look()
            if look is not None:
                yield look
            await self._rest(self._pace.pause(look, self._asked_to_wait))

    async def _listen(self, open_stream: OpenStream) -> AsyncGenerator[Snapshot]:
        """Snapshots from the stream, opened again when it drops; returns when it does not hold."""
        empty = 0
        while empty < EMPTY_STREAMS and self._left() > 0:
            opened, empty = time.monotonic(), empty + 1
            try:
                async with aclosing(self._one_stream(open_stream())) as heard:
                    async for snapshot in heard:
                        empty = 0
                        yield snapshot
            except NoStream as reason:
                log.info("No status stream (%s): asking instead.", reason)
                return
            except StreamDropped as reason:
                log.info("The status stream dropped: %s.", reason)
            lived = time.monotonic() - opened
            await self._rest(self._pace.pause() if lived < SILENCE else random.uniform(0.2, 1.0))  # noqa: S311 - jitter

    async def _one_stream(self, stream: AsyncGenerator[Snapshot]) -> AsyncGenerator[Snapshot]:
        """What the stream says, and a look whenever it says nothing for long."""
        pending, heard = asyncio.ensure_future(_next(stream)), False
        try:
            while (left := self._left()) > 0:
                # Until it has spoken, a stream may be one that a proxy holds back: look as if there were none.
                silence = SILENCE if heard else min(SILENCE, self._pace.pause(asked=self._asked_to_wait))
                done, _ = await asyncio.wait({pending}, timeout=min(silence, left))
                if not done:
                    snapshot = await self._look() if self._left() > 0 else None
                elif (snapshot := pending.result()) is None:
                    return
                else:
                    pending, heard = asyncio.ensure_future(_next(stream)), True
                if snapshot is not None:
                    yield snapshot
        finally:
            pending.cancel()
            await asyncio.gather(pending, return_exceptions=True)
            await stream.aclose()

    async def _look(self) -> Snapshot | None:
        """One look, or None if it failed for now."""
        self._asked_to_wait = None
        try:
            return await self._ask()
        except Transient as error:
            self._asked_to_wait = getattr(error, "retry_after", None)
            log.warning("%s Looking again later.", error)
            return None

    def _left(self) -> float:
        return self._ends_at - time.monotonic()

    async def _rest(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, min(seconds, self._left())))


async def _next(stream: AsyncGenerator[Snapshot]) -> Snapshot | None:
    return await anext(stream, None)

"""fal's queue API (never its synchronous host, which charges also when the answer is lost).

Sources: fal.ai/docs, pages inference/queue.md, errors.md, common-parameters.md; the model's page.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import httpx

from tasks.errors import AvatarError, ProviderUnavailable, RenderFailed, RenderLost
from tasks.models import (
    KLING_AVATAR,
    CancelOutcome,
    ProviderName,
    RemoteState,
    RemoteVideo,
    Snapshot,
    Submission,
)
from tasks.providers.answers import error_words, parse_object, path_segment, whole
from tasks.providers.base import Capabilities, Limits, Provider, RenderInputs
from tasks.providers.download import fetch_video
from tasks.providers.events import NoStream, StreamDropped, read_events
from tasks.providers.fal_answers import (
    ResultKind,
    failure_billed,
    failure_kind,
    fal_words,
    judge_result,
    read_cancel,
    read_status,
    read_video,
)
from tasks.providers.fal_storage import upload
from tasks.providers.outcome import accepted_id, judge, submit_seconds
from tasks.providers.watching import GRACE, Pace, Watch, age_of, not_found
from tasks.providers.wire import BREAKDOWN, Exchange, Wire, about_render, extend, new_client

if TYPE_CHECKING:
    from tasks.settings import AvatarSettings
    from tasks.storage.store import Store

ENDPOINT = "fal-ai/kling-video/ai-avatar/v2/pro"
#: Status, result and cancel URLs leave the endpoint's path out (fal.ai/docs/api-reference/inference-api).
APP = "fal-ai/kling-video"


class Fal(Provider):
    """Kling AI Avatar v2 Pro at fal."""

    name: ClassVar[ProviderName] = ProviderName.FAL
    model: ClassVar[str] = KLING_AVATAR
    capabilities: ClassVar[Capabilities] = Capabilities(cancel=True, stream=True, upload=True, webhook=True)

    def __init__(self, settings: "AvatarSettings", store: "Store") -> None:
        self.price_per_second = Decimal("0.115")  # the model's page, "Your request will cost"
        self.limits = Limits()
        self._settings, self._store = settings, store
        self._words = fal_words()
        key = settings.fal.key.get_secret_value() if settings.fal.key else None
        self._queue = Wire(self.name, str(settings.fal.queue_url), key, ("Authorization", "Key "))
        self._rest = Wire(self.name, str(settings.fal.rest_url), key, ("Authorization", "Key "))

    def check_configured(self) -> None:
        self._queue.check_key("AVATAR_FAL__KEY")

    async def deliver(self, inputs: RenderInputs) -> RenderInputs:
        """With `AVATAR_FAL__DELIVERY=upload`, copy both inputs to fal's storage. The copies expire by themselves."""
        if self._settings.fal.delivery != "upload":
            return inputs
        self.check_configured()
        lifetime = timedelta(seconds=2 * self._settings.polling.deadline_seconds + 86_400)
        links = [
            await upload(self._rest, self._store, asset, lifetime)
            for asset in (inputs.portrait.asset, inputs.segment.asset)
        ]
        return replace(inputs, portrait_url=links[0], voice_url=links[1])

    async def submit(self, inputs: RenderInputs) -> Submission:
        self.check_configured()
        url = f"{self._queue.base}/{ENDPOINT}"
        if inputs.webhook_url:
            url += "?" + str(httpx.QueryParams({"fal_webhook": inputs.webhook_url}))
        exchange = await self._queue.post_once(
            url,
            {"image_url": inputs.portrait_url, "audio_url": inputs.voice_url, "prompt": inputs.prompt},
            seconds=submit_seconds(self._settings.journal.lease_seconds),
            # Tags are pairs; fal drops what is not, in silence (fal_client headers, 2026). Usage reports show them.
            headers={"X-Fal-Tags": f"render={inputs.render_id}"},
        )
        dashboard = f"fal.ai/dashboard (tag render={inputs.render_id})"
        request_id = accepted_id(judge(exchange), self._queue, inputs, dashboard=dashboard)
        return self._receipt(inputs.render_id, request_id, exchange.object or {})

    def _receipt(self, render_id: str, request_id: str, data: dict[str, Any]) -> Submission:
        return Submission(
            render_id=render_id,
            provider=self.name,
            request_id=request_id,
            submitted_at=datetime.now(UTC),
            status_url=self._queue.own(data.get("status_url")),
            response_url=self._queue.own(data.get("response_url")),
            cancel_url=self._queue.own(data.get("cancel_url")),
            generation="queue",
            queue_position=whole(data.get("queue_position")),
        )

    async def poll(self, submission: Submission) -> Snapshot:
        async with new_client() as client:
            return await self._look(client, submission)

    async def watch(self, submission: Submission, window: float) -> AsyncGenerator[Snapshot, None]:
        """Looks by the status stream where it holds, else by GET. Close it (`aclosing`) to stop early."""
        async with new_client() as client:
            watch = Watch(
                lambda: self._look(client, submission),
                Pace(self._settings.polling, submission),
                window=window,
                open_stream=lambda: self._stream(client, submission),
            )
            async with aclosing(watch.snapshots()) as snapshots:
                async for snapshot in snapshots:
                    yield snapshot

    async def collect(self, submission: Submission) -> RemoteVideo:
        async with new_client() as client:
            exchange = await self._result(client, submission)
            kind = judge_result(exchange, submission.request_id)
            if kind is ResultKind.UNCLEAR:
                kind = await self._ask_status(client, submission)
        if kind is ResultKind.VIDEO:
            return read_video(exchange)
        raise self._not_a_video(kind, exchange, submission)

    async def download(self, video: RemoteVideo, target: Path) -> None:
        await fetch_video(video.url, target, settings=self._settings.download)

    async def cancel(self, submission: Submission) -> CancelOutcome:
        """PUT cancel: a queued request is removed, a running one only told, and may still be charged."""
        url = self._url(submission, submission.cancel_url, "/cancel")
        async with new_client() as client:
            exchange = await self._queue.ask(client, "PUT", url)
        if exchange.status in {400, 404, 409, 410}:
            return CancelOutcome.TOO_LATE
        self._queue.check(exchange, submission.request_id)
        if not exchange.ok:
            raise self._queue.unavailable(f"{exchange.status}, {self._queue.words(exchange)}")
        return read_cancel(exchange)

    def _url(self, submission: Submission, returned: str | None, suffix: str) -> str:
        """The URL fal returned, if the key may go there; else the documented one."""
        built = f"{self._queue.base}/{APP}/requests/{path_segment(submission.request_id)}{suffix}"
        return self._queue.own(returned) or built

    async def _look(self, client: httpx.AsyncClient, submission: Submission) -> Snapshot:
        url = self._url(submission, submission.status_url, "/status")
        exchange = await self._queue.ask(client, "GET", extend(url, query="logs=1"))
        if exchange.too_large:
            exchange = await self._queue.ask(client, "GET", url)  # the logs alone can grow so
        if exchange.status in {404, 410}:
            return not_found(submission)
        self._queue.check(exchange, submission.request_id)
        snapshot = read_status(exchange.object or {}, self._words)
        if snapshot is None:
            raise self._queue.unavailable(
                f"{exchange.status} without a status, {self._queue.words(exchange)}"
            )
        return not_found(submission) if snapshot.state is RemoteState.LOST else snapshot

    async def _stream(self, client: httpx.AsyncClient, submission: Submission) -> AsyncGenerator[Snapshot]:
        url = extend(self._url(submission, submission.status_url, "/status"), "/stream", "logs=1")
        headers = {**self._queue.headers(url), "Accept": "text/event-stream"}
        try:
            async with client.stream("GET", url, headers=headers) as response:
                _check_stream(response)
                async with aclosing(read_events(response.aiter_raw())) as events:
                    async for event in events:
                        snapshot = read_status(
                            parse_object(self._queue.without_key(event)) or {}, self._words
                        )
                        if snapshot is not None and snapshot.state is not RemoteState.LOST:
                            yield snapshot
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise StreamDropped(self._queue.describe(error)) from None

    async def _result(self, client: httpx.AsyncClient, submission: Submission) -> Exchange:
        """The result's answer. queue.md appends `/response`, the model's OpenAPI does not: try both on a 404 or 405."""
        url = self._url(submission, submission.response_url, "")
        exchange = await self._queue.ask(client, "GET", url)
        if exchange.status in {404, 405} and not url.partition("?")[0].endswith("/response"):
            other = await self._queue.ask(client, "GET", extend(url, "/response"))
            return exchange if other.status in {404, 405} else other
        return exchange

    async def _ask_status(self, client: httpx.AsyncClient, submission: Submission) -> ResultKind:
        """Whether an unclear 5xx is the result: it is, if the status tells of an error too."""
        look = await self._look(client, submission)
        failed = look.state is RemoteState.FAILED or (look.state is RemoteState.DONE and bool(look.kind))
        return ResultKind.FAILED if failed else ResultKind.UNAVAILABLE

    def _not_a_video(self, kind: ResultKind, exchange: Exchange, submission: Submission) -> AvatarError:
        about = partial(about_render, submission)
        who = f"request {self._queue.clean(submission.request_id)}"
        if kind is ResultKind.FAILED:
            text = self._queue.clean(error_words(exchange.object)) or f"{who} ended without a video"
            billed = failure_billed(exchange)
            return about(
                RenderFailed, text, kind=failure_kind(exchange), billed=billed, status=exchange.status
            )
        if kind is ResultKind.KEY_REFUSED:
            return self._queue.key_refused(exchange, submission.request_id)
        if kind is ResultKind.LOST and age_of(submission) >= GRACE:
            return about(
                RenderLost, f"fal knows no result of {who} (any more): it keeps one for 1 hour to 30 days."
            )
        if kind is ResultKind.NOT_DONE:
            return about(ProviderUnavailable, f"fal has not finished {who} yet.")
        return self._queue.unavailable(
            f"{exchange.status}, {self._queue.words(exchange)}", wait=exchange.retry_after
        )


def _check_stream(response: httpx.Response) -> None:
    kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    if response.status_code in BREAKDOWN:  # may pass
        raise StreamDropped(f"status {response.status_code}")
    packed = response.headers.get("content-encoding", "identity").lower() not in {"", "identity"}
    if response.status_code != HTTPStatus.OK or kind != "text/event-stream" or packed:
        raise NoStream(f"status {response.status_code}, {kind or 'no content type'}")

"""fal's queue API (never its synchronous host, which charges also when the answer is lost).

Sources: fal.ai/docs, pages inference/queue.md, errors.md, common-parameters.md; the model's page.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import httpx

from avatar.errors import AvatarError, ProviderUnavailable, RenderFailed, RenderLost, ResultUnreadable
from avatar.models import CancelOutcome, RemoteState, RemoteVideo, Snapshot, Submission
from avatar.providers.answers import (
    clean_text,
    error_kind,
    error_words,
    parse_object,
    path_segment,
    read_video,
    read_whole_number,
)
from avatar.providers.base import Capabilities, ListedRequest, Provider, RenderInputs, UnitPrice
from avatar.providers.download import fetch_video
from avatar.providers.fal_answers import (
    ResultKind,
    app_of,
    billable_units,
    confirm_result,
    failure_billed,
    fal_words,
    judge_result,
    read_cancel,
    read_status,
)
from avatar.providers.fal_platform import FalPlatform, upload
from avatar.providers.known_models import KnownModel, Offer
from avatar.providers.outcome import (
    accepted_id,
    body_of,
    judge_exchange,
    remedy,
    submit_seconds,
)
from avatar.providers.polling import (
    ENDED,
    GRACE,
    NoStream,
    PollPace,
    RenderWatch,
    StreamDropped,
    age_of,
    not_found,
    read_events,
)
from avatar.providers.wire import (
    BREAKDOWN,
    Exchange,
    Wire,
    about_render,
    extend_url,
    new_client,
)
from avatar.stored_models import ProviderName

if TYPE_CHECKING:
    from avatar.settings import AvatarSettings
    from avatar.store.store import Store


class Fal(Provider):
    """A model at fal that takes a portrait, a voice and perhaps a prompt."""

    name: ClassVar[ProviderName] = ProviderName.FAL
    capabilities: ClassVar[Capabilities] = Capabilities(
        cancel=True, stream=True, upload=True, webhook=True, history=True, bills=True
    )

    def __init__(self, settings: "AvatarSettings", store: "Store", model: KnownModel) -> None:
        self.model, self.limits, self._known = model.name, model.limits, model
        # What was bought of a model that is off by now is still followed, collected and billed.
        offer = model.offers.get(self.name, Offer("", Decimal(0)))
        self.endpoint, self.price_per_second = offer.endpoint, offer.price_per_second
        # Seen in every answer of fal's own; a stand-in has its videos elsewhere.
        self.media_url = "https://v3b.fal.media/" if settings.fal.queue_url.host == "queue.fal.run" else ""
        self._settings, self._store = settings, store
        self._words = fal_words()
        key = settings.fal.key.get_secret_value() if settings.fal.key else None
        self._queue = Wire(self.name, str(settings.fal.queue_url), key, ("Authorization", "Key "))
        self._platform = FalPlatform(settings.fal)
        self._rest = Wire(self.name, str(settings.fal.rest_url), key, ("Authorization", "Key "))

    def check_offered(self) -> None:
        self._known.offer(self.name)

    def check_configured(self) -> None:
        self.check_offered()
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
        url = f"{self._queue.base}/{self.endpoint}"
        if inputs.webhook_url:
            url += "?" + str(httpx.QueryParams({"fal_webhook": inputs.webhook_url}))
        exchange = await self._queue.post_once(
            url,
            body_of(self._known, inputs),
            seconds=submit_seconds(self._settings.journal.lease_seconds),
            may_send=inputs.may_send,
            headers={
                # Tags are pairs; fal drops what is not, in silence (fal_client headers, 2026). Usage reports show
                # them to accounts for which fal has switched that on.
                "X-Fal-Tags": f"render={inputs.render_id}",
                # One that has not begun when nobody asks for it any more is dropped, and not charged.
                "X-Fal-Request-Start-Timeout": f"{self._settings.polling.deadline_seconds:.0f}",
            },
        )
        request_id = accepted_id(judge_exchange(exchange), self._queue, inputs)
        return self._receipt(inputs.render_id, request_id, exchange.object or {})

    def _receipt(self, render_id: str, request_id: str, data: dict[str, Any]) -> Submission:
        return Submission(
            render_id=render_id,
            provider=self.name,
            model=self.model,
            endpoint=self.endpoint,
            request_id=request_id,
            submitted_at=datetime.now(UTC),
            status_url=self._queue.own(data.get("status_url")),
            response_url=self._queue.own(data.get("response_url")),
            cancel_url=self._queue.own(data.get("cancel_url")),
            generation="queue",
            queue_position=read_whole_number(data.get("queue_position")),
        )

    async def poll(self, submission: Submission) -> Snapshot:
        async with new_client() as client:
            return await self._look(client, submission)

    async def watch(self, submission: Submission, window: float) -> AsyncGenerator[Snapshot, None]:
        """Looks by the status stream where it holds, else by GET. Close it (`aclosing`) to stop early."""
        async with new_client() as client:
            watch = RenderWatch(
                lambda: self._look(client, submission),
                PollPace(self._settings.polling, submission),
                window=window,
                open_stream=lambda: self._stream(client, submission),
            )
            async with aclosing(watch.snapshots()) as snapshots:
                async for snapshot in snapshots:
                    yield snapshot

    async def collect(self, submission: Submission) -> RemoteVideo:
        async with new_client() as client:
            exchange = await self._result(client, submission)
            kind = judge_result(exchange)
            look = None
            if kind in {ResultKind.REFUSED, ResultKind.BREAKDOWN, ResultKind.NO_VIDEO}:
                look = await self._look(client, submission)
                kind = confirm_result(kind, look)
        video = read_video(exchange.object or {}, billed_seconds=billable_units(exchange), anywhere=True)
        if kind is ResultKind.VIDEO and video is not None:
            return video
        raise self._not_a_video(kind, exchange, look, submission)

    async def download(self, video: RemoteVideo, target: Path) -> None:
        await fetch_video(video.url, target, settings=self._settings.download)

    async def cancel(self, submission: Submission) -> CancelOutcome:
        """PUT cancel: a queued request is removed, a running one only told, and may still be charged."""
        urls = self._addresses(submission, submission.cancel_url, "/cancel")
        async with new_client() as client:
            exchange = await self._ask(client, "PUT", urls)
        if exchange.status in {400, 404, 409, 410}:
            return CancelOutcome.TOO_LATE
        self._queue.check(exchange, submission.request_id)
        if not exchange.ok:
            raise self._queue.unavailable(f"{exchange.status}, {self._queue.words(exchange)}")
        return read_cancel(exchange)

    async def history(
        self, since: datetime, until: datetime, endpoint: str = ""
    ) -> list[ListedRequest] | None:
        return await self._platform.requests(endpoint or self.endpoint, since, until)

    async def bills(self, request_ids: Sequence[str]) -> Mapping[str, Decimal]:
        return await self._platform.bills(request_ids)

    async def listed_price(self) -> UnitPrice | None:
        return await self._platform.price(self.endpoint)

    def _addresses(self, submission: Submission, returned: str | None, suffix: str) -> list[str]:
        """The URL fal returned, if the key may go there, then the documented one: some that it returns are refused."""
        app = app_of(submission.endpoint or self.endpoint)
        built = f"{self._queue.base}/{app}/requests/{path_segment(submission.request_id)}{suffix}"
        return list(dict.fromkeys(filter(None, (self._queue.own(returned), built))))

    async def _ask(self, client: httpx.AsyncClient, method: str, urls: Sequence[str]) -> Exchange:
        """The first answer that is not "no such address"; where all are, the first of them."""
        answers = []
        for url in urls:
            answers.append(await self._queue.ask(client, method, url))
            if answers[-1].status not in {404, 405}:
                return answers[-1]
        return answers[0]

    async def _look(self, client: httpx.AsyncClient, submission: Submission) -> Snapshot:
        urls = self._addresses(submission, submission.status_url, "/status")
        exchange = await self._ask(client, "GET", [extend_url(url, query="logs=1") for url in urls])
        if exchange.too_large:
            exchange = await self._ask(client, "GET", urls)  # the logs alone can grow so
        snapshot = None
        if exchange.status not in {404, 405, 410}:
            self._queue.check(exchange, submission.request_id)
            snapshot = read_status(exchange.object or {}, self._words)
            if snapshot is not None and self._is_told(snapshot):
                return snapshot
        # What the status does not tell, the result may. A page is neither.
        is_page = exchange.ok and exchange.object is None and bool(exchange.body)
        if not is_page and judge_result(await self._result(client, submission)) is ResultKind.VIDEO:
            return Snapshot(state=RemoteState.DONE, word=snapshot.word if snapshot else "")
        if exchange.status in {404, 410} or (snapshot and snapshot.state is RemoteState.LOST):
            return not_found(submission)
        if snapshot is None:
            raise self._queue.unavailable(
                f"{exchange.status} without a status, {self._queue.words(exchange)}"
            )
        return snapshot

    def _is_told(self, snapshot: Snapshot) -> bool:
        known = self._words.knows(snapshot.word) or snapshot.state is RemoteState.DONE
        return known and snapshot.state is not RemoteState.LOST

    async def _stream(self, client: httpx.AsyncClient, submission: Submission) -> AsyncGenerator[Snapshot]:
        url = extend_url(
            self._addresses(submission, submission.status_url, "/status")[0], "/stream", "logs=1"
        )
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
        urls = self._addresses(submission, submission.response_url, "")
        plain = [url for url in urls if not url.partition("?")[0].endswith("/response")]
        return await self._ask(client, "GET", [*urls, *(extend_url(url, "/response") for url in plain)])

    def _not_a_video(
        self, kind: ResultKind, exchange: Exchange, look: Snapshot | None, submission: Submission
    ) -> AvatarError:
        about = partial(about_render, submission)
        who = f"request {self._queue.clean(submission.request_id)}"
        if kind is ResultKind.REFUSED:
            words = self._queue.clean(error_words(exchange.object)) or (look.message if look else "")
            said = error_kind(exchange.object) or clean_text(exchange.headers.get("x-fal-error-type", ""))
            named = said or (look.kind if look else "") or "failed"
            return about(
                RenderFailed,
                words or f"{who} ended without a video",
                kind=named,
                billed=failure_billed(exchange, named),
                status=exchange.status,
                hint=remedy(named, self.name),
            )
        if kind is ResultKind.NO_VIDEO:
            text = f"fal says that {who} has ended, and its answer names no video. It is kept as it came."
            return about(ResultUnreadable, text, answer=exchange.body.decode("utf-8", "replace"))
        if kind is ResultKind.LOST and age_of(submission) >= GRACE:
            return about(
                RenderLost, f"fal knows no result of {who} (any more): it keeps one for 1 hour to 30 days."
            )
        if look is not None and look.state not in ENDED:
            return about(ProviderUnavailable, f"fal has not finished {who} yet.")
        self._queue.check(exchange, submission.request_id)
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

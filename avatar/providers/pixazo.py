"""The Pixazo gateway, in both generations of its contract for this model.

They share the submit. The page of the model documents a POST for the result (v1); a newer copy answers the submit
with a `polling_url` and is asked by GET (v2). Which of them holds is not established, so the submit's answer decides,
and a 404 from one is put to the other once. `response_url` names a foreign host and is never called.
"""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import httpx

from avatar.errors import AvatarError, ProviderUnavailable, RenderFailed, RenderLost, ResultUnreadable
from avatar.models import CancelOutcome, RemoteState, RemoteVideo, Snapshot, Submission
from avatar.providers.answers import (
    StatusWords,
    clean_text,
    error_kind,
    error_words,
    path_segment,
    read_number,
    read_video,
    text_or_empty,
)
from avatar.providers.base import Capabilities, Provider, RenderInputs
from avatar.providers.download import fetch_video
from avatar.providers.known_models import KnownModel, Offer
from avatar.providers.outcome import accepted_id, body_of, judge_exchange, remedy, submit_seconds
from avatar.providers.polling import PollPace, RenderWatch, not_found
from avatar.providers.wire import BREAKDOWN, Exchange, Wire, about_render, new_client
from avatar.stored_models import ProviderName

if TYPE_CHECKING:
    from avatar.settings import AvatarSettings
    from avatar.store.store import Store


# What Pixazo's status answers mean, in both generations of its API and the shapes its other models use.
def pixazo_words() -> StatusWords:
    """v1 and v2 of this model's page, and what the vendor's own clients map."""
    return StatusWords(
        "pixazo",
        queued=("IN_QUEUE", "QUEUED", "PENDING", "SUBMITTED", "CREATED", "STARTING", "WAITING"),
        running=("IN_PROGRESS", "PROCESSING", "RUNNING"),
        done=("COMPLETED", "SUCCEEDED", "SUCCEED", "SUCCESS", "DONE", "READY"),
        failed=("FAILED", "ERROR", "CANCELED", "CANCELLED", "ABORTED"),
    )


def read_status(data: Mapping[str, Any], words: StatusWords) -> Snapshot | None:
    """A status body as a snapshot; None if it tells nothing.

    A video without a status word, or beside one that is not known, is done: sibling models answer so.
    """
    word = text_or_empty(data.get("status"))
    if words.knows(word):
        state = words.state(word)
    elif read_video(data) is not None:
        state = RemoteState.DONE
    elif word:
        state = words.state(word)
    elif data.get("success") is False and error_words(data):
        state = RemoteState.FAILED
    else:
        return None
    percent = read_number(str(data.get("progress_percent")).removesuffix("%"))
    return Snapshot(
        state=state,
        progress=min(percent / 100, 1.0) if percent is not None else None,
        eta_seconds=_first_number(data, "estimated_remaining_seconds", "estimated_completion_time"),
        message=clean_text(error_words(data)),
        kind=(error_kind(data) or "failed") if state is RemoteState.FAILED else "",
        word=clean_text(word),
    )


def _first_number(data: Mapping[str, Any], *names: str) -> float | None:
    return next((found for name in names if (found := read_number(data.get(name))) is not None), None)


def _video(snapshot: Snapshot, exchange: Exchange) -> RemoteVideo | None:
    return read_video(exchange.object or {}, anywhere=snapshot.state is RemoteState.DONE)


#: Of a product's path, for its result in the first generation.
RESULT = "-result"
STATUS_V2 = "/v2/requests/status/"


class Pixazo(Provider):
    """A model at Pixazo that takes a portrait, a voice and perhaps a prompt."""

    name: ClassVar[ProviderName] = ProviderName.PIXAZO
    capabilities: ClassVar[Capabilities] = Capabilities(webhook=True)

    def __init__(self, settings: "AvatarSettings", store: "Store", model: KnownModel) -> None:
        self.model, self.limits, self._known = model.name, model.limits, model
        # What was bought of a model that is off by now is still followed, collected and billed.
        offer = model.offers.get(self.name, Offer("", Decimal(0)))
        self.endpoint, self.price_per_second = offer.endpoint, offer.price_per_second
        self._settings, self._store = settings, store
        self._words = pixazo_words()
        self._answered_by: dict[str, str] = {}  # requests that turned out to be known to the other generation
        key = settings.pixazo.key.get_secret_value() if settings.pixazo.key else None
        self._wire = Wire(self.name, str(settings.pixazo.base_url), key, ("Ocp-Apim-Subscription-Key", ""))

    def check_offered(self) -> None:
        self._known.offer(self.name)

    def check_configured(self) -> None:
        self.check_offered()
        self._wire.check_key("AVATAR_PIXAZO__KEY")

    async def submit(self, inputs: RenderInputs) -> Submission:
        self.check_configured()
        headers = {"Cache-Control": "no-cache"}
        if inputs.webhook_url:
            headers["X-Webhook-URL"] = str(httpx.URL(inputs.webhook_url))
        exchange = await self._wire.post_once(
            f"{self._wire.base}/{self.endpoint}",
            body_of(self._known, inputs),
            seconds=submit_seconds(self._settings.journal.lease_seconds),
            may_send=inputs.may_send,
            headers=headers,
        )
        outcome = judge_exchange(exchange, refusals_in_200=True)
        request_id = accepted_id(outcome, self._wire, inputs)
        return self._receipt(inputs.render_id, request_id, exchange.object or {})

    def _receipt(self, render_id: str, request_id: str, data: dict[str, Any]) -> Submission:
        return Submission(
            render_id=render_id,
            provider=self.name,
            model=self.model,
            endpoint=self.endpoint,
            request_id=request_id,
            submitted_at=datetime.now(UTC),
            status_url=self._wire.own(data.get("polling_url")),
            generation="v2" if data.get("polling_url") else "v1",
        )

    async def poll(self, submission: Submission) -> Snapshot:
        async with new_client() as client:
            snapshot, _ = await self._look(client, submission)
        return snapshot

    async def watch(self, submission: Submission, window: float) -> AsyncGenerator[Snapshot, None]:
        """Looks by requests: Pixazo has no stream. Close it (`aclosing`) to stop early."""

        async def look() -> Snapshot:
            snapshot, _ = await self._look(client, submission)
            return snapshot

        async with new_client() as client:
            watch = RenderWatch(look, PollPace(self._settings.polling, submission), window=window)
            async with aclosing(watch.snapshots()) as snapshots:
                async for snapshot in snapshots:
                    yield snapshot

    async def collect(self, submission: Submission) -> RemoteVideo:
        """The result, which comes with the status."""
        async with new_client() as client:
            snapshot, exchange = await self._look(client, submission)
            video = _video(snapshot, exchange)
            if snapshot.state is RemoteState.DONE and video is None:
                # The word may run ahead of the result.
                await asyncio.sleep(self._settings.polling.min_interval)
                snapshot, exchange = await self._look(client, submission)
                video = _video(snapshot, exchange)
        if snapshot.state in {RemoteState.DONE, RemoteState.FAILED} and video is not None:
            return video
        raise self._not_a_video(snapshot, exchange, submission)

    async def download(self, video: RemoteVideo, target: Path) -> None:
        await fetch_video(video.url, target, settings=self._settings.download)

    async def cancel(self, submission: Submission) -> CancelOutcome:  # noqa: ARG002 - part of the contract
        """Pixazo documents no cancel."""
        return CancelOutcome.UNSUPPORTED

    def _not_a_video(self, snapshot: Snapshot, exchange: Exchange, submission: Submission) -> AvatarError:
        about = partial(about_render, submission)
        who = f"request {self._wire.clean(submission.request_id)}"
        if snapshot.state is RemoteState.LOST:
            return about(RenderLost, f"Pixazo does not know {who} (any more).")
        if snapshot.state is RemoteState.FAILED:
            words = snapshot.message or f"{who} failed, no reason given"
            return about(RenderFailed, words, kind=snapshot.kind, hint=remedy(snapshot.kind, self.name))
        if snapshot.state is RemoteState.DONE:
            text = f"Pixazo says that {who} has ended, and its answer names no video. It is kept as it came."
            return about(ResultUnreadable, text, answer=exchange.body.decode("utf-8", "replace"))
        return about(ProviderUnavailable, f"Pixazo has not finished {who} yet.")

    async def _look(self, client: httpx.AsyncClient, submission: Submission) -> tuple[Snapshot, Exchange]:
        exchange = await self._ask_either(client, submission)
        if exchange.status in {404, 405, 410}:
            return not_found(submission), exchange
        self._wire.check(exchange, submission.request_id)
        snapshot = read_status(exchange.object or {}, self._words) if exchange.ok else None
        if snapshot is None:
            raise self._wire.unavailable(f"{exchange.status} without a status, {self._wire.words(exchange)}")
        return snapshot, exchange

    async def _ask_either(self, client: httpx.AsyncClient, submission: Submission) -> Exchange:
        """The answer of the generation the submit was answered by, or of the other where that one is not found."""
        known = self._answered_by.get(submission.request_id, submission.generation or "v1")
        other = "v1" if known == "v2" else "v2"
        first = await self._ask(client, submission, known)
        if first.status not in {404, 405}:
            return first
        second = await self._ask(client, submission, other)
        if second.ok:
            self._answered_by[submission.request_id] = other
        # Only a refusal by both is an absence: what the other cannot answer now is not yet lost.
        return second if second.ok or second.status in BREAKDOWN else first

    async def _ask(self, client: httpx.AsyncClient, submission: Submission, generation: str) -> Exchange:
        if generation == "v2":
            built = self._wire.base + STATUS_V2 + path_segment(submission.request_id)
            return await self._wire.ask(client, "GET", self._wire.own(submission.status_url) or built)
        body = {"request_id": submission.request_id}
        url = f"{self._wire.base}/{submission.endpoint or self.endpoint}{RESULT}"
        return await self._wire.ask(client, "POST", url, body=body)

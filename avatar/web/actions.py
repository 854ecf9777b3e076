"""What a person does in the browser: bring files, see the price, start a run, watch it, approve, accept, take again.

Whatever changes something is a POST that carries the visitor's token; what costs money also carries the price that was
shown, and what is pressed twice is one run.
"""

import re
import secrets
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from avatar.errors import AvatarError, InvalidInput, ObjectNotFound
from avatar.job.index import read_video
from avatar.job.publish import accept_video, find_video, name_video
from avatar.job.reconcile import finish_render
from avatar.models import AvatarJob, Video, VideoState
from avatar.money.commit import load_plan
from avatar.money.entries import Record, RenderState
from avatar.money.quote import quote_segments
from avatar.money.settle import attach_request, declare_not_charged, signed_by
from avatar.stored_models import ProviderName
from avatar.web.batches import read_batch_rows
from avatar.web.drafts import (
    Draft,
    address,
    as_parameters,
    batch_of,
    check_price,
    keep_draft,
    once_key,
    read_draft,
    read_labels,
)
from avatar.web.offers import Offer, Offers, budget_left, cut_marks
from avatar.web.pages import Links, Pages
from avatar.web.runs import BATCH, FINAL, GENERATE, Runs
from avatar.web.uploads import Uploads
from avatar.web.users import FormTokens, RateLimit, Role, require, role_of
from avatar.web.video_list import Query, VideoList
from avatar.workspace import Workspace

#: Changes a minute, over all visitors.
CHANGES_A_MINUTE = 60
#: Bytes and fields of a form; of an order, which names its files.
LARGEST_FORM, MOST_FIELDS = 64 * 1024, 100
LARGEST_ORDER, MOST_ORDER_FIELDS = 1024 * 1024, 4000
MOST_PRESSED = 1000
#: Renders that are looked at for what needs a person.
MOST_OPEN = 200
_JOB = re.compile(r"[0-9a-f]{32}")
#: Renders that wait for a person.
_STUCK = {RenderState.UNKNOWN, RenderState.STALLED}


@dataclass
class Actions:
    """What the requests share."""

    workspace: Workspace
    pages: Pages
    catalogue: VideoList
    runs: Runs
    visitors: FormTokens
    changes: RateLimit = field(default_factory=lambda: RateLimit(CHANGES_A_MINUTE))

    def __post_init__(self) -> None:
        self.uploads = Uploads(self.workspace, self.visitors)
        self.offers = Offers(self.workspace)
        #: Where the newest presses led, by what makes each the same press again.
        self._pressed: OrderedDict[str, str] = OrderedDict()

    def routes(self) -> list[Route]:
        return [
            *self.uploads.routes(),
            Route("/new", self.new),
            Route("/orders", self.order, methods=["POST"]),
            Route("/orders/{id}", self.look_at_order),
            Route("/orders/{id}/start", self.start, methods=["POST"]),
            Route("/runs/{run_id}", self.watch),
            Route("/runs/{run_id}/answer", self.answer, methods=["POST"]),
            Route("/attention", self.attention),
            Route("/renders/{render_id}/settle", self.settle, methods=["POST"]),
            Route("/videos/{job_id}/accept", self.accept, methods=["POST"]),
            Route("/videos/{job_id}/take", self.take_again, methods=["POST"]),
            Route("/videos/{job_id}/name", self.rename, methods=["POST"]),
        ]

    # An order: its files and wishes, its offers, its start.
    async def new(self, request: Request) -> Response:
        return await self._order_page(request, Draft())

    async def order(self, request: Request) -> Response:
        """Keep an order, and go where its price is shown."""
        order = Draft.of(await self._form(request, LARGEST_ORDER, MOST_ORDER_FIELDS))
        return self._to(request, f"orders/{await keep_draft(self.workspace, order)}#live")

    async def look_at_order(self, request: Request) -> Response:
        order_id = request.path_params["id"]
        return await self._order_page(request, await read_draft(self.workspace, order_id), order_id)

    async def _order_page(self, request: Request, order: Draft, order_id: str = "") -> Response:
        require(request, Role.MAKE)
        ready = bool(order_id) and not order.missing
        pricing = await self.offers.price(order_id, order, seconds=2) if ready else None
        facts = {
            "order": order,
            "order_id": order_id,
            "pricing": pricing,
            "marks": cut_marks,
            "left": await budget_left(self.workspace),
            "once": secrets.token_urlsafe(16),
            "limit": self.workspace.settings.download.max_input_bytes,
            "refresh": bool(pricing and not pricing.done),
        }
        return self._page(request, "new.html", **facts)

    async def start(self, request: Request) -> Response:
        """Start the run of an order, if it costs what was shown."""
        given = dict(await self._form(request))
        once = once_key(given)
        if once in self._pressed:
            return self._to(request, self._pressed[once])
        order = await read_draft(self.workspace, request.path_params["id"])
        offer = await self._offer(request, order, given)
        check_price(given, offer.owed)
        if offer.checked is None:
            run, more = await self._start_job(order, offer, once)
        else:
            run, more = await self._start_batch(request, order, offer, once)
        self.offers.forget(request.path_params["id"])
        self._pressed[once] = f"runs/{run}?{more}"
        if len(self._pressed) > MOST_PRESSED:
            self._pressed.popitem(last=False)
        return self._to(request, self._pressed[once])

    async def _offer(self, request: Request, order: Draft, given: dict[str, str]) -> Offer:
        """The offer that was chosen. Raises 403, 409 or `InvalidInput` if it cannot be had."""
        if order.missing:
            raise InvalidInput(order.missing)
        pricing = await self.offers.price(request.path_params["id"], order)
        offer = pricing.offer(given.get("provider", ""), given.get("model", ""))
        if offer is None and not pricing.done:
            raise HTTPException(
                HTTPStatus.CONFLICT, "The price is not known yet. Nothing was started; look again."
            )
        if offer is None or offer.fault or pricing.fault:
            raise InvalidInput((offer and offer.fault) or pricing.fault or "This cannot be had.")
        if offer.is_paid:
            require(request, Role.SPEND)
        return offer

    async def _start_job(self, order: Draft, offer: Offer, once: str) -> tuple[str, str]:
        assert offer.plan  # noqa: S101 - an offer without fault has one
        voice = order.voices[0]
        facts = {
            "provider": offer.provider,
            "title": order.titled(voice),
            "max_cost": offer.plan.quote.amount,
        }
        facts |= {"model": offer.asked_model} if offer.asked_model else {}
        sources = [address(self.workspace, key) for key in (order.portraits[0], voice)]
        job = order.job(sources[0], sources[1], **facts)
        run = await self.runs.start(GENERATE, {"job": as_parameters(job)}, once, job.title)
        return run, f"job={offer.plan.job_id}"

    async def _start_batch(self, request: Request, order: Draft, offer: Offer, once: str) -> tuple[str, str]:
        pricing = await self.offers.price(request.path_params["id"], order)
        assert offer.checked and pricing.rows  # noqa: S101, PT018 - an offer without fault has them
        batch = batch_of(order, pricing.rows, offer.provider, offer.asked_model)
        plain = batch.model_dump(mode="json", exclude_unset=True) | {"max_cost": float(offer.owed)}
        run = await self.runs.start(BATCH, {"batch": plain}, once, order.title)
        return run, f"batch={offer.checked.batch_id}"

    # A run: how far it is, and the answer it waits for.
    async def watch(self, request: Request) -> Response:
        run = await self.runs.read(request.path_params["run_id"])
        state, question = run.get("state") or {}, await self.runs.question(run)
        job_id, batch_id = (_id(request.query_params.get(name, "")) for name in ("job", "batch"))
        facts = {
            "about": _about(request),
            "run": run,
            "state": state,
            "question": question,
            "video": await find_video(self.workspace, job_id) if job_id else None,
            "batch_id": batch_id,
            "cards_of": await self._cards(batch_id),
            "progress": await self.runs.progress(run["id"]),
            # A run that waits, too: somebody else may answer, and just after an answer it still seems to.
            "refresh": state.get("type") not in FINAL,
            "prefect": self.runs.page(run["id"]),
        }
        return self._page(request, "run.html", **facts)

    async def _cards(self, batch_id: str) -> Sequence[Any]:
        try:
            return (await read_batch_rows(self.workspace, batch_id, 0)).cards if batch_id else ()
        except ObjectNotFound:
            return ()

    async def answer(self, request: Request) -> Response:
        """Approve or refuse what a run asks, if it asks for the amount that was shown."""
        fields = dict(await self._form(request))
        require(request, Role.SPEND)
        run = await self.runs.read(request.path_params["run_id"])
        question = await self.runs.question(run)
        if question is None:
            raise HTTPException(HTTPStatus.CONFLICT, "This run does not wait for an answer any more.")
        if fields.get("answer") not in {"approve", "refuse"}:
            raise InvalidInput("The answer is neither approve nor refuse. Nothing was approved.")
        if fields.get("amount", "") != question.amount:
            raise HTTPException(
                HTTPStatus.CONFLICT, "The amount has changed since it was shown. Nothing was approved."
            )
        await self.runs.answer(run["id"], question, approve=fields["answer"] == "approve")
        return self._to(request, f"runs/{run['id']}{_about(request)}")

    # Videos that are there.
    async def accept(self, request: Request) -> Response:
        """Publish a rejected video as it is. Costs nothing."""
        await self._form(request)
        video = await self._video(request)
        if video.state is VideoState.REJECTED:
            await accept_video(self.workspace, video)
        return self._to(request, f"videos/{video.job_id}")

    async def rename(self, request: Request) -> Response:
        """Give a video another title, language and labels. Costs nothing."""
        fields = dict(await self._form(request))
        title = " ".join(fields.get("title", "").split())[:200]
        language, labels = fields.get("language", "").strip(), read_labels(fields.get("labels", ""))
        video = await self._video(request)
        Draft().job("-", "-", title=title, language=language, labels=labels)  # refused as a job's would be
        gone = dict.fromkeys(video.labels, "")
        await name_video(self.workspace, video, title=title, language=language, labels=gone | labels)
        return self._to(request, f"videos/{video.job_id}")

    async def take_again(self, request: Request) -> Response:
        """Start a run that buys another take, if it costs what was shown."""
        fields = dict(await self._form(request))
        video = await self._video(request)
        if video.provider is not ProviderName.PREVIEW:
            require(request, Role.SPEND)
        price = self.price_of_take(video)
        check_price(fields, price)
        take = fields.get("take", "")
        if not take.isdecimal() or not video.take < int(take) <= 9999:  # noqa: PLR2004
            raise InvalidInput("This is no number of a further take.")
        sources = [
            address(self.workspace, asset.key) for asset in (video.portrait.source, video.voice.source)
        ]
        facts = video.model_dump(include={"prompt", "continuity", "title", "language", "labels", "provider"})
        facts |= {"model": video.model} if video.provider is not ProviderName.PREVIEW else {}
        job = AvatarJob(portrait=sources[0], voice=sources[1], take=int(take), max_cost=price, **facts)
        run = await self.runs.start(GENERATE, {"job": as_parameters(job)}, once_key(fields), job.title)
        return self._to(request, f"runs/{run}")

    async def _video(self, request: Request) -> Video:
        return await read_video(self.workspace.store, request.path_params["job_id"])

    def price_of_take(self, video: Video) -> Decimal:
        """US dollars for the same once more, at the price of today."""
        provider = self.workspace.provider(video.provider, video.model)
        price = provider.price_per_second
        return quote_segments(video.segments, provider=video.provider, price_per_second=price).amount

    def player_facts(
        self, request: Request, video: Video, takes: Sequence[tuple[int, str]]
    ) -> dict[str, Any]:
        """What the player's page needs for its buttons."""
        number = max([take for take, _ in takes] + [video.take]) + 1
        price = self.price_of_take(video) if video.segments else None
        allowed = role_of(request) >= Role.SPEND or video.provider is ProviderName.PREVIEW
        return {
            "next_take": number,
            "take_price": price if allowed else None,
            "once": secrets.token_urlsafe(16),
        }

    # What waits for a person.
    async def attention(self, request: Request) -> Response:
        rejected = await self.catalogue.page(Query(state=VideoState.REJECTED))
        fault, waiting = "", []
        try:
            waiting = list(await self.runs.waiting())
        except HTTPException as error:
            fault = error.detail
        facts = {"rejected": rejected, "stuck": await self._stuck(), "waiting": waiting, "fault": fault}
        return self._page(request, "attention.html", **facts)

    async def _stuck(self) -> list[tuple[Record, str]]:
        """Renders that a person has to settle, with the names of their jobs."""
        journal = self.workspace.journal
        heads = [await journal.head(render_id) for render_id in (await journal.open_renders())[:MOST_OPEN]]
        stuck = [head for head in heads if head and head.state in _STUCK]
        return [(head, await self._name_of(head.entry.job_id)) for head in stuck]

    async def _name_of(self, job_id: str) -> str:
        """What people recognise a job by that has no video yet."""
        try:
            plan = await load_plan(self.workspace, job_id)
        except AvatarError:  # also one that cannot be read: the render is to be settled all the same
            return f"Job {job_id[:12]}"
        return plan.title or plan.files.get("voice") or f"Job {job_id[:12]}"

    async def settle(self, request: Request) -> Response:
        """Settle a render whose outcome is unknown: by the provider's request id, or as not charged. Spends nothing."""
        fields = dict(await self._form(request))
        require(request, Role.SPEND)
        render_id, by = _id(request.path_params["render_id"]), signed_by("the gallery")
        request_id = fields.get("request_id", "").strip()
        if not render_id or bool(request_id) == ("not_charged" in fields):
            raise InvalidInput("Give the provider's request id, or say that it was not charged.")
        if request_id:
            await attach_request(self.workspace, render_id, request_id, by=by)
            await finish_render(self.workspace, render_id)
        else:
            await declare_not_charged(self.workspace, render_id, by=by)
        return self._to(request, "attention")

    # Forms and pages.
    async def _form(
        self, request: Request, most: int = LARGEST_FORM, fields: int = MOST_FIELDS
    ) -> list[tuple[str, str]]:
        """The fields of a form of ours. Raises 400, 403, 413, 415 or 429."""
        if not request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
            raise HTTPException(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "This is no form of these pages.")
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > most:
                raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "This form is too long.")
        try:
            found = parse_qsl(
                bytes(body).decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=fields
            )
        except ValueError:
            raise HTTPException(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "This form has too many fields."
            ) from None
        self.visitors.check(request, dict(found).get("token", ""))
        self.changes.spend()
        return found

    def _page(self, request: Request, template: str, **facts: Any) -> Response:
        links = Links(root="../" * (request.url.path.count("/") - 1))
        shown = {"visitor": self.visitors.token(request), "may_spend": role_of(request) >= Role.SPEND}
        html = self.pages.render(template, links=links, **shown, **facts)
        return self.visitors.remember(request, HTMLResponse(html, headers={"cache-control": "no-store"}))

    @staticmethod
    def _to(request: Request, path: str) -> Response:
        """See other, by a relative address: the gallery works below any path."""
        return RedirectResponse("../" * (request.url.path.count("/") - 1) + path, HTTPStatus.SEE_OTHER)


def _about(request: Request) -> str:
    """What a run makes, as its page's address has it."""
    found = {name: _id(request.query_params.get(name, "")) for name in ("job", "batch")}
    return "".join(f"?{name}={known}" for name, known in found.items() if known)


def _id(text: str) -> str:
    """A job, batch or render id; empty for anything else."""
    return text if _JOB.fullmatch(text) else ""

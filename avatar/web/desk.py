"""What a person does in the browser: bring files, see the price, start a run, watch it, approve, accept, take again.

Runs are started through Prefect's API, as its own UI would, with the price that was shown as their limit. Whatever
changes something is a POST that carries the visitor's token; what is pressed twice is one run.
"""

import asyncio
import json
import re
import secrets
import tempfile
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from http import HTTPStatus
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qsl

import httpx
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from avatar.errors import InvalidInput, NotConfigured
from avatar.job.index import read_video
from avatar.job.inputs import store_file
from avatar.job.plan import plan_job
from avatar.job.publish import accept_video, find_video, name_video
from avatar.local import prefect_api
from avatar.media.kinds import sniff
from avatar.models import Asset, AvatarJob, Plan, ProviderName, Video, VideoState
from avatar.money.budget import total
from avatar.money.commit import still_to_buy
from avatar.money.journal import RenderState
from avatar.money.quote import quote_segments
from avatar.web.catalogue import Catalogue, Query
from avatar.web.orders import (
    Offer,
    Order,
    amount_of,
    answer_for,
    as_parameters,
    check_price,
    once_of,
)
from avatar.web.pages import Links, Pages, run_page
from avatar.web.server import Rate, Visitors
from avatar.workspace import Workspace

_RUN = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
GENERATE, BATCH = "generate-avatar/generate-avatar", "generate-batch/generate-batch"
#: Orders whose plans are kept in memory: a page that is loaded again decodes nothing.
MOST_KEPT = 200
#: Uploads a minute, and other changes a minute, over all visitors.
UPLOADS_A_MINUTE, CHANGES_A_MINUTE = 120, 60
#: Bytes of a form.
LARGEST_FORM = 64 * 1024
FINAL = frozenset({"COMPLETED", "FAILED", "CRASHED", "CANCELLED"})
KINDS = {"image": "portrait", "audio": "voice", "video": "voice"}


@dataclass
class Desk:
    """What the requests share.

    Attributes:
        api_url: the Prefect API, with its `/api`; empty if there is none.
        visitors: who may change something.
    """

    workspace: Workspace
    pages: Pages
    catalogue: Catalogue
    api_url: str
    visitors: Visitors
    uploads: Rate = field(default_factory=lambda: Rate(UPLOADS_A_MINUTE))
    changes: Rate = field(default_factory=lambda: Rate(CHANGES_A_MINUTE))
    _plans: OrderedDict[tuple[Any, ...], Plan] = field(default_factory=OrderedDict)

    def routes(self) -> list[Route]:
        return [
            Route("/new", self.new),
            Route("/new", self.start, methods=["POST"]),
            Route("/files", self.take_file, methods=["POST"]),
            Route("/runs/{run_id}", self.watch),
            Route("/runs/{run_id}/answer", self.answer, methods=["POST"]),
            Route("/attention", self.attention),
            Route("/videos/{job_id}/accept", self.accept, methods=["POST"]),
            Route("/videos/{job_id}/take", self.take_again, methods=["POST"]),
            Route("/videos/{job_id}/name", self.rename, methods=["POST"]),
        ]

    # Files, one a request: the body is the file.
    async def take_file(self, request: Request) -> Response:
        """Store a portrait or a voice by its content; returns its key and what it is."""
        self.visitors.check(request, request.headers.get("x-csrf-token", ""))
        self.uploads.spend()
        limit = self.workspace.settings.download.max_input_bytes
        with tempfile.TemporaryDirectory(dir=self.workspace.scratch) as folder:
            path = Path(folder) / "file"
            await _receive(request, path, limit)
            asset = await self._store(path)
        what = KINDS[asset.content_type.partition("/")[0]]
        return JSONResponse(
            {"key": asset.key, "what": what, "size": asset.size}, headers={"cache-control": "no-store"}
        )

    async def _store(self, path: Path) -> Asset:
        with path.open("rb") as file:
            kind = sniff(file.read(16))[1].partition("/")[0]
        if kind not in KINDS:
            raise HTTPException(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "This is neither a picture nor a sound.")
        return await store_file(self.workspace, path)

    # An order: its offers, and its start.
    async def new(self, request: Request) -> Response:
        order = Order.of(request.query_params.multi_items())
        offers = await self._offers(order) if order.complete else []
        facts = {
            "order": order,
            "offers": offers,
            "left": await self._budget_left(),
            "once": secrets.token_urlsafe(16),
            "limit": self.workspace.settings.download.max_input_bytes,
        }
        return self._page(request, "new.html", **facts)

    async def _offers(self, order: Order) -> list[Offer]:
        return [await self._offer(order, name) for name in ProviderName]

    async def _offer(self, order: Order, name: ProviderName) -> Offer:
        try:
            self.workspace.provider(name).check_configured()
            plans = tuple([await self._plan(order, voice, name) for voice in order.voices])
            made = [await find_video(self.workspace, plan.job_id) for plan in plans]
            owed = [
                sum((await still_to_buy(self.workspace, plan)).values(), Decimal(0))
                for plan, video in zip(plans, made, strict=True)
                if video is None
            ]
        except (NotConfigured, InvalidInput) as error:
            return Offer(name, fault=" ".join(filter(None, (error.message, error.hint))))
        return Offer(name, plans, sum(owed, Decimal(0)), tuple(video for video in made if video))

    async def _plan(self, order: Order, voice: str, name: ProviderName) -> Plan:
        key = (order.portrait, voice, order.prompt, name)
        if key not in self._plans:
            job = self._job(order, voice, name)
            portrait, sound = await self._asset(order.portrait), await self._asset(voice)
            self._plans[key] = await plan_job(self.workspace, job, portrait, sound)
            if len(self._plans) > MOST_KEPT:
                self._plans.popitem(last=False)
        return self._plans[key]

    def _job(self, order: Order, voice: str, name: ProviderName, **facts: Any) -> AvatarJob:
        # The stored files are named by their content: without a title, a video is called as the voice was.
        titled = {"title": order.title or PurePosixPath(order.names.get(voice, "")).stem}
        addresses = {"portrait": self._address(order.portrait), "voice": self._address(voice)}
        return AvatarJob.model_validate(
            {**addresses, "prompt": order.prompt, "provider": name, **titled, **facts}
        )

    def _address(self, key: str) -> str:
        return f"s3://{self.workspace.store.bucket}/{key}"

    async def _asset(self, key: str) -> Asset:
        stat = await self.workspace.store.stat(key)
        return Asset(key=key, sha256=stat.sha256 or "", size=stat.size, content_type=stat.content_type)

    async def _budget_left(self) -> Decimal | None:
        """US dollars of the day's limit that are neither spent nor set aside; None without a limit."""
        limit = self.workspace.budget.per_day
        if limit is None:
            return None
        return max(
            Decimal(0), limit - total(await self.workspace.budget.claims(f"{datetime.now(UTC):%Y-%m-%d}"))
        )

    async def start(self, request: Request) -> Response:
        """Start the run of an order, if it costs what was shown."""
        fields = await self._form(request)
        order, given = Order.of(fields), dict(fields)
        if not order.complete or given.get("provider") not in set(ProviderName):
            raise InvalidInput("An order needs a portrait, a voice and a provider.")
        offer = await self._offer(order, ProviderName(given["provider"]))
        if offer.fault:
            raise InvalidInput(offer.fault)
        check_price(given, offer.owed)
        once = once_of(given)
        if len(order.voices) == 1:
            job = self._job(order, order.voices[0], offer.provider, max_cost=offer.plans[0].quote.amount)
            run = await self._run(GENERATE, {"job": as_parameters(job)}, once, order.title)
            return self._to(request, f"runs/{run}?job={offer.plans[0].job_id}")
        batch: dict[str, Any] = {
            "portrait": self._address(order.portrait),
            "voices": [self._address(key) for key in order.voices],
            "prompt": order.prompt,
            "provider": offer.provider,
            "max_cost": float(offer.owed),
        }
        run = await self._run(
            BATCH, {"batch": batch | ({"name": order.title} if order.title else {})}, once, order.title
        )
        return self._to(request, f"runs/{run}")

    async def _run(self, deployment: str, parameters: Mapping[str, Any], once: str, name: str = "") -> str:
        """Id of the run that was created, now or by an earlier press of the same button."""
        found = await self._ask("GET", f"/deployments/name/{deployment}")
        if found is None:
            raise NotConfigured(
                f"The Prefect server has no deployment {deployment}. Nothing was started.",
                hint="Run `avatar deploy`.",
            )
        body = {"parameters": parameters, "idempotency_key": f"gallery-{once}", "tags": ["gallery"]}
        made = await self._ask(
            "POST", f"/deployments/{found['id']}/create_flow_run", body | ({"name": name} if name else {})
        )
        return str(made["id"])

    async def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """What Prefect answers. Raises 503 if it does not, with what to do."""
        if not self.api_url:
            raise HTTPException(
                HTTPStatus.SERVICE_UNAVAILABLE, "No Prefect server is configured (PREFECT_API_URL)."
            )
        try:
            if method == "GET":
                return await asyncio.to_thread(prefect_api.read, self.api_url, path)
            return await asyncio.to_thread(prefect_api.ask, self.api_url, path, dict(body or {}))
        except httpx.HTTPError as error:
            code = error.response.status_code if isinstance(error, httpx.HTTPStatusError) else "no answer"
            raise HTTPException(
                HTTPStatus.SERVICE_UNAVAILABLE, f"Prefect could not be asked ({code}). Try again in a moment."
            ) from error

    # A run: how far it is, and the answer it waits for.
    async def watch(self, request: Request) -> Response:
        run = await self._read_run(request)
        job_id = request.query_params.get("job", "")
        video = await find_video(self.workspace, job_id) if re.fullmatch(r"[0-9a-f]{32}", job_id) else None
        state = run.get("state") or {}
        question = await self._question(run)
        facts = {
            "run": run,
            "state": state,
            "video": video,
            "question": question,
            "amount": amount_of(question),
            "progress": await self._progress(run["id"]),
            "refresh": state.get("type") not in FINAL and question is None,
            "prefect": self.run_url(run["id"]),
            "job_id": job_id if video or job_id else "",
        }
        return self._page(request, "run.html", **facts)

    def run_url(self, run_id: str) -> str | None:
        base = prefect_api.PrefectAccess().ui_url or self.api_url.removesuffix("/api")
        return run_page(f"{base.rstrip('/')}/runs/flow-run/{run_id}")

    async def _read_run(self, request: Request) -> Mapping[str, Any]:
        run_id = request.path_params["run_id"]
        run = await self._ask("GET", f"/flow_runs/{run_id}") if _RUN.fullmatch(run_id) else None
        if run is None:
            raise HTTPException(HTTPStatus.NOT_FOUND)
        return dict(run)

    async def _progress(self, run_id: str) -> list[dict[str, Any]]:
        body = {"artifacts": {"flow_run_id": {"any_": [run_id]}, "type": {"any_": ["progress"]}}, "limit": 20}
        return [dict(each) for each in await self._ask("POST", "/artifacts/filter", body)]

    async def _question(self, run: Mapping[str, Any]) -> dict[str, Any] | None:
        """What a waiting run asks: its text, and the form of the answer."""
        state = run.get("state") or {}
        keys = (state.get("state_details") or {}).get("run_input_keyset")
        if state.get("type") != "PAUSED" or not keys:
            return None
        path = f"/flow_runs/{run['id']}/input"
        schema = await self._ask("GET", f"{path}/{keys['schema']}")
        text = await self._ask("GET", f"{path}/{keys['description']}") if keys.get("description") else ""
        return {"schema": schema or {}, "text": text if isinstance(text, str) else json.dumps(text)}

    async def answer(self, request: Request) -> Response:
        """Approve or refuse what a run asks, if it asks for the amount that was shown."""
        fields = dict(await self._form(request))
        run = await self._read_run(request)
        question = await self._question(run)
        if question is None:
            raise HTTPException(HTTPStatus.CONFLICT, "This run does not wait for an answer any more.")
        if fields.get("amount", "") != amount_of(question):
            raise HTTPException(
                HTTPStatus.CONFLICT, "The amount has changed since it was shown. Nothing was approved."
            )
        given = answer_for(question["schema"], approve=fields.get("answer") == "approve")
        await self._ask("POST", f"/flow_runs/{run['id']}/resume", {"run_input": given})
        return self._to(request, f"runs/{run['id']}")

    # Videos that are there.
    async def accept(self, request: Request) -> Response:
        """Publish a rejected video as it is. Costs nothing."""
        await self._form(request)
        video = await read_video(self.workspace.store, request.path_params["job_id"])
        if video.state is VideoState.REJECTED:
            await accept_video(self.workspace, video)
        return self._to(request, f"videos/{video.job_id}")

    async def rename(self, request: Request) -> Response:
        """Give a video another title. Costs nothing."""
        title = " ".join(dict(await self._form(request)).get("title", "").split())[:200]
        video = await read_video(self.workspace.store, request.path_params["job_id"])
        await name_video(self.workspace, video, title=title)
        return self._to(request, f"videos/{video.job_id}")

    async def take_again(self, request: Request) -> Response:
        """Start a run that buys another take, if it costs what was shown."""
        fields = dict(await self._form(request))
        video = await read_video(self.workspace.store, request.path_params["job_id"])
        price = self.price_of_take(video)
        check_price(fields, price)
        take = fields.get("take", "")
        if not take.isdecimal() or not video.take < int(take) <= 9999:  # noqa: PLR2004
            raise InvalidInput("This is no number of a further take.")
        order = Order(video.portrait.source.key, (video.voice.source.key,), prompt=video.prompt)
        facts = {"take": int(take), "max_cost": price, "continuity": video.continuity}
        facts |= {"title": video.title, "language": video.language, "labels": video.labels}
        job = self._job(order, video.voice.source.key, video.provider, **facts)
        return self._to(
            request, f"runs/{await self._run(GENERATE, {'job': as_parameters(job)}, once_of(fields))}"
        )

    def price_of_take(self, video: Video) -> Decimal:
        """US dollars for the same once more, at the price of today."""
        price = self.workspace.provider(video.provider).price_per_second
        return quote_segments(video.segments, provider=video.provider, price_per_second=price).amount

    def player_facts(self, video: Video, takes: Sequence[tuple[int, str]]) -> dict[str, Any]:
        """What the player's page needs for its buttons."""
        number = max([take for take, _ in takes] + [video.take]) + 1
        price = self.price_of_take(video) if video.segments else None
        return {"next_take": number, "take_price": price, "once": secrets.token_urlsafe(16)}

    # What waits for a person.
    async def attention(self, request: Request) -> Response:
        rejected = await self.catalogue.page(Query(state=VideoState.REJECTED))
        journal = self.workspace.journal
        heads = [await journal.head(render_id) for render_id in (await journal.open_renders())[:200]]
        unknown = [head.entry for head in heads if head and head.state is RenderState.UNKNOWN]
        fault, waiting = "", []
        try:
            body = {"flow_runs": {"state": {"type": {"any_": ["PAUSED"]}}}, "limit": 50}
            waiting = await self._ask("POST", "/flow_runs/filter", body)
        except HTTPException as error:
            fault = error.detail
        return self._page(
            request, "attention.html", rejected=rejected, unknown=unknown, waiting=waiting, fault=fault
        )

    async def _form(self, request: Request) -> list[tuple[str, str]]:
        """The fields of a form of ours. Raises 403, 413, 415 or 429."""
        if not request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
            raise HTTPException(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "This is no form of these pages.")
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > LARGEST_FORM:
                raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "This form is too long.")
        fields = parse_qsl(bytes(body).decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=400)
        self.visitors.check(request, dict(fields).get("token", ""))
        self.changes.spend()
        return fields

    def _page(self, request: Request, template: str, **facts: Any) -> Response:
        links = Links(root="../" * (request.url.path.count("/") - 1))
        html = self.pages.render(template, links=links, visitor=self.visitors.token(request), **facts)
        return self.visitors.remember(request, HTMLResponse(html, headers={"cache-control": "no-store"}))

    @staticmethod
    def _to(request: Request, path: str) -> Response:
        """See other, by a relative address: the gallery works below any path."""
        return RedirectResponse("../" * (request.url.path.count("/") - 1) + path, HTTPStatus.SEE_OTHER)


async def _receive(request: Request, path: Path, limit: int) -> None:
    """The body as a file. Raises 413 beyond `limit` bytes."""
    size = 0
    with path.open("wb") as file:
        async for chunk in request.stream():
            size += len(chunk)
            if size > limit:
                raise HTTPException(
                    HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"Files of up to {limit} bytes are taken."
                )
            await asyncio.to_thread(file.write, chunk)
    if not size:
        raise HTTPException(HTTPStatus.BAD_REQUEST, "The file is empty.")

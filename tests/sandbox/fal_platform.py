"""fal's Platform API: requests by endpoint, prices, billing events (fal.ai/docs/platform-apis/v1)."""

import json
from collections.abc import Iterable
from typing import Any

from aiohttp import web

from tests.sandbox.fal import ENDPOINTS, key_of
from tests.sandbox.jobs import COMPLETED, Job, iso
from tests.sandbox.world import World, world_of

MOST = 100


def add_routes(router: web.UrlDispatcher) -> None:
    router.add_get("/v1/models/requests/by-endpoint", history, name="fal.history")
    router.add_get("/v1/models/pricing", pricing, name="fal.pricing")
    router.add_get("/v1/models/billing-events", bills, name="fal.bills")


def invalid(text: str) -> web.HTTPBadRequest:
    body = {"error": {"type": "validation_error", "message": text}}
    return web.HTTPBadRequest(text=json.dumps(body), content_type="application/json")


def asked(request: web.Request, name: str) -> list[str]:
    """1 to 50 values, repeated or parted by commas."""
    values = [value for given in request.query.getall(name, []) for value in given.split(",")]
    if not 1 <= len(values) <= 50:
        raise invalid(f"{name} takes 1 to 50 values")
    return values


def page(request: web.Request, name: str, entries: Iterable[dict[str, Any]]) -> web.Response:
    """The page that `cursor` names, of `limit` entries."""
    limit, start = int(request.query.get("limit", 50)), int(request.query.get("cursor", "0"))
    if not 1 <= limit <= MOST:
        raise invalid("limit is out of range")
    found = list(entries)
    more = start + limit < len(found)
    cursor = str(start + limit) if more else None
    return web.json_response({name: found[start : start + limit], "next_cursor": cursor, "has_more": more})


async def history(request: web.Request) -> web.Response:
    """The account's requests; with their inputs where they are kept and asked for."""
    world, key, endpoints = world_of(request), key_of(request), asked(request, "endpoint_id")
    first, last = request.query.get("start", ""), request.query.get("end", "9999")
    jobs = [
        job
        for job in world.studio.jobs.values()
        if job.key == key
        and job.endpoint in endpoints
        and first <= iso(job.accepted) < last
        and (job.state == COMPLETED or world.options.lists_running)
    ]
    expand = "payloads" in request.query.get("expand", "")
    return page(request, "items", (listed(world, job, expand=expand) for job in reversed(jobs)))


def listed(world: World, job: Job, *, expand: bool) -> dict[str, Any]:
    item: dict[str, Any] = {
        "request_id": job.request_id,
        "endpoint_id": job.endpoint,
        "sent_at": iso(job.accepted),
        "started_at": iso(job.started or job.accepted),
    }
    if job.state == COMPLETED:
        code = job.failure.status if job.failure else 200
        item |= {"ended_at": iso(job.ended or job.accepted), "status_code": code, "duration": job.seconds}
    if expand and job.keeps_payloads and world.options.payloads:
        done = job.state == COMPLETED and job.failure is None
        item |= {"json_input": job.body, "json_output": world.result_body(job) if done else None}
    return item


async def pricing(request: web.Request) -> web.Response:
    """What a unit costs this account; an endpoint that is not known is a 404."""
    world = world_of(request)
    key_of(request)
    names = asked(request, "endpoint_id")
    if not set(names) <= ENDPOINTS.keys():
        text = json.dumps({"error": {"type": "not_found", "message": "Endpoint not found"}})
        raise web.HTTPNotFound(text=text, content_type="application/json")
    prices = (price_of(world, name) for name in names)
    return page(request, "prices", prices)


def price_of(world: World, endpoint: str) -> dict[str, Any]:
    amount = round(ENDPOINTS[endpoint][1] * world.options.price_factor, 6)
    return {"endpoint_id": endpoint, "unit_price": amount, "unit": world.options.unit, "currency": "USD"}


async def bills(request: web.Request) -> web.Response:
    """Per request: units and cost. An ordinary key is a 403."""
    world = world_of(request)
    if request.headers.get("Authorization") != f"Key {world.options.admin_key}":
        key_of(request)
        text = json.dumps({"error": {"type": "authorization_error", "message": "Admin API key required"}})
        raise web.HTTPForbidden(text=text, content_type="application/json")
    ids = asked(request, "request_id")
    ended = (job for job in world.studio.jobs.values() if job.request_id in ids and job.seconds)
    return page(request, "billing_events", (bill_of(world, job) for job in ended))


def bill_of(world: World, job: Job) -> dict[str, Any]:
    price, units = (
        price_of(world, job.endpoint)["unit_price"],
        round(job.seconds * world.options.bill_factor, 3),
    )
    return {
        "request_id": job.request_id,
        "endpoint_id": job.endpoint,
        "timestamp": iso(job.ended or job.accepted),
        "output_units": units,
        "unit_price": price,
        "percent_discount": 0,
        "cost_subtotal": round(units * price, 6),
        "cost_discount": 0,
        "cost_total": round(units * price, 6),
    }

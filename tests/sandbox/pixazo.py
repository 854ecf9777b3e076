"""The Pixazo gateway, both generations of its polling contract ([S-pix] and pixazo.ai/models)."""

import json
import uuid
from typing import Any
from urllib.parse import quote

from aiohttp import web

from tests.sandbox.behaviours import fate_of
from tests.sandbox.jobs import COMPLETED, IN_PROGRESS, IN_QUEUE, Job, iso
from tests.sandbox.world import World, world_of

MODEL = "kling-ai-avatar-v2-pro-789"
#: Paths of products of one wire. The second is the stand-in's own: no page of such a product is known.
PRODUCTS = (
    f"{MODEL}/v1/kling-ai-avatar-v2-pro-request",
    "kling-ai-avatar-v2-standard-790/v1/kling-ai-avatar-v2-standard-request",
)
BASE = f"/{{product:{'|'.join(PRODUCTS)}}}"
ERRORS = {
    400: "Invalid request parameters",
    401: "Invalid or missing authentication",
    404: "Endpoint not found",
}
V2_WORDS = {IN_QUEUE: "QUEUED", IN_PROGRESS: "PROCESSING", COMPLETED: "COMPLETED"}


def add_routes(router: web.UrlDispatcher) -> None:
    router.add_post(BASE, submit, name="pixazo.submit")
    router.add_post(BASE + "-result", poll_v1, name="pixazo.result_v1")
    router.add_get("/v2/requests/status/{request_id}", poll_v2, name="pixazo.status_v2")


def refuse(status: int) -> web.HTTPException:
    """The page's error for a status: `{"error": "…"}`."""
    kinds = {400: web.HTTPBadRequest, 401: web.HTTPUnauthorized, 404: web.HTTPNotFound}
    return kinds[status](text=json.dumps({"error": ERRORS[status]}), content_type="application/json")


def key_of(request: web.Request) -> str:
    key = request.headers.get("Ocp-Apim-Subscription-Key", "")
    if not world_of(request).knows(key):
        raise refuse(401)
    return key


async def read_object(request: web.Request, *required: str) -> dict[str, Any]:
    """The body of a POST; the headers the page calls "must" are insisted on."""
    plain = request.content_type == "application/json" and request.headers.get("Cache-Control") == "no-cache"
    try:
        body = await request.json()
    except ValueError:
        body = None
    if (
        not plain
        or not isinstance(body, dict)
        or not all(isinstance(body.get(name), str) for name in required)
    ):
        raise refuse(400)
    return body


def job_of(request: web.Request, request_id: str, key: str, generation: str) -> Job:
    job = world_of(request).studio.jobs.get(request_id)
    product = request.match_info.get("product")
    if job is None or product not in {None, job.endpoint}:
        raise refuse(404)
    if job.key != key or job.generation != generation:
        raise refuse(404)
    return job


async def submit(request: web.Request) -> web.Response:
    world, key = world_of(request), key_of(request)
    body = await read_object(request, "image_url", "audio_url")
    fate, generation = fate_of(request), world.options.pixazo_generation
    prefix = "" if generation == "v1" else MODEL + "_"
    job = Job(
        provider="pixazo",
        generation=generation,
        endpoint=request.match_info["product"],
        request_id=fate.request_id or prefix + str(uuid.uuid4()),
        key=key,
        body=body,
        webhook=request.headers.get("X-Webhook-URL"),
        fate=fate,
    )
    world.studio.accept(job)
    if generation == "v1":
        foreign = (
            f"{world.foreign_url}/kling-ai-avatar-v2-pro-request-result"  # never to be called with a key
        )
        return web.json_response({"status": IN_QUEUE, "request_id": job.request_id, "response_url": foreign})
    polling = f"{world.base_url}/v2/requests/status/{quote(job.request_id, safe='')}"
    receipt = {"request_id": job.request_id, "status": "QUEUED", "polling_url": polling}
    return web.json_response(receipt, status=world.options.v2_submit_status)


async def poll_v1(request: web.Request) -> web.Response:
    key = key_of(request)
    body = await read_object(request, "request_id")
    job = job_of(request, body["request_id"], key, "v1")
    return web.json_response(look_v1(world_of(request), job))


def look_v1(world: World, job: Job) -> dict[str, Any]:
    body: dict[str, Any] = {"status": job.state, "request_id": job.request_id}
    if job.state == IN_PROGRESS:
        left = round((1 - job.progress) * job.render_seconds)
        return body | {"estimated_completion_time": left, "progress_percent": int(100 * job.progress)}
    if job.state == IN_QUEUE:
        return body
    if job.failure is not None:
        return body | failed(job)
    width, height = job.size
    facts = {"width": width, "height": height, "duration": job.seconds, "content_type": "video/mp4"}
    return body | {"video": {"url": world.media_url(job)} | facts}


async def poll_v2(request: web.Request) -> web.Response:
    job = job_of(request, request.match_info["request_id"], key_of(request), "v2")
    return web.json_response(look_v2(world_of(request), job))


def look_v2(world: World, job: Job) -> dict[str, Any]:
    times = {"created_at": iso(job.accepted), "completed_at": iso(job.ended) if job.ended else None}
    body = {"request_id": job.request_id, "status": V2_WORDS[job.state], "output": None} | times
    if job.state != COMPLETED:
        return body
    if job.failure is not None:
        return body | failed(job)
    return body | {"output": {"media_url": [world.media_url(job)], "media_type": "video/mp4"}}


def failed(job: Job) -> dict[str, Any]:
    """The page says "check error message" and names no field: which one is chosen by the job's fate."""
    assert job.failure is not None
    return {"status": job.failure.word, job.failure.name: job.failure.message}

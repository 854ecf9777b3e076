"""fal's queue API (fal.ai/docs … inference/queue.md, errors.md, common-parameters.md)."""

import asyncio
import json
import uuid
from typing import Any
from urllib.parse import quote

from aiohttp import web

from tests.sandbox.behaviours import fate_of
from tests.sandbox.jobs import COMPLETED, IN_PROGRESS, IN_QUEUE, Job
from tests.sandbox.transport import cut
from tests.sandbox.world import World, world_of

#: Endpoints of the same wire: their owner and app, which all other addresses begin with, and US dollars a second.
ENDPOINTS = {
    "fal-ai/kling-video/ai-avatar/v2/pro": ("fal-ai/kling-video", 0.115),
    "fal-ai/kling-video/ai-avatar/v2/standard": ("fal-ai/kling-video", 0.0562),
    "fal-ai/bytedance/omnihuman/v1.5": ("fal-ai/bytedance", 0.16),
    "veed/fabric-1.0": ("veed/fabric-1.0", 0.15),
}
SUBMIT = f"/{{endpoint:{'|'.join(ENDPOINTS)}}}"
#: queue.md's example has the whole endpoint where its own rule has owner and app.
REQUESTS = f"/{{app:{'|'.join(dict.fromkeys((*(app for app, _ in ENDPOINTS.values()), *ENDPOINTS)))}}}/requests/{{request_id}}"
KEEP_ALIVE = 15.0  # seconds between comments on a quiet stream; fal's own is not documented


def add_routes(router: web.UrlDispatcher) -> None:
    router.add_post(SUBMIT, submit, name="fal.submit")
    router.add_get(REQUESTS + "/status", status, name="fal.status")
    router.add_get(REQUESTS + "/status/stream", stream, name="fal.stream")
    router.add_get(REQUESTS, result, name="fal.result")
    router.add_get(REQUESTS + "/response", result, name="fal.result.suffix")
    router.add_put(REQUESTS + "/cancel", cancel, name="fal.cancel")


def key_of(request: web.Request) -> str:
    """The key of `Authorization: Key …`; raises 401 as fal does."""
    scheme, _, key = request.headers.get("Authorization", "").partition(" ")
    if scheme != "Key" or not world_of(request).knows(key):
        text = json.dumps({"detail": "Authentication is required to access this application."})
        raise web.HTTPUnauthorized(text=text, content_type="application/json")
    return key


def job_of(request: web.Request) -> Job:
    """The job asked for; raises 404 for one that is unknown or another account's."""
    key = key_of(request)
    job = world_of(request).studio.jobs.get(request.match_info["request_id"])
    asked = request.match_info["app"]
    if job is None or job.key != key or asked not in {job.endpoint, *ENDPOINTS.get(job.endpoint, ())[:1]}:
        raise web.HTTPNotFound(text=json.dumps({"status": "NOT_FOUND"}), content_type="application/json")
    return job


def urls(world: World, job: Job) -> dict[str, str]:
    base = f"{world.base_url}/{ENDPOINTS[job.endpoint][0]}/requests/{quote(job.request_id, safe='')}"
    return {"response_url": base, "status_url": base + "/status", "cancel_url": base + "/cancel"}


async def read_object(request: web.Request) -> dict[str, Any]:
    try:
        body = await request.json()
    except ValueError:
        body = None
    if not isinstance(body, dict):
        text = json.dumps({"detail": "Request body must be a JSON object", "error_type": "bad_request"})
        raise web.HTTPBadRequest(
            text=text, content_type="application/json", headers={"X-Fal-Error-Type": "bad_request"}
        )
    return body


async def submit(request: web.Request) -> web.Response:
    world, key = world_of(request), key_of(request)
    body = await read_object(request)
    longest = request.query.get("fal_max_queue_length")
    if longest is not None and world.studio.queued(key) > int(longest):
        return web.json_response({"detail": "Queue is too long"}, status=429)
    fate, told = fate_of(request), request.headers
    # The second name is deprecated for the first.
    within = told.get("X-Fal-Request-Start-Timeout") or told.get("X-Fal-Request-Timeout")
    job = Job(
        provider="fal",
        generation="fal",
        endpoint=request.match_info["endpoint"],
        keeps_payloads=told.get("X-Fal-Store-IO") != "0",
        request_id=fate.request_id or str(uuid.uuid4()),
        key=key,
        body=body,
        tag=request.headers.get("X-Fal-Tags"),
        webhook=request.query.get("fal_webhook"),
        start_within=float(within) if within else None,
        fate=fate,
    )
    world.studio.accept(job)
    receipt: dict[str, Any] = {"request_id": job.request_id, "gateway_request_id": job.request_id} | urls(
        world, job
    )
    receipt |= {"status": IN_QUEUE, "queue_position": world.studio.position(job), "logs": None, "metrics": {}}
    return web.json_response(receipt, headers=identity(job))


def identity(job: Job) -> dict[str, str]:
    """fal names the request in every answer; an odd id is escaped, as a header cannot hold it."""
    return {"x-fal-request-id": quote(job.request_id, safe="-")[:200]}


def look(world: World, job: Job, *, logs: bool) -> dict[str, Any]:
    """The status body: three words only, and a failure is COMPLETED with an error."""
    body: dict[str, Any] = {"status": job.state, "request_id": job.request_id} | urls(world, job)
    if job.state == IN_QUEUE:
        return body | {"queue_position": world.studio.position(job)}
    body["logs"] = job.logs() if logs else None
    if job.state == IN_PROGRESS:
        return body
    body["metrics"] = {"inference_time": round((job.ended or 0) - (job.started or job.accepted), 3)}
    if job.failure is not None:
        body |= {"error": job.failure.message, "error_type": job.failure.kind}
    return body


def wants_logs(request: web.Request) -> bool:
    return request.query.get("logs", "").lower() in {"1", "true"}


async def status(request: web.Request) -> web.Response:
    job = job_of(request)
    body = look(world_of(request), job, logs=wants_logs(request))
    return web.json_response(body, status=200 if job.state == COMPLETED else 202, headers=identity(job))


async def stream(request: web.Request) -> web.StreamResponse:
    """Server-sent events: the status whenever it changes, until COMPLETED."""
    world, job = world_of(request), job_of(request)
    answer = web.StreamResponse(
        headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"} | identity(job)
    )
    await answer.prepare(request)
    last, quiet, ended = "", 0.0, world.ended
    while not ended.is_set():
        changed, text = job.changed, json.dumps(look(world, job, logs=wants_logs(request)))
        quiet = 0.0 if text != last else quiet + 1
        if text != last:
            await answer.write(f"data: {text}\n\n".encode())
            if one_less(request) == 0:
                return answer if request["ends_cleanly"] else cut(request, answer)
        elif quiet >= KEEP_ALIVE:
            await answer.write(b": ping\n\n")
            quiet = 0.0
        if job.state == COMPLETED:
            return answer
        last = text
        await first_of(changed, ended)
    return cut(request, answer)


def one_less(request: web.Request) -> int:
    """How many more events a spoilt stream may send; an honest one has no end of them."""
    request["events_left"] = left = request.get("events_left", 0) - 1
    return int(left)


async def first_of(*events: asyncio.Event) -> None:
    """Wait until one is set, at most a second: queue positions and logs change without an event."""
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    await asyncio.wait(waits, timeout=1.0, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()


async def result(request: web.Request) -> web.Response:
    """The model's own answer, with its own status code."""
    world, job = world_of(request), job_of(request)
    if job.state != COMPLETED:  # not documented; seen in public code as a 400
        return web.json_response(
            {"detail": "Request is still in progress"}, status=400, headers=identity(job)
        )
    if job.failure is not None:
        headers = identity(job) | job.failure.headers
        return web.json_response(job.failure.body, status=job.failure.status, headers=headers)
    headers = identity(job) | {"X-Fal-Billable-Units": f"{job.seconds:.3f}"}
    return web.json_response(world.result_body(job), headers=headers)


async def cancel(request: web.Request) -> web.Response:
    """Queued: removed, 200. Running: a signal, 202. Ended: 400."""
    world, job = world_of(request), job_of(request)
    if job.state == COMPLETED:
        return web.json_response({"status": "ALREADY_COMPLETED"}, status=400, headers=identity(job))
    was_queued = job.state == IN_QUEUE
    world.studio.cancel(job)
    if was_queued:
        return web.json_response({"success": True}, headers=identity(job))
    return web.json_response({"status": "CANCELLATION_REQUESTED"}, status=202, headers=identity(job))

"""An answer, but not the one hoped for.

All take `status`, `body`, `headers`, `content_type` to override theirs, and `accept` (default false): with true
the request is accepted, and paid for, before it is answered so.
"""

import json
from functools import partial
from typing import Any

from aiohttp import web

from tests.sandbox.call import Call, Misdeed

JSON, HTML = "application/json", "text/html"


def nginx(status: int, reason: str) -> str:
    """The page of a proxy in between."""
    return (
        f"<html>\r\n<head><title>{status} {reason}</title></head>\r\n<body>\r\n"
        f"<center><h1>{status} {reason}</h1></center>\r\n<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n"
    )


def said(call: Call, text: str) -> dict[str, Any]:
    """An error text where the provider puts it."""
    return {"error": text} if call.is_pixazo else {"detail": text}


async def answer(
    call: Call, *, status: int = 500, text: str = "", body: Any = None, content_type: str = JSON
) -> web.StreamResponse:
    """Answer with status=500, body (text or JSON), headers, content_type; accept=true to accept it first."""
    if call.args.get("accept", False):
        await call.honest()
    args = call.args
    given = args.get("body", body if body is not None else said(call, text) if content_type == JSON else text)
    return web.Response(
        text=given if isinstance(given, str) else json.dumps(given),
        status=args.get("status", status),
        headers=args.get("headers"),
        content_type=args.get("content_type", content_type),
    )


def proxied(status: int, reason: str) -> Misdeed:
    """An nginx error page."""
    return partial(answer, status=status, body=nginx(status, reason), content_type=HTML)


async def rate_limited(call: Call) -> web.StreamResponse:
    """429, with Retry-After if retry_after is given."""
    refusal = await answer(call, status=429, text="Rate limit exceeded, please retry later")
    if "retry_after" in call.args:
        refusal.headers["Retry-After"] = str(call.args["retry_after"])
    return refusal


async def unprocessable(call: Call) -> web.StreamResponse:
    """422 with fal's `detail` list of kind=content_policy_violation."""
    kind = call.args.get("kind", "content_policy_violation")
    entry = {"loc": ["body", "image_url"], "msg": "The content was refused", "type": kind}
    return await answer(call, status=422, body={"detail": [entry]})


async def unknown(call: Call) -> web.StreamResponse:
    """404 in the provider's words, as for an id it does not know (yet)."""
    words = {"error": "Endpoint not found"} if call.is_pixazo else {"status": "NOT_FOUND"}
    return await answer(call, status=404, body=words)


async def redirect(call: Call) -> web.StreamResponse:
    """Redirect with status=302 to location, or to the same path on the foreign host."""
    if call.args.get("accept", False):
        await call.honest()
    location = call.args.get("location", call.world.foreign_url + call.request.raw_path)
    return web.Response(status=call.args.get("status", 302), headers={"Location": location})


async def alter(call: Call) -> web.StreamResponse:
    """The honest answer, with top-level fields `set` or `remove`d, and status_code if given."""
    honest = await call.honest()
    body = json.loads(bytes(getattr(honest, "body", b"") or b"{}"))
    body = {name: value for name, value in body.items() if name not in call.args.get("remove", ())}
    headers = {name: value for name, value in honest.headers.items() if not name.startswith("Content-")}
    status = call.args.get("status_code", honest.status)
    return web.json_response(body | call.args.get("set", {}), status=status, headers=headers)


async def unknown_word(call: Call) -> web.StreamResponse:
    """The honest answer under the status word=DREAMING."""
    return await alter(call.having(set={"status": call.args.get("word", "DREAMING")}))


async def missing_fields(call: Call) -> web.StreamResponse:
    """The honest answer without fields=[queue_position, logs, metrics]."""
    return await alter(call.having(remove=call.args.get("fields", ["queue_position", "logs", "metrics"])))


async def no_request_id(call: Call) -> web.StreamResponse:
    """Accepted, and paid for, but the answer names no request."""
    return await alter(call.having(remove=["request_id", "gateway_request_id"]))


async def foreign_urls(call: Call) -> web.StreamResponse:
    """The honest answer with every *_url of it on the foreign host."""
    honest = await call.honest()
    body = json.loads(bytes(getattr(honest, "body", b"") or b"{}"))
    world = call.world
    swapped = {
        name: value.replace(world.base_url, world.foreign_url)
        for name, value in body.items()
        if name.endswith("_url") and isinstance(value, str)
    }
    return web.json_response(body | swapped, status=honest.status)


DEEDS: dict[str, Misdeed] = {
    "answer": answer,
    "rate_limited": rate_limited,
    "server_error": partial(answer, status=500, text="An unexpected error occurred, please try again later"),
    "bad_gateway": proxied(502, "Bad Gateway"),
    "unavailable": proxied(503, "Service Temporarily Unavailable"),
    "gateway_timeout": proxied(504, "Gateway Time-out"),
    "html": partial(answer, status=200, body="<html><body>Please log in</body></html>", content_type=HTML),
    "nonsense": partial(answer, status=200, body='{"status": "COMPL'),
    "not_an_object": partial(answer, status=200, body=["unexpected"]),
    "empty": partial(answer, status=200, body=""),
    "unprocessable": unprocessable,
    "bad_request": partial(answer, status=400, text="Invalid request parameters"),
    "unauthorized": partial(answer, status=401, text="Invalid or missing authentication"),
    "payment_required": partial(answer, status=402, text="Insufficient Balance"),
    "forbidden": partial(answer, status=403, text="Access denied for this operation"),
    "conflict": partial(answer, status=409, text="Conflict"),
    "gone": partial(answer, status=410, text="Expired"),
    "success_false": partial(answer, status=200, body={"success": False, "error": "Something went wrong"}),
    "apim": partial(
        answer, status=401, body={"statusCode": 401, "message": "Access denied due to invalid key"}
    ),
    "unknown": unknown,
    "redirect": redirect,
    "alter": alter,
    "unknown_word": unknown_word,
    "missing_fields": missing_fields,
    "no_request_id": no_request_id,
    "foreign_urls": foreign_urls,
}

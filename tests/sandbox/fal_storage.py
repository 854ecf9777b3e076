"""fal's storage API: a short-lived token and one POST, or a presigned PUT ([src] fal_client `upload`)."""

import json
import time
import uuid

from aiohttp import web

from tests.sandbox.fal import key_of, read_object
from tests.sandbox.world import world_of

TOKEN_SECONDS = 3600


def add_routes(router: web.UrlDispatcher) -> None:
    router.add_post("/storage/auth/token", token, name="fal.upload_token")
    router.add_post("/files/upload", upload, name="fal.upload_file")
    router.add_post("/storage/upload/initiate", initiate, name="fal.upload_initiate")
    router.add_put("/storage/put/{file_id}/{name}", put, name="fal.upload_put")
    router.add_get("/files/b/{file_id}/{name}", uploaded, name="fal.uploaded")
    router.add_get("/.well-known/jwks.json", jwks, name="fal.jwks")


async def token(request: web.Request) -> web.Response:
    world = world_of(request)
    key_of(request)
    if request.query.get("storage_type") != "fal-cdn-v3":
        return web.json_response({"detail": "Unknown storage type"}, status=422)
    secret = uuid.uuid4().hex
    world.tokens.add(secret)
    expires = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(time.time() + TOKEN_SECONDS))
    return web.json_response(
        {"token": secret, "token_type": "Bearer", "base_url": world.base_url, "expires_at": expires}
    )


async def upload(request: web.Request) -> web.Response:
    scheme, _, secret = request.headers.get("Authorization", "").partition(" ")
    if scheme != "Bearer" or secret not in world_of(request).tokens:
        text = json.dumps({"detail": "Invalid token"})
        raise web.HTTPUnauthorized(text=text, content_type="application/json")
    name = request.headers.get("X-Fal-File-Name", "upload.bin")
    return web.json_response({"access_url": keep(request, uuid.uuid4().hex, name, await request.read())})


async def initiate(request: web.Request) -> web.Response:
    key_of(request)
    body = await read_object(request)
    base, place = world_of(request).base_url, f"{uuid.uuid4().hex}/{body['file_name']}"
    return web.json_response(
        {"upload_url": f"{base}/storage/put/{place}", "file_url": f"{base}/files/b/{place}"}
    )


async def put(request: web.Request) -> web.Response:
    keep(request, request.match_info["file_id"], request.match_info["name"], await request.read())
    return web.Response()


def keep(request: web.Request, file_id: str, name: str, data: bytes) -> str:
    """Store an upload and record it; returns its public URL."""
    world = world_of(request)
    url = f"{world.base_url}/files/b/{file_id}/{name}"
    world.uploads[f"{file_id}/{name}"] = data, request.content_type
    lifecycle = request.headers.get("X-Fal-Object-Lifecycle")
    facts = {
        "url": url,
        "name": name,
        "size": len(data),
        "content_type": request.content_type,
        "lifecycle": lifecycle,
    }
    world.ledger.uploads.append(facts)
    return url


async def uploaded(request: web.Request) -> web.Response:
    """What was uploaded, public as fal's is by default."""
    kept = world_of(request).uploads.get("{file_id}/{name}".format(**request.match_info))
    if kept is None:
        raise web.HTTPNotFound
    return web.Response(body=kept[0], content_type=kept[1])


async def jwks(request: web.Request) -> web.Response:
    return web.json_response(world_of(request).herald.jwks())

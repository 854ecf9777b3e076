"""A stand-in for fal as the one who signs webhooks: it publishes keys, and signs with one of them."""

import base64
import hashlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

BODY = b'{"request_id": "r-1", "gateway_request_id": "r-2", "status": "OK", "payload": {"video": {}}}'
NAMES = ("Request-Id", "User-Id", "Timestamp", "Signature")


class SigningFal:
    """Its time of day is fixed, if one is given."""

    def __init__(self, now: int | None = None) -> None:
        self.now, self.url = now, ""
        self.signing = [Ed25519PrivateKey.generate()]
        self.fetches, self.status = 0, 200
        self.document: Any = None

    def published(self) -> dict[str, Any]:
        raw = [key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw) for key in self.signing]
        keys = [base64.urlsafe_b64encode(each).decode().rstrip("=") for each in raw]
        return {"keys": [{"kty": "OKP", "crv": "Ed25519", "x": x} for x in keys]}

    async def answer(self, _: web.Request) -> web.Response:
        self.fetches += 1
        return web.json_response(self.document or self.published(), status=self.status)

    def deliver(
        self,
        body: bytes = BODY,
        *,
        at: int | None = None,
        key: Ed25519PrivateKey | None = None,
        **changed: str,
    ) -> dict[str, str]:
        """The headers of a delivery, some of them changed after they were signed."""
        stamp = str(at or self.now or int(time.time()))
        message = "\n".join(["r-1", "user", stamp, hashlib.sha256(body).hexdigest()])
        signature = (key or self.signing[0]).sign(message.encode()).hex()
        headers = dict(zip(NAMES, ["r-1", "user", stamp, signature], strict=True)) | changed
        return {f"x-fal-webhook-{name.lower()}": value for name, value in headers.items()}


@asynccontextmanager
async def publishing(fal: SigningFal) -> AsyncIterator[None]:
    """Have its keys at `fal.url`."""
    app = web.Application()
    app.router.add_get("/jwks.json", fal.answer)
    async with TestServer(app) as server:
        fal.url = str(server.make_url("/jwks.json"))
        yield

"""Completion webhooks, as fal documents them (fal.ai/docs … inference/webhooks.md)."""

import asyncio
import base64
import json
import time
from collections.abc import Callable
from typing import Any

import aiohttp
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.sandbox.jobs import Job, digest

USER_ID = "sandbox-user"
ATTEMPTS = 3


class Herald:
    """Delivers and signs webhooks: Ed25519 over request id, user id, timestamp and body hash."""

    def __init__(self, session: aiohttp.ClientSession, payload: Callable[[Job], Any]) -> None:
        self.deliveries: list[dict[str, Any]] = []
        self._session, self._payload = session, payload
        self.rotate()

    def rotate(self) -> None:
        """Sign with a new key from now on; the old one is published no more."""
        self._private = Ed25519PrivateKey.generate()

    async def tell(self, job: Job) -> None:
        """POST the outcome to the job's webhook; tried again a few times when not answered with 2xx."""
        body = json.dumps(self.message(job)).encode()
        for attempt in range(ATTEMPTS):
            status = await self._deliver(job, body)
            self.deliveries.append({"request_id": job.request_id, "url": job.webhook, "status": status})
            if status is not None and status < 400:
                return
            await asyncio.sleep(0.2 * 2**attempt)

    def message(self, job: Job) -> dict[str, Any]:
        base = {"request_id": job.request_id, "gateway_request_id": job.request_id}
        if job.failure is None:
            return base | {"status": "OK", "payload": self._payload(job)}
        return base | {
            "status": "ERROR",
            "error": f"Invalid status code: {job.failure.status}",
            "payload": job.failure.body or None,
        }

    def sign(self, request_id: str, body: bytes) -> dict[str, str]:
        stamp = str(int(time.time()))
        message = "\n".join([request_id, USER_ID, stamp, digest(body)]).encode()
        return {
            "X-Fal-Webhook-Request-Id": request_id,
            "X-Fal-Webhook-User-Id": USER_ID,
            "X-Fal-Webhook-Timestamp": stamp,
            "X-Fal-Webhook-Signature": self._private.sign(message).hex(),
        }

    def jwks(self) -> dict[str, Any]:
        """The public key as `/.well-known/jwks.json`; `x` is base64url without padding."""
        raw = self._private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        x = base64.urlsafe_b64encode(raw).decode().rstrip("=")
        return {"keys": [{"kty": "OKP", "crv": "Ed25519", "x": x}]}

    async def _deliver(self, job: Job, body: bytes) -> int | None:
        headers = {"Content-Type": "application/json"}
        if job.provider == "fal":  # Pixazo documents no signature
            headers |= self.sign(job.request_id, body)
        try:
            async with self._session.post(
                str(job.webhook),
                data=body,
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=15),
                allow_redirects=False,
            ) as answer:
                return answer.status
        except (aiohttp.ClientError, TimeoutError, ValueError):
            return None

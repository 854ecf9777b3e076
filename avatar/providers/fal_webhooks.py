"""Who sent a webhook that says it is fal's: Ed25519 over the raw body, with the keys that fal publishes.

Source: docs.fal.ai, page documentation/model-apis/inference/webhooks (read 2026-11): four headers; the message is
request id, user id, timestamp and the hex SHA-256 of the raw body, joined by line feeds; the signature is hex; the
keys are at a JWKS address, their `x` base64url without padding, to be kept for 24 hours at most; the timestamp may be
5 minutes off; any of the keys may have signed.
"""

import asyncio
import base64
import binascii
import hashlib
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

import httpx
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from avatar.errors import ProviderUnavailable
from avatar.providers.answers import parse_object
from avatar.providers.wire import FREE_CALL_SECONDS, Exchange, new_client
from avatar.stored_models import ProviderName

log = logging.getLogger("avatar.webhooks")

HEADERS = tuple(f"x-fal-webhook-{name}" for name in ("request-id", "user-id", "timestamp", "signature"))
#: Seconds by which a delivery's timestamp may be off.
TOLERANCE = 300
#: Seconds for which fetched keys are used.
KEEP_KEYS = 24 * 3600.0
#: Shortest time between two fetches of the keys, in seconds, whatever comes in: forged deliveries must not become
#: requests to fal. A new key of fal's is noticed this late at worst, and fal delivers again.
FETCH_PAUSE = 60.0
#: Keys believed to be in use at the same time.
MOST_KEYS = 32
_SIGNATURE_HEX = 128
_KEY_BYTES = 32
_LONGEST_HEADER = 512
_LONGEST_TIMESTAMP = 12


class FalSignatures:
    """Verifies deliveries. The keys are fetched when they are first needed.

    Args:
        jwks_url: where fal publishes its keys.
        wall: the time of day in seconds, for the timestamps of deliveries.
        clock: seconds that only go forward, for the age of the keys.
    """

    def __init__(
        self,
        jwks_url: str,
        *,
        wall: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._url, self._wall, self._clock = jwks_url, wall, clock
        self._keys: tuple[Ed25519PublicKey, ...] = ()
        self._fetched_at: float | None = None
        self._tried_at: float | None = None
        self._fetching = asyncio.Lock()

    async def accepts(self, headers: Mapping[str, str], body: bytes) -> bool:
        """Whether fal signed `body` within the last five minutes.

        Raises:
            ProviderUnavailable: there are no keys to verify with, and none could be fetched now.
        """
        signed = self._read(headers, body)
        if signed is None:
            return False
        message, signature = signed
        seen = self._tried_at
        if self._is_stale():
            await self._fetch(seen)
        if self._is_stale():
            raise ProviderUnavailable("fal's webhook keys could not be fetched.", provider=ProviderName.FAL)
        if self._verifies(message, signature):
            return True
        # The keys may have changed since: once, and not before the pause is over.
        return await self._fetch(seen) and self._verifies(message, signature)

    def _read(self, headers: Mapping[str, str], body: bytes) -> tuple[bytes, bytes] | None:
        """What was signed, and the signature; None for headers that no delivery of fal's has."""
        request_id, user_id, stamp, signature = (headers.get(name, "") for name in HEADERS)
        plain = all(0 < len(value) <= _LONGEST_HEADER for value in (request_id, user_id, stamp))
        if not plain or len(signature) != _SIGNATURE_HEX or not self._is_recent(stamp):
            return None
        try:
            raw = binascii.unhexlify(signature)
        except ValueError:
            return None
        digest = hashlib.sha256(body).hexdigest()
        return f"{request_id}\n{user_id}\n{stamp}\n{digest}".encode(), raw

    def _is_recent(self, stamp: str) -> bool:
        whole = stamp.isascii() and stamp.isdigit() and len(stamp) <= _LONGEST_TIMESTAMP
        return whole and abs(int(stamp) - self._wall()) <= TOLERANCE

    def _is_stale(self) -> bool:
        return self._fetched_at is None or self._clock() - self._fetched_at > KEEP_KEYS

    def _verifies(self, message: bytes, signature: bytes) -> bool:
        for key in self._keys:
            try:
                key.verify(signature, message)
            except InvalidSignature:
                continue
            return True
        return False

    async def _fetch(self, seen: float | None) -> bool:
        """Fetch the keys anew, unless the last try was just now. True if they are newer than the try `seen`."""
        async with self._fetching:
            if self._tried_at != seen:  # another delivery fetched them while this one waited
                return self._fetched_at == self._tried_at
            if seen is not None and self._clock() - seen < FETCH_PAUSE:
                return False
            self._tried_at = self._clock()
            keys = await _fetch_keys(self._url)
            if keys is None:
                return False
            self._keys, self._fetched_at = keys, self._tried_at
            return True


async def _fetch_keys(url: str) -> tuple[Ed25519PublicKey, ...] | None:
    exchange = Exchange()
    try:
        async with asyncio.timeout(FREE_CALL_SECONDS / 3), new_client() as client:
            await exchange.run(client, "GET", url)
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        why = (
            "the certificate does not prove the name" if "certificate" in str(error) else type(error).__name__
        )
        log.warning("fal's webhook keys could not be fetched: %s.", why)
        return None
    keys = read_keys(exchange.object) if exchange.ok else ()
    if not keys:
        log.warning("fal's webhook keys could not be fetched: %s without keys.", exchange.status)
    return keys or None


def read_keys(jwks: Mapping[str, Any] | None) -> tuple[Ed25519PublicKey, ...]:
    """The Ed25519 keys of a JWKS document; what is none is left out."""
    listed = (jwks or {}).get("keys")
    found = (_read_key(each) for each in (listed[:MOST_KEYS] if isinstance(listed, list) else ()))
    return tuple(key for key in found if key is not None)


def _read_key(entry: Any) -> Ed25519PublicKey | None:
    x = entry.get("x") if isinstance(entry, dict) else None
    if not isinstance(x, str) or entry.get("crv", "Ed25519") != "Ed25519":
        return None
    try:
        raw = base64.b64decode(x.rstrip("=") + "=" * (-len(x.rstrip("=")) % 4), altchars=b"-_", validate=True)
        return Ed25519PublicKey.from_public_bytes(raw) if len(raw) == _KEY_BYTES else None
    except ValueError:
        return None


def delivered_id(body: bytes) -> Any:
    """The request id that a delivery of fal's names, whatever it is; None if it names none.

    `request_id` is the queue's; `gateway_request_id` differs from it after a retry of fal's own.
    """
    return (parse_object(body) or {}).get("request_id")

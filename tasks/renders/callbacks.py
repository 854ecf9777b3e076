"""The addresses that providers are asked to call when a render has ended, each good for one request of one render.

An address carries the render, the attempt and a MAC over both. The MAC is a capability: whoever knows the address may
bring a hint for that one request, and nothing else. It reaches the provider and nobody else: no log, no journal.
"""

import hashlib
import hmac
import json
import re
import secrets
from dataclasses import dataclass, replace

from tasks.errors import NotConfigured
from tasks.models import ProviderName
from tasks.providers.base import RenderInputs
from tasks.settings import BridgeSettings
from tasks.storage.journal import Entry
from tasks.storage.store import Store

#: Where the secret is kept when the settings name none.
SECRET_KEY = "bridge/secret.json"  # noqa: S105 - an object's name
#: Hex digits of the MAC that are kept: 160 bits.
MAC_DIGITS = 40
_SECRET_BYTES = 32
_RENDER_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class Asked:
    """The one request of a render that an address stands for."""

    provider: ProviderName
    render_id: str
    attempt: int


class Callbacks:
    """Makes such addresses and knows its own again."""

    def __init__(self, secret: bytes, public_url: str | None) -> None:
        self._secret = secret
        self._base = public_url.rstrip("/") if public_url else None

    def with_address(self, inputs: RenderInputs, intent: Entry) -> RenderInputs:
        """`inputs` with the address for the request that `intent` announces. Makes no call."""
        asked = Asked(intent.provider, intent.render_id, intent.attempt)
        return replace(inputs, webhook_url=f"{self._base}{path_of(asked)}/{self._mac(asked)}")

    def verified(self, provider: str, render_id: str, attempt: str, mac: str) -> Asked | None:
        """What the parts of an address stand for; None if they are not of one that was made here."""
        known = provider in set(ProviderName) and _RENDER_ID.fullmatch(render_id)
        if not known or not re.fullmatch(r"[1-9][0-9]{0,5}", attempt):
            return None
        asked = Asked(ProviderName(provider), render_id, int(attempt))
        same = hmac.compare_digest(self._mac(asked).encode(), mac.encode("utf-8", "replace"))
        return asked if same else None

    def _mac(self, asked: Asked) -> str:
        message = f"avatar webhook\n{asked.provider}\n{asked.render_id}\n{asked.attempt}"
        return hmac.new(self._secret, message.encode(), hashlib.sha256).hexdigest()[:MAC_DIGITS]


def path_of(asked: Asked) -> str:
    """The path of an address up to its MAC."""
    return f"/webhooks/{asked.provider}/{asked.render_id}/{asked.attempt}"


async def open_callbacks(settings: BridgeSettings, store: Store) -> Callbacks:
    """The maker of addresses, with the secret of the settings or of the store, which is made there if it is missing.

    Raises:
        StoreUnavailable: the store could not be asked.
        NotConfigured: the secret in the store cannot be read.
    """
    given = settings.secret.get_secret_value().encode() if settings.secret else await _kept_secret(store)
    return Callbacks(given, str(settings.public_url) if settings.public_url else None)


async def _kept_secret(store: Store) -> bytes:
    if await store.exists(SECRET_KEY) is None:
        made = json.dumps({"secret": secrets.token_hex(_SECRET_BYTES)}).encode()
        await store.create(SECRET_KEY, made)
    blob = await store.get(SECRET_KEY)
    try:
        secret = bytes.fromhex(json.loads(blob.data)["secret"])
    except (ValueError, TypeError, KeyError):
        secret = b""
    if len(secret) < _SECRET_BYTES:
        raise NotConfigured(
            f"The secret that signs webhook addresses cannot be read from {SECRET_KEY}. Nothing was sent.",
            hint="Set AVATAR_BRIDGE__SECRET, or remove that object: a new one is made.",
        )
    return secret

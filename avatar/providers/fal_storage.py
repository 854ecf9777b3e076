"""Bringing inputs to fal's own storage, for stores that fal cannot reach.

Initiate, then PUT, as fal's JavaScript client does: the key goes to the REST API only, never to the storage host.
A copy is publicly readable by its unguessable URL until it expires.
"""

import json
from datetime import timedelta
from typing import TYPE_CHECKING
from urllib.parse import urlencode

import httpx

from avatar.errors import ProviderUnavailable, SubmitRefused
from avatar.models import Asset
from avatar.providers.answers import text
from avatar.providers.wire import LATER, REFUSAL, Exchange, Wire, new_client

if TYPE_CHECKING:
    from avatar.store.store import Store


async def upload(rest: Wire, store: "Store", asset: Asset, lifetime: timedelta) -> str:
    """Copy one asset to fal; returns the URL it is read from, for `lifetime`.

    Raises:
        SubmitRefused: fal turned the upload down. Nothing was spent.
        ProviderUnavailable: it may be tried again. Nothing was spent.
    """
    async with new_client() as client:
        upload_url, file_url = await _initiate(rest, client, asset, lifetime)
        content = b"".join([chunk async for chunk in store.stream(asset.key)])
        exchange = Exchange()
        try:
            await exchange.run(
                client, "PUT", upload_url, content=content, headers={"Content-Type": asset.content_type}
            )
        except (httpx.HTTPError, OSError) as error:
            raise _failed(rest, rest.describe(error)) from None
    if not exchange.ok:
        raise _failed(rest, f"{exchange.status}, {rest.words(exchange)}")
    return file_url


async def _initiate(
    rest: Wire, client: httpx.AsyncClient, asset: Asset, lifetime: timedelta
) -> tuple[str, str]:
    url = f"{rest.base}/storage/upload/initiate?{urlencode({'storage_type': 'fal-cdn-v3'})}"
    body = {"file_name": asset.key.rsplit("/", 1)[-1], "content_type": asset.content_type}
    lifecycle = json.dumps({"expiration_duration_seconds": round(lifetime.total_seconds())})
    # fal's own client sends both: which of them counts depends on the kind of storage behind.
    headers = dict.fromkeys(("X-Fal-Object-Lifecycle", "X-Fal-Object-Lifecycle-Preference"), lifecycle)
    try:
        exchange = await rest.ask(client, "POST", url, body=body, headers=headers)
    except ProviderUnavailable as error:
        raise _failed(rest, error.message) from None
    if exchange.status in REFUSAL and exchange.status not in LATER:
        raise SubmitRefused(
            f"fal refused an upload ({exchange.status}): {rest.words(exchange)}. No render was sent; nothing was spent.",
            provider=rest.provider,
            hint="Check AVATAR_FAL__KEY, or use AVATAR_FAL__DELIVERY=presign.",
            kind="upload_refused",
            status=exchange.status,
        )
    data = exchange.object or {}
    links = text(data.get("upload_url")), text(data.get("file_url"))
    if not exchange.ok or not all(_acceptable(rest, link) for link in links):
        raise _failed(rest, f"{exchange.status}, {rest.words(exchange)}")
    return links


def _acceptable(rest: Wire, url: str) -> bool:
    """https, or whatever the configured API itself uses (a stand-in on this machine)."""
    return url.startswith("https://") or rest.own(url) is not None


def _failed(rest: Wire, why: str) -> ProviderUnavailable:
    return ProviderUnavailable(
        f"An input could not be uploaded to fal: {why.rstrip('.')}. No render was sent; nothing was spent.",
        provider=rest.provider,
    )

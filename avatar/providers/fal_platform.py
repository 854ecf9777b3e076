"""fal beside its renders. Its Platform API: what the account has asked for, at what price, and what it was billed at. Spends nothing.

Source: fal.ai/docs/platform-apis/v1, pages models/requests/by-endpoint, models/pricing, models/billing-events (read
2026-11). Which of a request's moments `start` and `end` are about is not said there, nor whether requests that have not
ended are listed; inputs are kept for 30 days, and not at all where the account stores none: absence proves nothing.

And fal's storage, for inputs in stores that fal cannot reach. Initiate, then PUT, as fal's JavaScript client does: the
key goes to the REST API only, never to the storage host. A copy is publicly readable by its unguessable URL until it
expires.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import httpx

from avatar.errors import ProviderUnavailable, SubmitRefused
from avatar.providers.answers import parse_object, read_number, text_or_empty, usable_id
from avatar.providers.base import ListedRequest, UnitPrice
from avatar.providers.wire import LATER, REFUSAL, Exchange, Wire, new_client
from avatar.stored_models import Asset, ProviderName

if TYPE_CHECKING:
    from avatar.settings_sections import FalSettings

log = logging.getLogger("avatar.provider")

#: A page of requests with their inputs must stay below what is read of one answer; fal gives 100 at the most.
PAGE, MOST_PAGES = 50, 40
#: Added before and after the moments asked about: `start` and `end` may be about a request's end.
EARLIER, LATER_ON = timedelta(hours=1), timedelta(days=1)
#: Most request ids in one question about bills, and the longest span that it may be about.
MOST_IDS, BILLS_SPAN = 50, timedelta(days=89)


class FalPlatform:
    """Asks with the account's key; about bills with the admin key, which fal demands for them."""

    def __init__(self, settings: "FalSettings") -> None:
        self._has_admin_key = settings.admin_key is not None
        keys = (settings.key, settings.admin_key)
        self._wire, self._books = [
            Wire(
                ProviderName.FAL,
                str(settings.api_url),
                key.get_secret_value() if key else None,
                ("Authorization", "Key "),
            )
            for key in keys
        ]

    async def requests(self, endpoint: str, since: datetime, until: datetime) -> list[ListedRequest] | None:
        """Requests sent between the two, as far as they are listed with their inputs (see `Provider.history`)."""
        now = datetime.now(UTC)
        query = {
            "endpoint_id": endpoint,
            "start": _iso(since - EARLIER),
            "end": _iso(min(until + LATER_ON, now + timedelta(minutes=1))),
            "expand": "payloads",
            "limit": str(PAGE),
        }
        items = await _pages(self._wire, "models/requests/by-endpoint", query, "items")
        if items is None:
            return None
        inside = [
            item for item in items if (at := _moment(item.get("sent_at"))) is None or since <= at <= until
        ]
        listed = [found for item in inside if (found := _read_request(item)) is not None]
        return None if inside and not listed else listed

    async def price(self, endpoint: str) -> UnitPrice | None:
        """The account's price of an endpoint; None if fal tells none."""
        for entry in await _pages(self._wire, "models/pricing", {"endpoint_id": endpoint}, "prices") or ():
            amount = read_number(entry.get("unit_price"))
            if amount is not None and entry.get("endpoint_id") in {endpoint, None}:
                currency = text_or_empty(entry.get("currency")) or "USD"
                return UnitPrice(Decimal(str(amount)), text_or_empty(entry.get("unit")), currency.upper())
        return None

    async def bills(self, request_ids: Sequence[str]) -> Mapping[str, Decimal]:
        """What was billed in all, by request id (see `Provider.bills`)."""
        billed: dict[str, Decimal] = {}
        if not self._has_admin_key:
            return billed
        for start in range(0, len(request_ids), MOST_IDS):
            asked = request_ids[start : start + MOST_IDS]
            query = {"request_id": ",".join(asked), "start": _iso(datetime.now(UTC) - BILLS_SPAN)}
            for event in await _pages(self._books, "models/billing-events", query, "billing_events") or ():
                cost, request_id = (
                    read_number(event.get("cost_total")),
                    text_or_empty(event.get("request_id")),
                )
                if cost is not None and request_id in asked:
                    billed[request_id] = billed.get(request_id, Decimal(0)) + Decimal(str(cost))
        return billed


async def _pages(wire: Wire, path: str, query: Mapping[str, str], name: str) -> list[dict[str, Any]] | None:
    """All entries of a list, page by page. None: it is refused, or longer than `MOST_PAGES`.

    Raises:
        ProviderUnavailable: no answer came, or none that can be read.
    """
    found: list[dict[str, Any]] = []
    cursor = ""
    async with new_client() as client:
        for _ in range(MOST_PAGES):
            more = {"cursor": cursor} if cursor else {}
            url = f"{wire.base}/{path}?{httpx.QueryParams({**query, **more})}"
            exchange = await wire.ask(client, "GET", url)
            if exchange.status in REFUSAL and exchange.status not in LATER:
                log.info("fal does not tell %s (%s): %s.", path, exchange.status, wire.words(exchange))
                return None
            data = exchange.object or {}
            entries = data.get(name)
            if not exchange.ok or not isinstance(entries, list):
                why = f"{exchange.status}, {wire.words(exchange)}"
                raise wire.unavailable(why, wait=exchange.retry_after)
            found += (entry for entry in entries if isinstance(entry, dict))
            cursor = text_or_empty(data.get("next_cursor"))
            if not cursor or not data.get("has_more"):
                return found
    log.warning("fal lists more than %d pages of %s: they are not read.", MOST_PAGES, path)
    return None


def _read_request(item: Mapping[str, Any]) -> ListedRequest | None:
    """One listed request; None if its inputs are not kept."""
    given = item.get("json_input")
    inputs = parse_object(given.encode("utf-8", "replace")) if isinstance(given, str) else given
    request_id = usable_id(item.get("request_id"))
    if request_id is None or not isinstance(inputs, dict) or not text_or_empty(inputs.get("audio_url")):
        return None
    return ListedRequest(
        request_id=request_id,
        sent_at=_moment(item.get("sent_at")),
        image_url=text_or_empty(inputs.get("image_url")),
        audio_url=text_or_empty(inputs.get("audio_url")),
        prompt=inputs["prompt"] if isinstance(inputs.get("prompt"), str) else "",
    )


def _iso(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%S}Z"


def _moment(value: Any) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text_or_empty(value))
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


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
        content = await store.content(asset.key)
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
    links = text_or_empty(data.get("upload_url")), text_or_empty(data.get("file_url"))
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

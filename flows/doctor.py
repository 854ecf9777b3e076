"""`avatar doctor`: whether a job started now would go through, and if not, what to do about it."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import asdict

import httpx

from flows import exposure
from flows.exposure import is_loopback
from flows.findings import Finding, Status
from flows.local import Services, find, prefect_api
from flows.local.worker import POOL
from tasks.errors import AvatarError
from tasks.models import ProviderName
from tasks.providers import open_provider
from tasks.settings import AvatarSettings, StoreSettings
from tasks.storage.store import Store

START = "run `avatar up`"
PROBE = "probe/doctor"


def run_doctor(settings: AvatarSettings, *, as_json: bool) -> int:
    """Look, tell, and return the exit code: 0 only if nothing failed."""
    findings = asyncio.run(examine(settings))
    usable = all(finding.status != "fail" for finding in findings)
    report = {"usable": usable, "findings": [asdict(finding) for finding in findings]}
    sys.stdout.write((json.dumps(report) if as_json else render(findings)) + "\n")
    return 0 if usable else 1


async def examine(settings: AvatarSettings) -> tuple[Finding, ...]:
    """Try the store, the Prefect API, the worker and the provider's settings. Starts and spends nothing."""
    running = await asyncio.to_thread(find, settings)
    settings = running.applied_to(settings)
    found = [finding async for finding in _store(settings)]
    found += await asyncio.to_thread(lambda: list(_prefect(running)))
    found.append(bridge(running.bridge_url))
    found += await _provider(settings)
    found += await asyncio.to_thread(lambda: list(exposure.left_open(settings)))
    return tuple(found)


def render(findings: tuple[Finding, ...]) -> str:
    """The findings for a person: a line each, and under it what to do."""
    lines: list[str] = []
    for finding in findings:
        lines.append(f"{finding.status:4}  {finding.name:20}  {finding.detail}")
        if finding.hint:
            lines.append(f"      {'':20}  → {finding.hint}")
    return "\n".join(lines)


async def _store(settings: AvatarSettings) -> AsyncIterator[Finding]:
    if settings.store.endpoint is None:
        yield Finding(
            "store", "fail", "the embedded store is not running", f"{START}, or set AVATAR_STORE__ENDPOINT"
        )
        return
    store: Store | None = None
    try:
        store = Store(settings.store)
        for finding in await _round_trip(store, settings.store):
            yield finding
        where = f"{settings.store.endpoint}, bucket {store.bucket}: an object was written and read"
        yield Finding("store", "ok", where)
        yield conditional(honoured=await store.proves_conditional_create(), provider=settings.provider)
    except AvatarError as error:
        hint = error.hint or "check AVATAR_STORE__ENDPOINT, its keys and AVATAR_STORE__SECURE"
        yield Finding("store", "fail", str(error), hint)
    finally:
        if store:
            await store.aclose()
    for finding in addresses(settings):
        yield finding


async def _round_trip(store: Store, settings: StoreSettings) -> list[Finding]:
    """Write, read and remove an object, and see what strangers can do with it meanwhile."""
    await store.ensure_bucket()
    await store.put(PROBE, b"doctor", content_type="text/plain")
    if (await store.get(PROBE)).data != b"doctor":
        raise AvatarError("The store gave back other bytes than it was given. Do not use it.")
    found = [finding async for finding in exposure.bucket(store, settings, PROBE)]
    await store.remove(PROBE)
    return found


def conditional(*, honoured: bool, provider: ProviderName) -> Finding:
    """What it means whether the store honours `If-None-Match: *`."""
    name = "conditional create"
    if honoured:
        return Finding(name, "ok", "the store refuses to create over an object (If-None-Match)")
    detail = "the store overwrites what it was told only to create, so paying twice could not be ruled out"
    status: Status = "warn" if provider is ProviderName.PREVIEW else "fail"
    return Finding(
        name, status, detail, "use a store that honours If-None-Match; paid providers are refused on this one"
    )


def addresses(settings: AvatarSettings) -> Iterator[Finding]:
    """What the store's addresses mean for those who have to reach it."""
    store = settings.store
    if _is_plain(store):
        detail = (
            f"{store.endpoint} is reached over plain http: keys' signatures and videos can be read on the way"
        )
        yield Finding("store address", "warn", detail, "set AVATAR_STORE__SECURE=true and serve https")
    by_link = settings.provider is ProviderName.PIXAZO or (
        settings.provider is ProviderName.FAL and settings.fal.delivery == "presign"
    )
    public = store.public_endpoint or store.endpoint or ""
    if by_link and is_loopback(public):
        detail = f"{settings.provider} fetches portrait and voice from the store, and cannot reach {public}"
        upload = ", or AVATAR_FAL__DELIVERY=upload" if settings.provider is ProviderName.FAL else ""
        yield Finding("store address", "fail", detail, f"set AVATAR_STORE__PUBLIC_ENDPOINT{upload}")


def _is_plain(store: StoreSettings) -> bool:
    endpoint = store.endpoint or ""
    plain = endpoint.startswith("http://") if "://" in endpoint else not store.secure
    return plain and not is_loopback(endpoint)


def _prefect(running: Services) -> Iterator[Finding]:
    if not running.api_url:
        yield Finding("Prefect API", "fail", "no Prefect API answers", f"{START}, or set PREFECT_API_URL")
        yield Finding("worker", "fail", "no worker can run without an API", START)
        return
    try:
        workers = prefect_api.online_workers(running.api_url, POOL)
    except httpx.HTTPError as error:
        hint = "check PREFECT_API_URL and PREFECT_API_AUTH_STRING or PREFECT_API_KEY"
        yield Finding("Prefect API", "fail", f"{running.api_url}: {error}", hint)
        return
    yield Finding("Prefect API", "ok", running.api_url)
    yield from exposure.prefect_api(running.api_url, prefect_api.PrefectAccess())
    if workers:
        yield Finding("worker", "ok", f"{len(workers)} online in pool {POOL}: {', '.join(sorted(workers))}")
    else:
        yield Finding(
            "worker", "fail", f"none is online in pool {POOL}", f"{START}, or start one for this pool"
        )


def bridge(url: str) -> Finding:
    """What it means whether a bridge runs on this machine; there may be one on another."""
    if url:
        return Finding("bridge", "ok", f"{url} tells Prefect of uploads")
    return Finding(
        "bridge",
        "warn",
        "avatar up runs none here; without one elsewhere, uploads wait for the next sweep",
        START,
    )


async def _provider(settings: AvatarSettings) -> list[Finding]:
    name = f"provider {settings.provider}"
    # A provider is only asked about its own settings here, which reads nothing from a store.
    store = Store(StoreSettings.model_validate(_NOWHERE))
    try:
        provider = open_provider(settings.provider, settings, store)
        provider.check_configured()
    except AvatarError as error:
        return [Finding(name, "fail", str(error), error.hint or "")]
    finally:
        await store.aclose()
    price = f"${provider.price_per_second}/s" if provider.capabilities.paid else "free"
    return [Finding(name, "ok", f"{provider.model}, {price}; its settings are complete")]


_NOWHERE = {"endpoint": "127.0.0.1:9", "access_key": "none", "secret_key": "none"}

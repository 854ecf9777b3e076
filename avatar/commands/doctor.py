"""`avatar doctor`: whether a job started now would go through."""

import argparse
import asyncio
import hashlib
import json
import os
import secrets
import sys
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import httpx

from avatar.commands.network_exposure import (
    Finding,
    Status,
    check_public_bucket,
    find_exposure,
    is_loopback,
    prefect_access,
    warning,
)
from avatar.errors import AvatarError
from avatar.local import Services, find, prefect_client
from avatar.local.prefect_client import PATIENCE
from avatar.local.start_programs import POOL
from avatar.models import Submission
from avatar.providers import open_provider
from avatar.providers.base import Provider
from avatar.providers.known_models import plain_name
from avatar.providers.public_hosts import TransferCut, UnsafeUrl, get_public, host_of
from avatar.settings import AvatarSettings, env_file
from avatar.settings_sections import StoreSettings
from avatar.store.store import Store
from avatar.stored_models import ProviderName

START = "run `avatar up`"
PROBE, LARGE_PROBE = "probe/doctor", "probe/doctor-large"
#: Bytes: more than one part of an upload.
REAL_SIZE = 9 * 1024 * 1024


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
    found = [settings_file()]
    found += [finding async for finding in _store(settings)]
    found += await asyncio.to_thread(lambda: list(_prefect(running)))
    found.append(bridge(running.bridge_url))
    found += await about_provider(settings)
    found += await asyncio.to_thread(lambda: list(find_exposure(settings)))
    return tuple(found)


def settings_file() -> Finding:
    """Which file settings are read from, beside the environment: one rule for the command, `up` and workers."""
    path = env_file()
    if path.is_file():
        return Finding("settings", "ok", f"from the environment, then {path}")
    if "AVATAR_ENV_FILE" in os.environ:
        return Finding(
            "settings", "fail", f"AVATAR_ENV_FILE names {path}, which is no file", "correct or unset it"
        )
    return Finding("settings", "ok", f"from the environment alone: there is no {path}")


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
    found = [finding async for finding in check_public_bucket(store, settings, PROBE)]
    await store.remove(PROBE)
    await _real_size(store)
    return found


async def _real_size(store: Store) -> None:
    """A video goes up in parts: a proxy before the store may take none of that size, and a quota may be near."""
    data = secrets.token_bytes(REAL_SIZE)
    with tempfile.NamedTemporaryFile() as file:
        await asyncio.to_thread(file.write, data)
        file.flush()
        digest = hashlib.sha256(data).hexdigest()
        kind = "application/octet-stream"
        await store.put_file(LARGE_PROBE, Path(file.name), content_type=kind, sha256=digest, overwrite=True)
    if (await store.get(LARGE_PROBE, max_bytes=REAL_SIZE)).data != data:
        raise AvatarError("The store gave back other bytes than it was given. Do not use it.")
    await store.remove(LARGE_PROBE)


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
        workers = prefect_client.online_workers(running.api_url, POOL)
    except httpx.HTTPError as error:
        hint = "check PREFECT_API_URL and PREFECT_API_AUTH_STRING or PREFECT_API_KEY"
        yield Finding("Prefect API", "fail", f"{running.api_url}: {error}", hint)
        return
    yield Finding("Prefect API", "ok", running.api_url)
    yield from prefect_access(running.api_url, prefect_client.PrefectAccess())
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


async def about_provider(settings: AvatarSettings) -> list[Finding]:
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
    if not provider.capabilities.paid:
        return [Finding(name, "ok", f"{provider.model}, free; its settings are complete")]
    about = f"{provider.model}, ${provider.price_per_second}/s; its settings are complete"
    return [
        Finding(name, "ok", about),
        await _answers(provider, name),
        await _price(provider),
        await _videos(provider, settings),
    ]


async def _answers(provider: Provider, name: str) -> Finding:
    """Ask about a request that nobody made: only a right key is told that there is none."""
    nobody = Submission(
        render_id="doctor",
        provider=provider.name,
        model=provider.model,
        request_id=str(uuid.UUID(int=0)),
        submitted_at=datetime.fromtimestamp(0, UTC),
    )
    try:
        await provider.poll(nobody)
    except AvatarError as error:
        text = error.message.partition(" This says nothing")[0].partition(" Request ")[0]
        return Finding(name, "fail", text, error.hint or "check the proxy, the network and the base URL")
    return Finding(name, "ok", "it answers, and takes the key")


async def _price(provider: Provider) -> Finding:
    """Whether quotes are made with the price that the provider's own list has for this account."""
    name, ours = "price", provider.price_per_second
    try:
        listed = await provider.listed_price()
    except AvatarError as error:
        return warning(name, detail=f"${ours}/s was not compared: {error.message.partition(' This says')[0]}")
    if listed is None or not listed.per_second:
        told = (
            f"the list has {listed.amount} {listed.currency} per {listed.unit}"
            if listed
            else "no list tells it"
        )
        return Finding(name, "ok", f"${ours}/s could not be compared: {told}")
    if listed.amount == ours:
        return Finding(name, "ok", f"${ours}/s, as {provider.name}'s list has it for this account")
    variable = (
        f"AVATAR_MODELS__{plain_name(provider.model).upper()}__{provider.name.upper()}__PRICE_PER_SECOND"
    )
    return warning(
        name,
        detail=f"quotes are made with ${ours}/s, and {provider.name}'s list has ${listed.amount}/s for this account",
        hint=f"set {variable}={listed.amount}",
    )


async def _videos(provider: Provider, settings: AvatarSettings) -> Finding:
    """Whether the place that videos are fetched from is reached, by the way that a download takes."""
    name = "downloads"
    if not provider.media_url:
        return Finding(name, "ok", "not tried: where a video will be is known once one has been made")
    private = settings.download.allow_private_hosts
    try:
        async with asyncio.timeout(PATIENCE * 3), get_public(provider.media_url, {}, private=private):
            return Finding(name, "ok", f"{host_of(provider.media_url)}, where videos are fetched, is reached")
    except (httpx.HTTPError, OSError, TransferCut, UnsafeUrl) as error:
        detail = (
            f"{host_of(provider.media_url)}, where videos are fetched, is not reached: {type(error).__name__}"
        )
        return Finding(name, "fail", detail, "check HTTPS_PROXY, NO_PROXY, SSL_CERT_FILE and the firewall")


_NOWHERE = {"endpoint": "127.0.0.1:9", "access_key": "none", "secret_key": "none"}


def run(arguments: argparse.Namespace) -> int:

    return run_doctor(AvatarSettings(), as_json=arguments.json)

"""What stands open to others: for `avatar doctor`. Looks and asks; changes nothing but objects of its own."""

from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import httpx

from avatar.local.prefect_client import PATIENCE, PrefectAccess
from avatar.settings import AvatarSettings, env_file
from avatar.settings_sections import StoreSettings
from avatar.store.connection import parse_endpoint
from avatar.store.store import Store
from avatar.stored_models import ProviderName
from avatar.web import server

#: What a finding comes to.
Status = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """One thing looked at. `hint` is what to do; empty when all is well."""

    name: str
    status: Status
    detail: str
    hint: str = ""


#: Whatever others may do with a file: read, write, run.
OTHERS = 0o077
#: An object that is not there, which strangers are made to try to write.
STRANGER = "probe/stranger"
BODY = b"doctor"

warning = partial(Finding, status="warn")


def is_loopback(address: str) -> bool:
    """Whether `address`, a URL or a host with or without its port, is this machine's own."""
    if server.is_address(address):  # an IPv6 address alone is no URL's host
        return server.is_loopback(address)
    host = httpx.URL(address if "://" in address else f"//{address}").host
    return server.is_loopback(host) or host.endswith(".localhost")


def find_exposure(settings: AvatarSettings, file: Path | None = None) -> Iterator[Finding]:
    """What the settings and the files beside them leave open. Everything here is allowed, and should be meant."""
    yield from _listeners(settings)
    yield from _public_addresses(settings)
    if settings.download.allow_private_hosts:
        yield warning(
            "downloads",
            detail="links may lead to this network's own addresses, and over plain http: whoever names a link can use it to look around here",
            hint="unset AVATAR_DOWNLOAD__ALLOW_PRIVATE_HOSTS, which is for test stand-ins",
        )
    paid = {settings.provider, settings.failover} - {None, ProviderName.PREVIEW}
    if paid and settings.budget.per_day is None:
        yield warning(
            "budget",
            detail=f"{' and '.join(sorted(str(name) for name in paid if name))} may be paid without a daily limit",
            hint="set AVATAR_BUDGET__PER_DAY, and AVATAR_BUDGET__PER_JOB or AVATAR_BUDGET__APPROVE_ABOVE",
        )
    yield from _files(settings, file or env_file())


def _listeners(settings: AvatarSettings) -> Iterator[Finding]:
    gallery, bridge = settings.gallery, settings.bridge
    if gallery.password is None and not is_loopback(gallery.host):
        yield warning(
            "gallery",
            detail=f"it listens on {gallery.host} without a password: every video, portrait and voice can be seen",
            hint="set AVATAR_GALLERY__PASSWORD, or AVATAR_GALLERY__HOST=127.0.0.1",
        )
    if bridge.token is None and not is_loopback(bridge.host):
        yield warning(
            "bridge",
            detail=f"it is to listen on {bridge.host} without a token, and will not start",
            hint="set AVATAR_BRIDGE__TOKEN to what the store sends, or AVATAR_BRIDGE__HOST=127.0.0.1",
        )


def _public_addresses(settings: AvatarSettings) -> Iterator[Finding]:
    for name, section in (("gallery", settings.gallery), ("bridge", settings.bridge)):
        url = section.public_url
        if url is not None and url.scheme == "http" and not is_loopback(str(url)):
            what = "its password and videos" if name == "gallery" else "the addresses of webhooks"
            yield warning(
                name,
                detail=f"its public address is plain http: {what} can be read on the way",
                hint=f"put a proxy with TLS before it, and set AVATAR_{name.upper()}__PUBLIC_URL=https://…",
            )


def _files(settings: AvatarSettings, file: Path) -> Iterator[Finding]:
    for path, name in ((file, ".env"), (settings.state_dir.expanduser(), "state directory")):
        with suppress(OSError):
            mode = path.stat().st_mode & 0o777
            if mode & OTHERS:
                detail = f"{path.absolute()} is open to other users of this machine (mode {mode:o}); it may hold keys"
                yield warning(name, detail=detail, hint=f"chmod go= {path.absolute()}")


def prefect_access(api_url: str, access: PrefectAccess) -> Iterator[Finding]:
    """Who else can start runs on a Prefect API that is not only this machine's: it runs what it is told to."""
    if is_loopback(api_url):
        return
    if api_url.startswith("http://"):
        yield warning(
            "Prefect access",
            detail=f"{api_url} is reached over plain http: credentials and inputs can be read on the way",
            hint="put a proxy with TLS before it, and set PREFECT_API_URL=https://…",
        )
    if _answers_strangers(api_url):
        given = " (PREFECT_API_AUTH_STRING is set here, and not asked for there)" if access.headers() else ""
        yield warning(
            "Prefect access",
            detail=f"{api_url} answers without credentials{given}: whoever reaches it can start runs, and code, on the workers",
            hint="set PREFECT_SERVER_API_AUTH_STRING on the server and PREFECT_API_AUTH_STRING here",
        )


def _answers_strangers(api_url: str) -> bool:
    try:
        return httpx.get(f"{api_url}/admin/version", timeout=PATIENCE).is_success
    except httpx.HTTPError:
        return False


async def check_public_bucket(store: Store, settings: StoreSettings, known: str) -> AsyncIterator[Finding]:
    """What the store lets those do who have no keys: read the object `known`, list, write."""
    host, secure = parse_endpoint(settings.endpoint, settings.secure, "AVATAR_STORE__ENDPOINT")
    base = f"{'https' if secure else 'http'}://{host}/{store.bucket}"
    async with httpx.AsyncClient(timeout=PATIENCE * 3) as stranger:
        try:
            reads = (await stranger.get(f"{base}/{known}")).is_success
            lists = (await stranger.get(base, params={"list-type": "2", "max-keys": "1"})).is_success
            writes = (await stranger.put(f"{base}/{STRANGER}", content=BODY)).is_success
        except httpx.HTTPError as error:
            yield warning(
                "bucket access", detail=f"what strangers may do was not found out: {type(error).__name__}"
            )
            return
    if writes:
        await store.remove(STRANGER)
    allowed = [name for name, may in {"read": reads, "list": lists, "write": writes}.items() if may]
    if not allowed:
        yield Finding("bucket access", "ok", "without keys nothing can be read, listed or written")
        return
    detail = f"anybody can {', '.join(allowed)} in {store.bucket} without keys"
    # Who writes the journal decides what is paid.
    yield Finding("bucket access", "fail" if writes else "warn", detail, "see docs/least-power.md")

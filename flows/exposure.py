"""What stands open to others: for `avatar doctor`. Looks and asks; changes nothing but objects of its own."""

from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import httpx

from flows import serving
from flows.findings import Finding
from flows.local.prefect_api import PATIENCE, PrefectAccess
from tasks.models import ProviderName
from tasks.settings import AvatarSettings, StoreSettings
from tasks.storage.connection import parse_endpoint
from tasks.storage.store import Store

#: Whatever others may do with a file: read, write, run.
OTHERS = 0o077
#: An object that is not there, which strangers are made to try to write.
STRANGER = "probe/stranger"
BODY = b"doctor"

_warning = partial(Finding, status="warn")


def is_loopback(address: str) -> bool:
    """Whether `address`, a URL or a host with or without its port, is this machine's own."""
    if serving.is_address(address):  # an IPv6 address alone is no URL's host
        return serving.is_loopback(address)
    host = httpx.URL(address if "://" in address else f"//{address}").host
    return serving.is_loopback(host) or host.endswith(".localhost")


def left_open(settings: AvatarSettings, env_file: Path = Path(".env")) -> Iterator[Finding]:
    """What the settings and the files beside them leave open. Everything here is allowed, and should be meant."""
    yield from _listeners(settings)
    yield from _public_addresses(settings)
    if settings.download.allow_private_hosts:
        yield _warning(
            "downloads",
            detail="links may lead to this network's own addresses, and over plain http: whoever names a link can use it to look around here",
            hint="unset AVATAR_DOWNLOAD__ALLOW_PRIVATE_HOSTS, which is for test stand-ins",
        )
    paid = {settings.provider, settings.failover} - {None, ProviderName.PREVIEW}
    if paid and settings.budget.per_day is None:
        yield _warning(
            "budget",
            detail=f"{' and '.join(sorted(str(name) for name in paid if name))} may be paid without a daily limit",
            hint="set AVATAR_BUDGET__PER_DAY, and AVATAR_BUDGET__PER_JOB or AVATAR_BUDGET__APPROVE_ABOVE",
        )
    yield from _files(settings, env_file)


def _listeners(settings: AvatarSettings) -> Iterator[Finding]:
    gallery, bridge = settings.gallery, settings.bridge
    if gallery.password is None and not is_loopback(gallery.host):
        yield _warning(
            "gallery",
            detail=f"it listens on {gallery.host} without a password: every video, portrait and voice can be seen",
            hint="set AVATAR_GALLERY__PASSWORD, or AVATAR_GALLERY__HOST=127.0.0.1",
        )
    if bridge.token is None and not is_loopback(bridge.host):
        yield _warning(
            "bridge",
            detail=f"it is to listen on {bridge.host} without a token, and will not start",
            hint="set AVATAR_BRIDGE__TOKEN to what the store sends, or AVATAR_BRIDGE__HOST=127.0.0.1",
        )


def _public_addresses(settings: AvatarSettings) -> Iterator[Finding]:
    for name, section in (("gallery", settings.gallery), ("bridge", settings.bridge)):
        url = section.public_url
        if url is not None and url.scheme == "http" and not is_loopback(str(url)):
            what = "its password and videos" if name == "gallery" else "the addresses of webhooks"
            yield _warning(
                name,
                detail=f"its public address is plain http: {what} can be read on the way",
                hint=f"put a proxy with TLS before it, and set AVATAR_{name.upper()}__PUBLIC_URL=https://…",
            )


def _files(settings: AvatarSettings, env_file: Path) -> Iterator[Finding]:
    for path, name in ((env_file, ".env"), (settings.state_dir.expanduser(), "state directory")):
        with suppress(OSError):
            mode = path.stat().st_mode & 0o777
            if mode & OTHERS:
                detail = f"{path.absolute()} is open to other users of this machine (mode {mode:o}); it may hold keys"
                yield _warning(name, detail=detail, hint=f"chmod go= {path.absolute()}")


def prefect_api(api_url: str, access: PrefectAccess) -> Iterator[Finding]:
    """Who else can start runs on a Prefect API that is not only this machine's: it runs what it is told to."""
    if is_loopback(api_url):
        return
    if api_url.startswith("http://"):
        yield _warning(
            "Prefect access",
            detail=f"{api_url} is reached over plain http: credentials and inputs can be read on the way",
            hint="put a proxy with TLS before it, and set PREFECT_API_URL=https://…",
        )
    if _answers_strangers(api_url):
        given = " (PREFECT_API_AUTH_STRING is set here, and not asked for there)" if access.headers() else ""
        yield _warning(
            "Prefect access",
            detail=f"{api_url} answers without credentials{given}: whoever reaches it can start runs, and code, on the workers",
            hint="set PREFECT_SERVER_API_AUTH_STRING on the server and PREFECT_API_AUTH_STRING here",
        )


def _answers_strangers(api_url: str) -> bool:
    try:
        return httpx.get(f"{api_url}/admin/version", timeout=PATIENCE).is_success
    except httpx.HTTPError:
        return False


async def bucket(store: Store, settings: StoreSettings, known: str) -> AsyncIterator[Finding]:
    """What the store lets those do who have no keys: read the object `known`, list, write."""
    host, secure = parse_endpoint(settings.endpoint, settings.secure, "AVATAR_STORE__ENDPOINT")
    base = f"{'https' if secure else 'http'}://{host}/{store.bucket}"
    async with httpx.AsyncClient(timeout=PATIENCE * 3) as stranger:
        try:
            reads = (await stranger.get(f"{base}/{known}")).is_success
            lists = (await stranger.get(base, params={"list-type": "2", "max-keys": "1"})).is_success
            writes = (await stranger.put(f"{base}/{STRANGER}", content=BODY)).is_success
        except httpx.HTTPError as error:
            yield _warning(
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

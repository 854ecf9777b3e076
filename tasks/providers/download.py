"""Fetching a video from wherever a provider's answer points: safe against that answer, and resumable.

The URL is a stranger's: https and public addresses only, checked on the address connected to and again after each
redirect; no key, no cookies, no proxy; bounded in size and time.
"""

import asyncio
import logging
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import httpx

from tasks.errors import DownloadFailed, ProviderUnavailable
from tasks.providers.addresses import PrivateAddress, resolve
from tasks.providers.wire import PHASES, retry_after, tls
from tasks.settings import DownloadSettings

log = logging.getLogger("avatar.provider")

MAX_REDIRECTS = 5
#: One connection may take this long, in seconds; the next one resumes where it stopped.
CONNECTION_SECONDS = 900.0
_REDIRECTS = {301, 302, 303, 307, 308}
#: A signed or deleted URL: only a fresh one helps.
_EXPIRED = {401, 403, 404, 410}
_STARTS_OF_TEXT = (b"<", b"{", b"[")


class Cut(Exception):
    """The transfer stopped early or could not start; it may be taken up again."""

    def __init__(self, why: str, wait: float | None = None) -> None:
        super().__init__(why)
        self.wait = wait


@dataclass
class Partial:
    """What has arrived so far, beside the target until it is whole."""

    path: Path
    size: int = 0
    total: int | None = None
    validator: str | None = None  #: strong ETag or date by which the server recognises the same content

    def restart(self, response: httpx.Response) -> None:
        """Begin anew with this answer."""
        self.path.write_bytes(b"")
        self.size = 0
        etag = response.headers.get("etag", "")
        strong = etag if etag.startswith('"') else None
        self.validator = strong or response.headers.get("last-modified")
        self.total = _digits(response.headers.get("content-length"))

    def append(self, chunk: bytes) -> None:
        with self.path.open("ab") as file:
            file.write(chunk)
        self.size += len(chunk)

    def range_headers(self) -> dict[str, str]:
        """Headers that ask for the rest, and for all of it if the content has changed (RFC 9110 §13.1.5)."""
        if not self.size:
            return {}
        return {"Range": f"bytes={self.size}-"} | ({"If-Range": self.validator} if self.validator else {})


async def fetch_video(url: str, target: Path, *, settings: DownloadSettings) -> None:
    """Write what `url` serves to `target`, complete or not at all.

    Raises:
        DownloadFailed: trying again is of no use; `kind` is `expired` (ask the provider for a fresh URL),
            `unsafe` (not https, or no public address), `too_large` or `not_video`.
        ProviderUnavailable: it was cut or refused `settings.attempts` times.
    """
    partial = Partial(target.with_name(target.name + ".part"))
    try:
        await _fetch(url, partial, settings)
        partial.path.replace(target)
    finally:
        partial.path.unlink(missing_ok=True)


async def _fetch(url: str, partial: Partial, settings: DownloadSettings) -> None:
    for attempt in range(1, settings.attempts + 1):
        try:
            async with asyncio.timeout(CONNECTION_SECONDS):
                return await _transfer(url, partial, settings)
        except (httpx.HTTPError, httpx.StreamError, OSError, Cut) as error:
            why = str(error) if isinstance(error, Cut) else type(error).__name__
            wait = getattr(error, "wait", None)
        log.warning("The download from %s stopped after %d bytes (%s).", _host(url), partial.size, why)
        if attempt < settings.attempts:
            await asyncio.sleep(_backoff(attempt, wait))
    raise ProviderUnavailable(
        f"The video could not be fetched from {_host(url)}: {why}, {settings.attempts} times. It is rendered and paid "
        "for, and its request id is kept: run the job again to continue. It is not paid for twice."
    )


async def _transfer(url: str, partial: Partial, settings: DownloadSettings) -> None:
    """One connection's worth: from where the last one stopped."""
    async with _open(url, partial.range_headers(), settings) as response:
        _place(response, partial, settings)
        async for chunk in response.aiter_raw():
            if partial.size == 0:
                _check_start(chunk, response)
            partial.append(chunk)
            _check_size(partial.size, settings)
    if partial.size == 0:
        raise Cut("an empty answer")
    if partial.total is not None and partial.size != partial.total:
        raise Cut(f"{partial.size} of {partial.total} bytes")


def _place(response: httpx.Response, partial: Partial, settings: DownloadSettings) -> None:
    """Find out where this answer's bytes belong, or why there are none."""
    status = response.status_code
    if status in _EXPIRED:
        _fail("expired", f"its link is no longer valid ({status})", response.request.url.host)
    if status == 416:  # noqa: PLR2004 - what we have is not a part of what it serves now
        partial.size = 0
        raise Cut("the content changed")
    if status == 200:  # noqa: PLR2004 - all of it: resuming is not supported, or the content changed
        partial.restart(response)
    elif status != 206:  # noqa: PLR2004 - nothing of it: what has arrived stays
        raise Cut(f"status {status}", retry_after(response.headers))
    elif not _continues(response, partial):
        partial.size = 0
        raise Cut("another part than was asked for")
    _check_size(partial.total or 0, settings)


def _continues(response: httpx.Response, partial: Partial) -> bool:
    """Whether a 206 begins where we stopped, in a content of the length we know."""
    span, _, total = response.headers.get("content-range", "").removeprefix("bytes ").partition("/")
    known = _digits(total)
    return (
        span.startswith(f"{partial.size}-") and partial.size > 0 and known in {None, partial.total or known}
    )


@asynccontextmanager
async def _open(
    url: str, headers: dict[str, str], settings: DownloadSettings
) -> AsyncIterator[httpx.Response]:
    """The answer at the end of the redirects. The transport is used bare: no cookies, no proxies, no URL in logs."""
    async with httpx.AsyncHTTPTransport(verify=tls(), retries=0) as transport:
        target = _parse(url)
        for _ in range(MAX_REDIRECTS + 1):
            response = await _request(transport, target, headers, settings)
            try:
                if response.status_code not in _REDIRECTS:
                    yield response
                    return
                target = _join(target, response.headers.get("location", ""))
            finally:
                await response.aclose()
    raise Cut(f"more than {MAX_REDIRECTS} redirects")


async def _request(
    transport: httpx.AsyncHTTPTransport, url: httpx.URL, headers: dict[str, str], settings: DownloadSettings
) -> httpx.Response:
    """GET `url` from an address of its host that was checked, while TLS still proves the host's name."""
    addresses = await _checked(url, settings)
    extensions: dict[str, Any] = {"timeout": PHASES.as_dict(), "sni_hostname": url.host}
    sent = {
        "Host": url.netloc.decode(),
        "Accept": "*/*",
        "Accept-Encoding": "identity",
        "User-Agent": "avatar-flows",
    }
    for last, address in enumerate(addresses, start=1 - len(addresses)):
        request = httpx.Request(
            "GET", url.copy_with(host=address), headers=sent | headers, extensions=extensions
        )
        try:
            response = await transport.handle_async_request(request)
        except (httpx.ConnectError, httpx.ConnectTimeout):
            if last == 0:
                raise
        else:
            response.request = httpx.Request("GET", url)
            return response
    raise AssertionError("unreachable")  # pragma: no cover


async def _checked(url: httpx.URL, settings: DownloadSettings) -> list[str]:
    private = settings.allow_private_hosts
    if url.scheme != "https" and not (private and url.scheme == "http"):
        _fail("unsafe", "its link is not https", url.host)
    if url.userinfo or not url.host:
        _fail("unsafe", "its link carries a user name, or no host", url.host)
    try:
        return await resolve(url.host, url.port or 443, allow_private=private)
    except PrivateAddress:
        _fail("unsafe", "its link leads to a private address", url.host)


def _parse(url: str) -> httpx.URL:
    try:
        return httpx.URL(url)
    except (httpx.InvalidURL, TypeError):
        _fail("unsafe", "its link is not a URL", "")


def _join(base: httpx.URL, location: str) -> httpx.URL:
    try:
        return base.join(location)
    except httpx.InvalidURL:
        raise Cut("a redirect to nowhere") from None


def _check_start(chunk: bytes, response: httpx.Response) -> None:
    """An error page with status 200 is not a video, whatever it is called."""
    kind = response.headers.get("content-type", "").lower()
    start = chunk[:64].removeprefix(b"\xef\xbb\xbf").lstrip()
    if start.startswith(_STARTS_OF_TEXT) or kind.startswith(("text/html", "application/json")):
        _fail("not_video", "a page of text came instead of a video", response.request.url.host)


def _check_size(size: int, settings: DownloadSettings) -> None:
    if size > settings.max_bytes:
        raise DownloadFailed(
            f"The video is larger than {settings.max_bytes} bytes. It is rendered and paid for, and its request id "
            "is kept.",
            hint="Raise AVATAR_DOWNLOAD__MAX_BYTES, then run the job again: it continues.",
            kind="too_large",
        )


def _fail(kind: str, why: str, host: str) -> NoReturn:
    raise DownloadFailed(
        f"The video at {host or 'the provider'} was not fetched: {why}. It is rendered and paid for, and its request "
        "id is kept.",
        hint="Run the job again: it asks the provider for a fresh link and is not paid for twice.",
        kind=kind,
    )


def _backoff(attempt: int, wait: float | None) -> float:
    usual = min(0.5 * 2 ** (attempt - 1), 10.0) * random.uniform(0.8, 1.2)  # noqa: S311 - jitter
    return min(wait, 30.0) if wait is not None else usual


def _digits(value: str | None) -> int | None:
    return int(value) if value and value.isascii() and value.isdigit() else None


def _host(url: str) -> str:
    try:
        return httpx.URL(url).host or "?"
    except (httpx.InvalidURL, TypeError):
        return "?"

"""Fetching a file from wherever a link by somebody else points: bounded in size and time, and resumable.

`get_public` sees to it that the link leads to public addresses only, with nothing of ours.
"""

import asyncio
import logging
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import httpx

from avatar.errors import DownloadFailed, ProviderUnavailable
from avatar.providers.public_hosts import TransferCut, UnsafeUrl, get_public, host_of
from avatar.providers.wire import Unreadable, read_bounded, retry_after
from avatar.settings_sections import DownloadSettings

log = logging.getLogger("avatar.provider")

#: One connection may take this long, in seconds; the next one resumes where it stopped.
CONNECTION_SECONDS = 900.0
#: A signed or deleted URL: only a fresh one helps.
_EXPIRED = {401, 403, 404, 410}
#: How a page of text begins, which neither a video nor an image nor a sound does.
STARTS_OF_TEXT = (b"<", b"{", b"[")
_TYPES_OF_TEXT = ("text/html", "application/json")


_WORDS = {
    "gaierror": "its name does not resolve",
    "ConnectError": "connecting failed",
    "ConnectTimeout": "connecting took too long",
    "ReadTimeout": "it fell silent",
    "ProxyError": "the proxy refused",
    "RemoteProtocolError": "it was cut, or speaks no HTTP",
}


@dataclass(frozen=True)
class FetchRules:
    """What one fetch is held to.

    Attributes:
        what: is fetched, for messages: "video", "portrait".
        max_bytes: most that is written.
        attempts: connections, each going on where the last one stopped.
        private: whether private addresses and plain http are allowed, for stand-ins.
        paid: whether it was paid for: then a page of text is waited out, and what came packed is unpacked.
        not_starting: first bytes of what is not fetched, whatever it is called.
        not_types: content types that are not fetched.
    """

    what: str
    max_bytes: int
    attempts: int
    private: bool = False
    paid: bool = False
    not_starting: tuple[bytes, ...] = STARTS_OF_TEXT
    not_types: tuple[str, ...] = _TYPES_OF_TEXT


class NotFetched(Exception):
    """Why nothing was fetched.

    Attributes:
        kind: `expired` (refused, or not there), `unsafe` (not https, or no public address), `too_large`,
            `wrong_content`, or `unavailable`, the only one that may pass by itself.
        why: as the end of a sentence that begins "it was not fetched:".
        host: whose link it is.
    """

    def __init__(self, kind: str, why: str, host: str) -> None:
        super().__init__(why)
        self.kind, self.why, self.host = kind, why, host


@dataclass
class PartialFile:
    """What has arrived so far, beside the target until it is whole."""

    path: Path
    size: int = 0
    total: int | None = None
    packed: bool = False  #: whether it came so; a part of such an answer is no part of the file
    validator: str | None = None  #: strong ETag or date by which the server recognises the same content

    def restart(self, response: httpx.Response) -> None:
        """Begin anew with this answer."""
        self.path.write_bytes(b"")
        self.size, self.packed = 0, False
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
        if not self.size or self.packed:
            return {}
        return {"Range": f"bytes={self.size}-"} | ({"If-Range": self.validator} if self.validator else {})


async def fetch_video(url: str, target: Path, *, settings: DownloadSettings) -> None:
    """Write the video that a provider's answer points to, complete or not at all.

    Raises:
        DownloadFailed: trying again is of no use; `kind` is `unsafe` (not https, or no public address) or `too_large`.
        ProviderUnavailable: not yet: it was cut, or pages or refusals came, `settings.attempts` times; or, with the
            `kind` `expired`, the link is refused (401, 403, 404, 410): a fresh one may help, and a fresh one may not
            have got around yet.
    """
    rules = FetchRules(
        "video", settings.max_bytes, settings.attempts, settings.allow_private_hosts, paid=True
    )
    try:
        await fetch(url, target, rules)
    except NotFetched as error:
        raise _about_video(error, settings) from None


def _about_video(error: NotFetched, settings: DownloadSettings) -> DownloadFailed | ProviderUnavailable:
    if error.kind in {"unavailable", "expired"}:
        return ProviderUnavailable(
            f"The video could not be fetched from {error.host}: {error.why}. It is rendered and paid for, and its "
            "request id is kept: run the job again to continue. It is not paid for twice.",
            kind=error.kind,
        )
    if error.kind == "too_large":
        return DownloadFailed(
            f"The video is larger than {settings.max_bytes} bytes. It is rendered and paid for, and its request id "
            "is kept.",
            hint="Raise AVATAR_DOWNLOAD__MAX_BYTES, then run the job again: it continues.",
            kind="too_large",
        )
    return DownloadFailed(
        f"The video at {error.host or 'the provider'} was not fetched: {error.why}. It is rendered and paid for, and "
        "its request id is kept.",
        hint="Run the job again: it asks the provider for a fresh link and is not paid for twice.",
        kind=error.kind,
    )


async def fetch(url: str, target: Path, rules: FetchRules) -> None:
    """Write what `url` serves to `target`, complete or not at all. Raises `NotFetched`."""
    partial = PartialFile(target.with_name(target.name + ".part"))
    try:
        await _fetch(url, partial, rules)
        partial.path.replace(target)
    except UnsafeUrl as error:
        raise NotFetched("unsafe", error.why, error.host) from None
    finally:
        partial.path.unlink(missing_ok=True)


async def _fetch(url: str, partial: PartialFile, rules: FetchRules) -> None:
    for attempt in range(1, rules.attempts + 1):
        try:
            async with asyncio.timeout(CONNECTION_SECONDS):
                return await _transfer(url, partial, rules)
        except (httpx.HTTPError, httpx.StreamError, OSError, TransferCut) as error:
            why = str(error) if isinstance(error, TransferCut) else _in_words(error)
            wait = getattr(error, "wait", None)
        log.warning("The download from %s stopped after %d bytes (%s).", host_of(url), partial.size, why)
        if attempt < rules.attempts:
            await asyncio.sleep(_backoff(attempt, wait))
    raise NotFetched("unavailable", f"{why}, {rules.attempts} times", host_of(url))


async def _transfer(url: str, partial: PartialFile, rules: FetchRules) -> None:
    """One connection's worth: from where the last one stopped."""
    async with get_public(url, partial.range_headers(), private=rules.private) as response:
        _place(response, partial, rules)
        async for chunk in _unpacked(response, partial, rules):
            if partial.size == 0:
                _check_start(chunk, response, rules)
            _check_size(partial.size + len(chunk), response, rules)
            partial.append(chunk)
    if partial.size == 0:
        raise TransferCut("an empty answer")
    if partial.total is not None and partial.size != partial.total:
        raise TransferCut(f"{partial.size} of {partial.total} bytes")


async def _unpacked(
    response: httpx.Response, partial: PartialFile, rules: FetchRules
) -> AsyncIterator[bytes]:
    """The file's bytes. Nobody asked for them to be packed; what was is not resumed."""
    packed = response.headers.get("content-encoding", "").strip().lower()
    if packed in {
        "",
        "identity",
        "aws-chunked",
    }:  # the last is what some S3 servers say of what is not chunked
        pieces = response.aiter_raw()
    elif not rules.paid:
        _fail("wrong_content", "it came packed, although that was not asked for", response)
    else:
        partial.total = partial.validator = None
        partial.packed = True
        pieces = read_bounded(response, rules.max_bytes)
    try:
        async for piece in pieces:
            if piece:
                yield piece
    except Unreadable as error:
        raise TransferCut(f"it came {error}") from None


def _place(response: httpx.Response, partial: PartialFile, rules: FetchRules) -> None:
    """Find out where this answer's bytes belong, or why there are none."""
    status = response.status_code
    if status in _EXPIRED:
        _fail("expired", f"its link is no longer valid ({status})", response)
    if status == 416:  # noqa: PLR2004 - what we have is not a part of what it serves now
        partial.size = 0
        raise TransferCut("the content changed")
    if status == 200:  # noqa: PLR2004 - all of it: resuming is not supported, or the content changed
        partial.restart(response)
    elif status != 206:  # noqa: PLR2004 - nothing of it: what has arrived stays
        raise TransferCut(f"status {status}", retry_after(response.headers))
    elif not _continues(response, partial):
        partial.size = 0
        raise TransferCut("another part than was asked for")
    _check_size(partial.total or 0, response, rules)


def _continues(response: httpx.Response, partial: PartialFile) -> bool:
    """Whether a 206 begins where we stopped, in a content of the length we know."""
    span, _, total = response.headers.get("content-range", "").removeprefix("bytes ").partition("/")
    known = _digits(total)
    return (
        span.startswith(f"{partial.size}-") and partial.size > 0 and known in {None, partial.total or known}
    )


def _check_start(chunk: bytes, response: httpx.Response, rules: FetchRules) -> None:
    """An error page with status 200 is not what was asked for, whatever it is called."""
    kind = response.headers.get("content-type", "").lower()
    start = chunk[:64].removeprefix(b"\xef\xbb\xbf").lstrip()
    # What was paid for is judged by its bytes: a video may be called a page.
    named = kind.startswith(rules.not_types) and not (rules.paid and _is_binary(chunk))
    if start.startswith(rules.not_starting) or named:
        if rules.paid:
            raise TransferCut(f"a page of text came instead of a {rules.what}")
        _fail("wrong_content", f"a page of text came instead of a {rules.what}", response)


def _is_binary(chunk: bytes) -> bool:
    return any(byte < 9 for byte in chunk[:64])  # noqa: PLR2004 - a tab, the first that texts have


def _check_size(size: int, response: httpx.Response, rules: FetchRules) -> None:
    if size > rules.max_bytes:
        _fail("too_large", f"it is larger than {rules.max_bytes} bytes", response)


def _in_words(error: Exception) -> str:
    """A failure of the transport, without the address it may name."""
    name = type(error).__name__
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return f"its certificate does not prove its name ({name})"
    return f"{words} ({name})" if (words := _WORDS.get(name)) else name


def _fail(kind: str, why: str, response: httpx.Response) -> NoReturn:
    raise NotFetched(kind, why, response.request.url.host)


def _backoff(attempt: int, wait: float | None) -> float:
    usual = min(0.5 * 2 ** (attempt - 1), 10.0) * random.uniform(0.8, 1.2)  # noqa: S311 - jitter
    return min(wait, 30.0) if wait is not None else usual


def _digits(value: str | None) -> int | None:
    return int(value) if value and value.isascii() and value.isdigit() and len(value) <= 18 else None  # noqa: PLR2004 - a length no file has

"""HTTP as every provider needs it: bounded, never redirected, its key for one origin only, and discreet."""

import asyncio
import logging
import re
import ssl
import zlib
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache
from json import dumps
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

import httpx

from avatar.errors import AvatarError, NotConfigured, ProviderFailure, ProviderUnavailable
from avatar.models import Submission
from avatar.option_names import named
from avatar.providers.answers import clean_text, error_words, parse_object, read_number
from avatar.stored_models import ProviderName

# Bodies as they come off the wire: packed although nobody asked for it, and never larger than agreed.
#: gzip and zlib, told apart by their headers.
_EITHER = 32 + zlib.MAX_WBITS


class Unreadable(Exception):
    """The body is packed in a way that is not read, or damaged."""


async def read_bounded(response: httpx.Response, most: int) -> AsyncIterator[bytes]:
    """The body in pieces, until a little more than `most` bytes.

    httpx unpacks a whole chunk at once, and each of several encodings after the other: a megabyte of nothing may
    come in as one kilobyte, a terabyte as one megabyte. Here one encoding is unpacked, as far as is wanted.

    Raises:
        Unreadable: see there.
        httpx.HTTPError: it was cut.
    """
    packed = response.headers.get("content-encoding", "").strip().lower()
    if packed in {"", "identity"}:
        pieces = response.aiter_raw()
    elif packed in {"gzip", "x-gzip", "deflate"}:
        pieces = _unpack(response.aiter_raw(), most)
    else:
        raise Unreadable(f"packed as {packed[:40]!r}")
    size = 0
    async for piece in pieces:
        size += len(piece)
        yield piece
        if size > most:
            return


async def _unpack(chunks: AsyncIterator[bytes], most: int) -> AsyncIterator[bytes]:
    unpacker = zlib.decompressobj(_EITHER)
    async for chunk in chunks:
        try:
            yield unpacker.decompress(chunk, most + 1)
        except zlib.error as error:
            raise Unreadable(str(error)) from None
        if unpacker.eof or unpacker.unconsumed_tail:  # it has ended, or is more than is wanted
            return
    if not unpacker.eof:
        raise Unreadable("packed, and cut")


#: Bytes of an answer, at the most: 1 MiB.
MAX_BODY = 1024**2


log = logging.getLogger("avatar.provider")

#: Largest answer read, in bytes. A status is below 10 KB.
#: Seconds per phase; a submit has a limit on the whole beside it.
PHASES = httpx.Timeout(connect=10, write=30, read=60, pool=5)
#: Seconds that one free call may take in all.
FREE_CALL_SECONDS = 30.0
#: What is shorter is no key, and may stand in any answer.
SHORTEST_KEY = 8
#: Longest Retry-After believed, in seconds.
MAX_RETRY_AFTER = 3600.0

#: "Quota will be replenished in 02:11:40." and "Try again in 2 seconds."
_QUOTA_IN_WORDS = re.compile(r"replenished in (\d{1,4}):(\d{2}):(\d{2})")
_SECONDS_IN_WORDS = re.compile(r"[Tt]ry again in (\d{1,6}) second")

E = TypeVar("E", bound=AvatarError)

#: Families of answers.
SUCCESS, REDIRECT, REFUSAL, BREAKDOWN = range(200, 300), range(300, 400), range(400, 500), range(500, 600)
#: Of an account that may not go on for now: no credit, locked, out of quota. Also of what a key may not do.
ACCOUNT_REFUSED = {402, 403}
KEY_REFUSED = 401
#: Refusals that may pass by themselves: request timeout, too early, too many requests.
LATER = {408, 425, 429}
NOT_FOUND = {404, 410}


class _WithoutQuery(logging.Filter):
    """httpx logs the URL of every request: what follows the path may be a signature."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(_bare(arg) if isinstance(arg, httpx.URL) else arg for arg in record.args)
        return True


_WITHOUT_QUERY = _WithoutQuery()


def _bare(url: httpx.URL) -> httpx.URL:
    return url.copy_with(query=None, fragment=None, userinfo=b"")


@cache
def tls() -> ssl.SSLContext:
    """One TLS context per process: loading the certificates takes longer than a request."""
    return httpx.create_ssl_context()


def new_client(connections: int = 2) -> httpx.AsyncClient:
    """A client with no connection yet, no retries and no redirects; proxies as the environment says."""
    logging.getLogger("httpx").addFilter(_WITHOUT_QUERY)
    limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
    headers = {"User-Agent": "avatar-flows", "Accept-Encoding": "identity"}
    return httpx.AsyncClient(
        verify=tls(), http2=False, follow_redirects=False, timeout=PHASES, limits=limits, headers=headers
    )


class TooLate(Exception):
    """Connecting took so long that the request may not be sent any more."""


class Exchange:
    """One request and what became of it, filled in as it happens so that a cut leaves the truth behind."""

    def __init__(self) -> None:
        self.may_send: Callable[[], bool] = lambda: True  #: asked before a byte of it leaves
        self.sent = False  #: whether any byte of it may have left, as seen by the connection
        self.status: int | None = None
        self.headers = httpx.Headers()
        self.body = bytearray()
        self.complete = False  #: whether the answer was read to its end
        self.too_large = False  #: whether more came than is read
        self.error: Exception | None = None
        self._parsed: tuple[dict[str, Any] | None] | None = None

    async def run(self, client: httpx.AsyncClient, method: str, url: str, **request: Any) -> None:
        """Send it and read the answer, up to `MAX_BODY` bytes."""
        request["extensions"] = {"trace": self._trace}
        async with client.stream(method, url, **request) as response:
            self.status, self.headers = response.status_code, response.headers
            try:
                async for chunk in read_bounded(response, MAX_BODY):
                    self.body += chunk[: MAX_BODY + 1 - len(self.body)]
            except Unreadable as error:
                log.warning("An answer of %s cannot be read: %s.", response.request.url.host, error)
                return
        self.too_large = len(self.body) > MAX_BODY
        self.complete = not self.too_large

    async def _trace(self, event: str, info: Mapping[str, Any]) -> None:
        # A proxy's CONNECT goes by the same event, and is not the request.
        if event.endswith(".send_request_headers.started") and info["request"].method != b"CONNECT":
            if not self.may_send():
                raise TooLate
            self.sent = True

    @property
    def ok(self) -> bool:
        return self.status in SUCCESS

    @property
    def object(self) -> dict[str, Any] | None:
        """The JSON object answered, or None for anything else."""
        if not self.complete:
            return None
        if self._parsed is None:
            self._parsed = (parse_object(bytes(self.body)),)
        return self._parsed[0]

    @property
    def retry_after(self) -> float | None:
        """Seconds to wait, by the header, or by the words of Azure's gateway, which Pixazo's is."""
        asked = retry_after(self.headers)
        words = error_words(self.object) if asked is None and not self.ok else ""
        if found := _QUOTA_IN_WORDS.search(words):
            hours, minutes, seconds = (float(part or 0) for part in found.group(1, 2, 3))
            return min(3600 * hours + 60 * minutes + seconds, MAX_RETRY_AFTER)
        found = _SECONDS_IN_WORDS.search(words)
        return min(float(found[1]), MAX_RETRY_AFTER) if found else asked


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds the server asks to wait, from a number or an HTTP date (RFC 9110 §10.2.3); at most an hour."""
    value = headers.get("retry-after", "").strip()
    seconds = read_number(value)
    if seconds is None and value:
        try:
            moment = parsedate_to_datetime(value)
        except (ValueError, OverflowError):
            return None
        aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        seconds = max(0.0, (aware - datetime.now(UTC)).total_seconds())
    return None if seconds is None else min(seconds, MAX_RETRY_AFTER)


class Wire:
    """The way to one provider's API.

    Args:
        provider: for messages.
        base: the configured URL; the key goes to its scheme, host and port and nowhere else.
        key: the API key, None if not configured.
        header: name of the header the key goes in, and what precedes it there.
    """

    def __init__(self, provider: ProviderName, base: str, key: str | None, header: tuple[str, str]) -> None:
        self.provider = provider
        self.base = base.rstrip("/")
        self._key = (key or "").strip()
        self._auth = {header[0]: header[1] + self._key}

    def check_key(self, setting: str) -> None:
        """Raise `NotConfigured` for a key that is missing, or that no header can carry, and for unreadable certificates.

        Loading those takes longer than a request. Done here, it is not done between an intent and its request, where a
        process that dies leaves what only a person can settle.
        """
        if self._key and self._key.isascii() and self._key.isprintable() and " " not in self._key:
            self._load_certificates()
            return
        what = "contains characters no key has" if self._key else "is not set"
        raise NotConfigured(
            f"The {self.provider} key {what}. Nothing was sent or spent.",
            provider=self.provider,
            hint=f"Set {setting}, or render the free preview ({named('provider')} preview).",
        )

    def _load_certificates(self) -> None:
        try:
            tls()
        except OSError as error:
            raise NotConfigured(
                f"The certificates to be trusted cannot be read ({self.describe(error)}). Nothing was sent or spent.",
                provider=self.provider,
                hint="Check SSL_CERT_FILE and SSL_CERT_DIR.",
            ) from None

    def clean(self, words: str) -> str:
        """Words by others, fit for an error or a log (see `answers.clean_text`)."""
        return clean_text(words, self._key)

    def without_key(self, body: bytes) -> bytes:
        """An answer in which the key does not stand: a server may send it back, and answers are kept."""
        known = self._key.encode()
        return body.replace(known, b"[key]") if len(known) >= SHORTEST_KEY else body

    def own(self, url: Any) -> str | None:
        """`url` if it lies on the configured origin (scheme, host and port); otherwise None."""
        try:
            theirs, ours = httpx.URL(url), httpx.URL(self.base)
        except (httpx.InvalidURL, TypeError, ValueError):
            return None
        return url if _origin(theirs) == _origin(ours) and not theirs.userinfo else None

    def headers(self, url: str, **more: str) -> dict[str, str]:
        """Headers for a request to `url`: with the key, if it is ours."""
        return {**(self._auth if self.own(url) else {}), "Accept": "application/json", **more}

    async def post_once(
        self,
        url: str,
        body: Any,
        *,
        seconds: float,
        headers: Mapping[str, str],
        may_send: Callable[[], bool] = lambda: True,
    ) -> Exchange:
        """Send one POST on a connection of its own; never raises but for a cancellation.

        A kept-alive connection may be closed under a request, which leaves its outcome open: hence a fresh one.
        """
        exchange = Exchange()
        exchange.may_send = may_send
        content = dumps(body).encode()
        sent = self.headers(url, **{"Content-Type": "application/json"}, **headers)
        # Connecting and the handshake time out before the whole does: httpcore leaves a cancelled handshake open.
        phases = httpx.Timeout(connect=min(10, seconds / 3), write=30, read=60, pool=5)
        try:
            async with asyncio.timeout(seconds), new_client(1) as client:
                await exchange.run(client, "POST", url, content=content, headers=sent, timeout=phases)
        except Exception as error:  # noqa: BLE001 - whatever it is, the outcome table judges it
            exchange.error = error
        exchange.body[:] = self.without_key(bytes(exchange.body))
        return exchange

    async def ask(
        self,
        client: httpx.AsyncClient,
        method: str,
        url: str,
        *,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> Exchange:
        """A free call, which may be repeated. Raises `ProviderUnavailable` if no answer came."""
        exchange = Exchange()
        more = {} if body is None else {"Content-Type": "application/json", "Cache-Control": "no-cache"}
        request: dict[str, Any] = {"headers": self.headers(url, **more, **(headers or {}))}
        if body is not None:
            request["content"] = dumps(body).encode()
        try:
            async with asyncio.timeout(FREE_CALL_SECONDS):
                await exchange.run(client, method, url, **request)
        except TimeoutError:
            raise self.unavailable(f"its answer had not ended after {FREE_CALL_SECONDS:g} s") from None
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise self.unavailable(self.describe(error)) from None
        exchange.body[:] = self.without_key(bytes(exchange.body))
        return exchange

    def describe(self, error: BaseException) -> str:
        """A transport error in words."""
        said = self.clean(str(error))
        return f"{type(error).__name__}: {said}" if said else type(error).__name__

    def words(self, exchange: Exchange) -> str:
        """The provider's words in an answer, or what the answer was instead."""
        said = self.clean(error_words(exchange.object))
        kind = exchange.headers.get("content-type", "nothing readable").partition(";")[0]
        if exchange.too_large:
            return f"an answer of more than {MAX_BODY // 1024} KB"
        return said or f"an answer of {self.clean(kind)} that gives no reason"

    def unavailable(
        self, why: str, *, wait: float | None = None, hint: str | None = None
    ) -> ProviderUnavailable:
        return ProviderUnavailable(
            f"{self.provider} could not be asked: {why.rstrip('.')}. This says nothing about the render, which goes on.",
            provider=self.provider,
            retry_after=wait,
            hint=hint,
        )

    def check(self, exchange: Exchange, request_id: str) -> None:
        """Raise for an answer to a free call that tells nothing about the render."""
        status = exchange.status
        if status == KEY_REFUSED:
            raise self.key_refused(exchange, request_id)
        if status in ACCOUNT_REFUSED:
            hint = (
                f"Check the balance, lock and quota of the {self.provider} account, and what its key may do."
            )
            raise self.unavailable(f"{status}, {self.words(exchange)}", wait=exchange.retry_after, hint=hint)
        if status in LATER or (status not in SUCCESS and status not in REFUSAL):
            raise self.unavailable(f"{status}, {self.words(exchange)}", wait=exchange.retry_after)

    def key_refused(self, exchange: Exchange, request_id: str) -> ProviderFailure:
        return ProviderFailure(
            f"{self.provider} refused the key ({exchange.status}): {self.words(exchange)}. Request "
            f"{self.clean(request_id)} was accepted before and goes on there; it is not lost and not paid for again.",
            provider=self.provider,
            request_id=request_id,
            hint=f"Check the {self.provider} key, then run the job again: it continues.",
        )


def extend_url(url: str, suffix: str = "", query: str = "") -> str:
    """`url` with its path and query grown; what is encoded in it stays so."""
    scheme, netloc, path, old, _ = urlsplit(url)
    return urlunsplit((scheme, netloc, path + suffix, "&".join(filter(None, (old, query))), ""))


def about_render(submission: Submission, error: type[E], message: str, /, **facts: Any) -> E:
    """An error that names its render and request."""
    return error(
        message,
        provider=submission.provider,
        render_id=submission.render_id,
        request_id=submission.request_id,
        **facts,
    )


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port or {"http": 80, "https": 443}.get(url.scheme)

"""Asking a server that a stranger named: by https, at public addresses, with nothing of ours.

The address that was checked is the one connected to, again after each redirect, while TLS proves the host's name on
it. Any port will do: before that proof nothing but a handshake reaches it. The transport is used bare: no key, no
cookies, no proxy and no password file of the environment, no URL in logs.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from tasks.providers.addresses import PrivateAddress, resolve
from tasks.providers.wire import PHASES, tls

MAX_REDIRECTS = 5
HIGHEST_PORT = 65_535
_REDIRECTS = {301, 302, 303, 307, 308}


class Unsafe(Exception):
    """The URL, or one it redirects to, may not be followed.

    Attributes:
        why: as the end of a sentence that begins "it was not fetched:".
        host: whose link it is; never more of it, since the rest may be a signature.
    """

    def __init__(self, why: str, host: str) -> None:
        super().__init__(why)
        self.why, self.host = why, host


class Cut(Exception):
    """The transfer stopped early or could not start; it may be taken up again, after `wait` seconds if given."""

    def __init__(self, why: str, wait: float | None = None) -> None:
        super().__init__(why)
        self.wait = wait


@asynccontextmanager
async def ask_stranger(url: str, headers: dict[str, str], *, private: bool) -> AsyncIterator[httpx.Response]:
    """The answer at the end of the redirects, its body not yet read and not unpacked.

    Args:
        url: by whomever.
        headers: beside the usual ones.
        private: whether private addresses and plain http are allowed, for stand-ins.

    Raises:
        Unsafe: it leads where it may not.
        Cut: it redirects without end, or to nowhere.
        httpx.HTTPError, OSError: no answer came.
    """
    async with httpx.AsyncHTTPTransport(verify=tls(), retries=0) as transport:
        target = _parse(url)
        for _ in range(MAX_REDIRECTS + 1):
            response = await _request(transport, target, headers, private=private)
            try:
                if response.status_code not in _REDIRECTS:
                    yield response
                    return
                target = _join(target, response.headers.get("location", ""))
            finally:
                await response.aclose()
    raise Cut(f"more than {MAX_REDIRECTS} redirects")


async def _request(
    transport: httpx.AsyncHTTPTransport, url: httpx.URL, headers: dict[str, str], *, private: bool
) -> httpx.Response:
    """GET `url` from an address of its host that was checked, while TLS still proves the host's name."""
    host = url.raw_host.decode("ascii")
    addresses = await _checked(url, host, private=private)
    extensions: dict[str, Any] = {"timeout": PHASES.as_dict(), "sni_hostname": host.rstrip(".")}
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


async def _checked(url: httpx.URL, host: str, *, private: bool) -> list[str]:
    if url.scheme != "https" and not (private and url.scheme == "http"):
        raise Unsafe("its link is not https", url.host)
    if url.userinfo or not host:
        raise Unsafe("its link carries a user name, or no host", url.host)
    if (url.port or 0) > HIGHEST_PORT:
        raise Unsafe("its link names a port that does not exist", url.host)
    try:
        return await resolve(host, url.port or 443, allow_private=private)
    except PrivateAddress:
        raise Unsafe("its link leads to a private address", url.host) from None


def _parse(url: str) -> httpx.URL:
    try:
        return httpx.URL(url)
    except (httpx.InvalidURL, TypeError, ValueError):
        raise Unsafe("its link is not a URL", "") from None


def _join(base: httpx.URL, location: str) -> httpx.URL:
    try:
        return base.join(location)
    except (httpx.InvalidURL, ValueError):
        raise Cut("a redirect to nowhere") from None


def host_of(url: str) -> str:
    """The host of a URL, for messages; a question mark if it has none."""
    try:
        return httpx.URL(url).host or "?"
    except (httpx.InvalidURL, TypeError, ValueError):
        return "?"

"""GET from a server that somebody else named, POST to one: by https, at public addresses, with nothing of ours.

The address that was checked is the one connected to, again after each redirect, while TLS proves the host's name on
it. Any port will do: before that proof nothing but a handshake reaches it. The transport is used bare: no key, no
cookies, no password file of the environment, no URL in logs.

Behind a proxy it is the proxy that resolves names and connects. A name that leads to a private address here, an
address that is not public, and a name without a dot are refused all the same.
"""

import asyncio
import ipaddress
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from avatar.providers.wire import PHASES, tls
from avatar.store.connection import proxy_for

# Which addresses a URL by somebody else may lead to: public ones, checked on the address that is connected to.
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
#: The only part of IPv6 from which public hosts have addresses (IANA, IPv6 address space).
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
#: Public by number, or to this Python's registry, and yet not: Azure's wire server, the IETF's own assignments
#: (Oracle Cloud's metadata is in them), the closed 6to4 relay, documentation (IANA special-purpose registries).
_NOT_PUBLIC = tuple(
    map(
        ipaddress.ip_network,
        ("168.63.129.16/32", "192.0.0.0/24", "192.88.99.0/24", "2001::/23", "2001:db8::/32", "3fff::/20"),
    )
)


class PrivateAddress(Exception):
    """The host leads to no public address."""


async def resolve(host: str, port: int, *, allow_private: bool) -> list[str]:
    """The addresses of `host` that may be connected to, in the resolver's order.

    Connect to these and not to the name: a name may resolve otherwise the next time.

    Raises:
        PrivateAddress: there are some, and none is public.
        OSError: the name does not resolve.
    """
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError as error:  # a label that is empty or longer than DNS allows
        raise socket.gaierror(socket.EAI_NONAME, "not a name that DNS can hold") from error
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    allowed = [address for address in addresses if allow_private or is_public(address)]
    if not allowed:
        raise PrivateAddress(host)
    return allowed


def is_public(address: str) -> bool:
    """Whether the address is a public host's: nothing private, local, reserved, multicast, or wrapping such a one."""
    ip = _unwrap(ipaddress.ip_address(address.partition("%")[0]))
    if ip.version == 6 and ip not in _GLOBAL_UNICAST:  # noqa: PLR2004 - the protocol's number
        return False
    odd = ip.is_multicast or ip.is_reserved or any(ip in network for network in _NOT_PUBLIC)
    return ip.is_global and not odd


def _unwrap(ip: Address) -> Address:
    """The IPv4 address inside an IPv6 one that is translated to it on the way."""
    if isinstance(ip, ipaddress.IPv4Address):
        return ip
    if ip in _NAT64:
        return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    teredo = ip.teredo[1] if ip.teredo else None
    return ip.ipv4_mapped or ip.sixtofour or teredo or ip


MAX_REDIRECTS = 5
HIGHEST_PORT = 65_535
_REDIRECTS = {301, 302, 303, 307, 308}


class UnsafeUrl(Exception):
    """The URL, or one it redirects to, may not be followed.

    Attributes:
        why: as the end of a sentence that begins "it was not fetched:".
        host: whose link it is; never more of it, since the rest may be a signature.
    """

    def __init__(self, why: str, host: str) -> None:
        super().__init__(why)
        self.why, self.host = why, host


class TransferCut(Exception):
    """The transfer stopped early or could not start; it may be taken up again, after `wait` seconds if given."""

    def __init__(self, why: str, wait: float | None = None) -> None:
        super().__init__(why)
        self.wait = wait


@asynccontextmanager
async def get_public(url: str, headers: dict[str, str], *, private: bool) -> AsyncIterator[httpx.Response]:
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
    target = _parse(url)
    for _ in range(MAX_REDIRECTS + 1):
        proxy = proxy_for(str(target))
        async with httpx.AsyncHTTPTransport(verify=tls(), retries=0, proxy=proxy) as transport:
            response = await _request(transport, target, headers, private=private, by_name=proxy is not None)
            try:
                if response.status_code not in _REDIRECTS:
                    yield response
                    return
                target = _join(target, response.headers.get("location", ""))
            finally:
                await response.aclose()
    raise TransferCut(f"more than {MAX_REDIRECTS} redirects")


async def post_public(url: str, body: bytes, headers: dict[str, str], *, private: bool) -> httpx.Response:
    """The answer to one POST, without its body. Redirects are not followed. Arguments and errors as `get_public`."""
    target = _parse(url)
    proxy = proxy_for(str(target))
    async with httpx.AsyncHTTPTransport(verify=tls(), retries=0, proxy=proxy) as transport:
        response = await _request(
            transport, target, headers, private=private, by_name=proxy is not None, body=body
        )
        await response.aclose()
        return response


async def _request(
    transport: httpx.AsyncHTTPTransport,
    url: httpx.URL,
    headers: dict[str, str],
    *,
    private: bool,
    by_name: bool,
    body: bytes | None = None,
) -> httpx.Response:
    """GET `url` (with a body: POST) from an address of its host that was checked, while TLS still proves the host's name.

    With `by_name` it is asked for by its name: a proxy resolves it anew, and may go by names in what it allows.
    """
    host = url.raw_host.decode("ascii")
    addresses = await _checked(url, host, private=private, by_name=by_name)
    if by_name:
        addresses = [url.host]
    extensions: dict[str, Any] = {"timeout": PHASES.as_dict(), "sni_hostname": host.rstrip(".")}
    sent = {
        "Host": url.netloc.decode(),
        "Accept": "*/*",
        "Accept-Encoding": "identity",
        "User-Agent": "avatar-flows",
    }
    for last, address in enumerate(addresses, start=1 - len(addresses)):
        there = url.copy_with(host=address)
        method = "GET" if body is None else "POST"
        request = httpx.Request(method, there, headers=sent | headers, content=body, extensions=extensions)
        try:
            response = await transport.handle_async_request(request)
        except (httpx.ConnectError, httpx.ConnectTimeout):
            if last == 0:
                raise
        else:
            response.request = httpx.Request(method, url)
            return response
    raise AssertionError("unreachable")  # pragma: no cover


async def _checked(url: httpx.URL, host: str, *, private: bool, by_name: bool) -> list[str]:
    if url.scheme != "https" and not (private and url.scheme == "http"):
        raise UnsafeUrl("its link is not https", url.host)
    if url.userinfo or not host:
        raise UnsafeUrl("its link carries a user name, or no host", url.host)
    if (url.port or 0) > HIGHEST_PORT:
        raise UnsafeUrl("its link names a port that does not exist", url.host)
    try:
        return await resolve(host, url.port or 443, allow_private=private)
    except PrivateAddress:
        raise UnsafeUrl("its link leads to a private address", url.host) from None
    except OSError:
        if not by_name:
            raise
        if "." not in host.strip(".") and not private:
            raise UnsafeUrl("its link leads to a private name", url.host) from None
        return []  # only the proxy can resolve it


def _parse(url: str) -> httpx.URL:
    try:
        return httpx.URL(url)
    except (httpx.InvalidURL, TypeError, ValueError):
        raise UnsafeUrl("its link is not a URL", "") from None


def _join(base: httpx.URL, location: str) -> httpx.URL:
    try:
        return base.join(location)
    except (httpx.InvalidURL, ValueError):
        raise TransferCut("a redirect to nowhere") from None


def host_of(url: str) -> str:
    """The host of a URL, for messages; a question mark if it has none."""
    try:
        return httpx.URL(url).host or "?"
    except (httpx.InvalidURL, TypeError, ValueError):
        return "?"

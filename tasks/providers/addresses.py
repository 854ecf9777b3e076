"""Which addresses a URL from a stranger may lead to: public ones, checked on the address that is connected to."""

import asyncio
import ipaddress
import socket

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
#: Public by number, yet answering to the machine itself: Azure's wire server.
_METADATA = {ipaddress.ip_address("168.63.129.16")}


class PrivateAddress(Exception):
    """The host leads to no public address."""


async def resolve(host: str, port: int, *, allow_private: bool) -> list[str]:
    """The addresses of `host` that may be connected to, in the resolver's order.

    Connect to these and not to the name: a name may resolve otherwise the next time.

    Raises:
        PrivateAddress: there are some, and none is public.
        OSError: the name does not resolve.
    """
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    allowed = [address for address in addresses if allow_private or is_public(address)]
    if not allowed:
        raise PrivateAddress(host)
    return allowed


def is_public(address: str) -> bool:
    """Whether the address is a public host's: nothing private, local, reserved, multicast, or wrapping such a one."""
    ip = _unwrap(ipaddress.ip_address(address.partition("%")[0]))
    return ip.is_global and not ip.is_multicast and not ip.is_reserved and ip not in _METADATA


def _unwrap(ip: Address) -> Address:
    """The IPv4 address inside an IPv6 one that is translated to it on the way."""
    if isinstance(ip, ipaddress.IPv4Address):
        return ip
    if ip in _NAT64:
        return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    teredo = ip.teredo[1] if ip.teredo else None
    return ip.ipv4_mapped or ip.sixtofour or teredo or ip

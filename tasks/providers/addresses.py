"""Which addresses a URL from a stranger may lead to: public ones, checked on the address that is connected to."""

import asyncio
import ipaddress
import socket

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

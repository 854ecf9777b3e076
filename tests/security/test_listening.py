"""What runs on this machine listens on loopback only: read from the kernel, for every process and its children."""

import os
import socket
import struct
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

import pytest

from avatar.local.processes import children, identify
from tests.security.conftest import House

pytestmark = [
    pytest.mark.server,
    pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="reads /proc"),
]
LISTEN = "0A"


def family_of(pid: int) -> set[int]:
    found = {pid}
    for child in children(identify(pid)):
        found |= family_of(child.pid)
    return found


def inodes_of(pids: set[int]) -> set[str]:
    """The sockets that these processes hold."""
    found = set[str]()
    for pid in pids:
        with suppress(OSError):
            for entry in Path(f"/proc/{pid}/fd").iterdir():
                with suppress(OSError):
                    found.add(str(entry.readlink()).removeprefix("socket:[").removesuffix("]"))
    return found


def listening(pids: set[int]) -> list[tuple[IPv4Address | IPv6Address, int]]:
    """Address and port of every socket on which these processes take connections."""
    inodes, found = inodes_of(pids), []
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with suppress(FileNotFoundError):
            for line in Path(table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == LISTEN and fields[9] in inodes:
                    found.append(parse(fields[1]))
    return sorted(found, key=str)


def parse(text: str) -> tuple[IPv4Address | IPv6Address, int]:
    """The kernel writes addresses as 32-bit words in the machine's own byte order."""
    address, _, port = text.partition(":")
    words = [int(address[at : at + 8], 16) for at in range(0, len(address), 8)]
    return ip_address(b"".join(struct.pack("=I", word) for word in words)), int(port, 16)


def test_nothing_listens_to_other_machines(house: House) -> None:
    """Store with all its gRPC ports, Prefect server, workers, gallery and bridge: 127.0.0.1 or ::1."""
    record = house.record
    parts = {
        "store": (record.store.process.pid, 9),
        "server": (house.server, 1),
        "worker": (record.worker.process.pid, 0),
        "upkeep worker": (record.upkeep.process.pid, 0),
        "gallery": (record.gallery.process.pid, 1),
        "bridge": (record.bridge.process.pid, 1),
    }
    for name, (pid, at_least) in parts.items():
        found = listening(family_of(pid))
        assert len(found) >= at_least, (name, found)
        assert [each for each in found if not each[0].is_loopback] == [], name


def test_an_open_socket_would_be_seen() -> None:
    """One that listens on every address is found with its address, so the test above can fail."""
    with socket.create_server(("0.0.0.0", 0)) as opened:
        port = opened.getsockname()[1]
        assert (IPv4Address("0.0.0.0"), port) in listening({os.getpid()})
    if socket.has_ipv6:
        with suppress(OSError), socket.create_server(("::", 0), family=socket.AF_INET6) as opened:
            assert (IPv6Address("::"), opened.getsockname()[1]) in listening({os.getpid()})

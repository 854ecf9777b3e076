"""Free ports for the embedded store: five in a row, and the five 10000 above them that it speaks gRPC on.

The one after the five is for whoever is told of new objects.
"""

import secrets
import socket
from contextlib import closing

from tasks.errors import StoreUnavailable

COUNT = 5
ROW = COUNT + 1
GRPC = 10_000
# Below 32768 with their gRPC twins: from there on the system hands ports to outgoing connections.
LOWEST, HIGHEST = 18_000, 22_700
TRIES = 200


def choose_ports(preferred: int | None) -> int:
    """The first of five ports that are free, `preferred` if it is; raises `StoreUnavailable` if none are found.

    With `preferred`, a listener may be on the port after them already; otherwise that is free too.
    """
    if preferred and all_free(preferred):
        return preferred
    for _ in range(TRIES):
        port = LOWEST + ROW * secrets.randbelow((HIGHEST - LOWEST) // ROW)
        if all_free(port) and is_free(listener_port(port)):
            return port
    raise StoreUnavailable(
        f"No {ROW} free ports in a row were found between {LOWEST} and {HIGHEST} for the embedded store.",
        hint="Set AVATAR_STORE__ENDPOINT to an S3 server that runs already.",
    )


def listener_port(first: int) -> int:
    """The port that belongs to the listener of the store on `first`: kept for it, since it cannot be changed later."""
    return first + COUNT


def all_free(first: int) -> bool:
    return all(is_free(port + above) for port in range(first, first + COUNT) for above in (0, GRPC))


def is_free(port: int) -> bool:
    """Whether a server can listen on the port of this machine now."""
    with closing(socket.socket()) as probe:
        # Connections of an earlier run that are still winding down do not keep a server from listening.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True

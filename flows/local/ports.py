"""Free ports of this machine for the Prefect server, the gallery and the bridge."""

import secrets

from tasks.errors import AvatarError
from tasks.storage.ports import LOWEST as STORES
from tasks.storage.ports import is_free

#: Below those of the embedded store, and far below those that the system hands to outgoing connections: a server
#: needs seconds until it listens, and would find one of them on its port.
LOWEST, HIGHEST = 10_000, STORES
TRIES = 200


def free_port(preferred: int) -> int:
    """`preferred` if nothing listens there on 127.0.0.1, else any free port, as for 0. Raises `AvatarError`."""
    if preferred and is_free(preferred):
        return preferred
    for _ in range(TRIES):
        port = LOWEST + secrets.randbelow(HIGHEST - LOWEST)
        if is_free(port):
            return port
    raise AvatarError(
        f"No free port between {LOWEST} and {HIGHEST} on 127.0.0.1 was found. Nothing was spent.",
        hint="point PREFECT_API_URL at a running Prefect server",
    )

"""What the web servers of this project share: a socket, and uvicorn until SIGINT or SIGTERM."""

import asyncio
import ipaddress
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp

from avatar.errors import AvatarError

#: Seconds that requests under way get when a server is told to end.
GRACE_SECONDS = 2
_ENDING = (signal.SIGINT, signal.SIGTERM)


class Server(uvicorn.Server):
    """Uvicorn that ends by returning: by itself it would raise the signal again, and skip what is to be put away."""

    def __init__(self, app: ASGIApp) -> None:
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            ws="none",
            lifespan="on",
            timeout_graceful_shutdown=GRACE_SECONDS,
        )
        super().__init__(config)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in _ENDING:
            loop.add_signal_handler(number, self.handle_exit, number, None)
        try:
            yield
        finally:
            for number in _ENDING:
                loop.remove_signal_handler(number)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens on `host`."""
    return host == "localhost" or (is_address(host) and ipaddress.ip_address(host).is_loopback)


def is_address(name: str) -> bool:
    """Whether a host is named by its number."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def listen(who: str, host: str, port: int) -> socket.socket:
    """A listening socket for the gallery or the bridge. Raises `AvatarError` if it cannot be had."""
    try:
        family, *_, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[
            0
        ]
        return socket.create_server(where[:2], family=family, backlog=128)
    except OSError as error:
        raise AvatarError(
            f"The {who} cannot listen on {host} port {port}: {error.strerror or error}.",
            hint=f"Choose another with --port (0 takes any free one) or AVATAR_{who.upper()}__PORT.",
        ) from error

"""The gallery as a server: a socket, uvicorn, and an end on SIGINT or SIGTERM."""

import asyncio
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn

from flows.gallery.access import is_loopback
from flows.gallery.app import build_app
from flows.local.record import local_url
from tasks.errors import AvatarError
from tasks.settings import AvatarSettings, GallerySettings
from tasks.workspace import Workspace

#: Seconds that downloads under way get when the gallery is told to end.
GRACE_SECONDS = 2
_ENDING = (signal.SIGINT, signal.SIGTERM)


class _Server(uvicorn.Server):
    """Uvicorn that ends by returning: by itself it would raise the signal again, and skip what is to be put away."""

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


def serve(settings: AvatarSettings, *, say: Callable[[str], None]) -> int:
    """Serve until SIGINT or SIGTERM; returns the exit code.

    Raises:
        AvatarError: nothing can listen at the address that was asked for.
    """
    with listen(settings.gallery) as listener:
        warn(settings.gallery, say)
        say(f"Gallery {local_url(settings.gallery.host, listener.getsockname()[1])}")
        asyncio.run(_serve(settings, listener))
    return 0


async def _serve(settings: AvatarSettings, listener: socket.socket) -> None:
    workspace = Workspace(settings)
    config = uvicorn.Config(
        build_app(workspace),
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws="none",
        lifespan="on",
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    try:
        await _Server(config).serve(sockets=[listener])
    finally:
        await workspace.aclose()


def listen(settings: GallerySettings) -> socket.socket:
    """A listening socket at the gallery's host and port. Raises `AvatarError` if it cannot be had."""
    try:
        family, *_, where = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return socket.create_server(where[:2], family=family, backlog=128)
    except OSError as error:
        raise AvatarError(
            f"The gallery cannot listen on {settings.host} port {settings.port}: {error.strerror or error}.",
            hint="Choose another with --port (0 takes any free one) or AVATAR_GALLERY__PORT.",
        ) from error


def warn(settings: GallerySettings, say: Callable[[str], None]) -> None:
    if settings.password is None and not is_loopback(settings.host):
        say(
            f"WARNING: the gallery listens on {settings.host} without a password: whoever reaches this machine sees "
            "every video, portrait and voice. Set AVATAR_GALLERY__PASSWORD."
        )

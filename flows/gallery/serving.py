"""The gallery as a server, until SIGINT or SIGTERM."""

import asyncio
import socket
from collections.abc import Callable

from flows.gallery.app import build_app
from flows.local.record import local_url
from flows.serving import Server, is_loopback, listen
from tasks.settings import AvatarSettings, GallerySettings
from tasks.workspace import Workspace


def serve(settings: AvatarSettings, *, say: Callable[[str], None]) -> int:
    """Serve until SIGINT or SIGTERM; returns the exit code.

    Raises:
        AvatarError: nothing can listen at the address that was asked for.
    """
    with listen("gallery", settings.gallery.host, settings.gallery.port) as listener:
        warn(settings.gallery, say)
        say(f"Gallery {local_url(settings.gallery.host, listener.getsockname()[1])}")
        asyncio.run(_serve(settings, listener))
    return 0


async def _serve(settings: AvatarSettings, listener: socket.socket) -> None:
    workspace = Workspace(settings)
    try:
        await Server(build_app(workspace)).serve(sockets=[listener])
    finally:
        await workspace.aclose()


def warn(settings: GallerySettings, say: Callable[[str], None]) -> None:
    if settings.password is None and not is_loopback(settings.host):
        say(
            f"WARNING: the gallery listens on {settings.host} without a password: whoever reaches this machine sees "
            "every video, portrait and voice. Set AVATAR_GALLERY__PASSWORD."
        )

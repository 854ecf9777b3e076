"""The bridge as a server, until SIGINT or SIGTERM."""

import asyncio
import socket
from collections.abc import Callable
from contextlib import ExitStack

from flows.bridge.app import Bridge, build_app
from flows.bridge.outbox import Outbox
from flows.bridge.settling import Settling
from flows.bridge.uploads import Uploads
from flows.local.bridge import bridge_token, store_port
from flows.local.record import StateDirectory, local_url
from flows.serving import Server, is_loopback, listen
from tasks.errors import AvatarError, NotConfigured
from tasks.inbox.models import Inbox
from tasks.settings import AvatarSettings
from tasks.workspace import Workspace

Say = Callable[[str], None]


def serve(settings: AvatarSettings, api_url: str, *, say: Say) -> int:
    """Serve until SIGINT or SIGTERM; returns the exit code.

    Args:
        settings: with the store's address and keys.
        api_url: the Prefect API that is told, whether it answers now or not.
        say: told where the bridge is, and when it is in trouble.

    Raises:
        NotConfigured: it would be open to other machines without a token that somebody chose.
        AvatarError: nothing can listen at the address that was asked for.
    """
    check_reach(settings)
    state = StateDirectory(settings.state_dir)
    tokens = {bridge_token(state)}
    if settings.bridge.token:
        tokens.add(settings.bridge.token.get_secret_value())
    with ExitStack() as stack:
        listeners = [stack.enter_context(listen("bridge", settings.bridge.host, settings.bridge.port))]
        own_port = listeners[0].getsockname()[1]
        listeners += _for_the_store(stack, store_port(state, settings), own_port, say)
        say(f"Bridge {local_url(settings.bridge.host, own_port)}")
        asyncio.run(_serve(settings, api_url, frozenset(tokens), listeners, say))
    return 0


def check_reach(settings: AvatarSettings) -> None:
    """Raise `NotConfigured` if other machines could reach a bridge that has no token of theirs."""
    if settings.bridge.token is None and not is_loopback(settings.bridge.host):
        raise NotConfigured(
            f"The bridge would listen on {settings.bridge.host} without a token to ask for. Nothing was started.",
            hint="Set AVATAR_BRIDGE__TOKEN to what the store sends, or AVATAR_BRIDGE__HOST to 127.0.0.1.",
        )


def _for_the_store(stack: ExitStack, port: int | None, own_port: int, say: Say) -> list[socket.socket]:
    """Also listen where the embedded store sends its events, if it is not where we are anyway."""
    if port in {None, own_port}:
        return []
    try:
        return [stack.enter_context(listen("bridge", "127.0.0.1", port or 0))]
    except AvatarError as error:
        say(f"{error} Uploads are found by the sweep only, until the embedded store is started anew.")
        return []


async def _serve(
    settings: AvatarSettings,
    api_url: str,
    tokens: frozenset[str],
    listeners: list[socket.socket],
    say: Say,
) -> None:
    workspace = Workspace(settings)
    outbox = Outbox(StateDirectory(settings.state_dir).outbox)
    uploads = Uploads(Inbox(workspace))
    settling = Settling(outbox, uploads, api_url, settings.inbox.settle_seconds, say)
    app = build_app(Bridge(workspace, outbox, tokens, settling.notice))
    try:
        async with asyncio.TaskGroup() as group:
            work = group.create_task(settling.run())
            await Server(app).serve(sockets=listeners)
            work.cancel()
    finally:
        outbox.close()
        await workspace.aclose()

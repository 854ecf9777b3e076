"""The bridge of this machine: the token that is made for it, and what the embedded store needs to find it."""

import os
import secrets
from contextlib import suppress

from flows.local.record import StateDirectory
from tasks.settings import AvatarSettings
from tasks.storage.embedded import write_private
from tasks.storage.listener import Listener


def listener(state: StateDirectory, settings: AvatarSettings) -> Listener:
    """What the embedded store is told when it starts, so that it tells the bridge of uploads."""
    return Listener(f"{settings.store.bucket}/{settings.inbox.prefix}", bridge_token(state))


def bridge_token(state: StateDirectory) -> str:
    """The token of this state directory, made once. Only its owner can read it."""
    state.path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not _kept(state):
        draft = state.token.with_name(f"bridge.{secrets.token_hex(4)}.token")
        write_private(draft, secrets.token_urlsafe(32))
        with suppress(FileExistsError):  # somebody was faster, and theirs holds
            os.link(draft, state.token)
        draft.unlink()
    return _kept(state)


def _kept(state: StateDirectory) -> str:
    with suppress(FileNotFoundError):
        if token := state.token.read_text().strip():
            return token
        state.token.unlink()  # a full disk leaves an empty file, and an empty token would let everybody in
    return ""


def store_port(state: StateDirectory, settings: AvatarSettings) -> int | None:
    """Where the embedded store expects the bridge; None if another store is in use."""
    store = state.read().store
    ours = store is not None and store.runs and settings.store.endpoint in {None, store.endpoint}
    return store.listener_port if store and ours else None

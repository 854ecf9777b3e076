"""What a fork may be made to believe, and the defects that the suite must notice."""

import datetime as dt
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

from avatar.store.store import Store


def skew_clock(seconds: float) -> None:
    """Shift the wall clock of this process; the monotonic clock goes on as it was."""
    true_time, true = time.time, dt.datetime

    class Skewed(true):  # type: ignore[misc, valid-type]
        @classmethod
        def now(cls, tz: dt.tzinfo | None = None) -> dt.datetime:
            return true.now(tz) + dt.timedelta(seconds=seconds)

        @classmethod
        def utcnow(cls) -> dt.datetime:
            return true.now(dt.UTC).replace(tzinfo=None) + dt.timedelta(seconds=seconds)

    time.time = lambda: true_time() + seconds
    for module in list(sys.modules.values()):
        if getattr(module, "__name__", "").startswith(("avatar", "tasks", "flows", "minio")):
            swap(module, true, Skewed)


def swap(module: Any, old: object, new: object) -> None:
    for name, value in list(vars(module).items()):
        if value is old:
            setattr(module, name, new)


def rename_host(name: str) -> None:
    """Another machine, as far as the journal's holder shows."""
    socket.gethostname = lambda: name


def plain_put() -> None:
    """The journal's conditional create becomes a plain put: whoever writes believes to be the first."""
    conditional = Store.create

    async def create(self: Store, key: str, data: bytes, *, content_type: str = "application/json") -> bool:
        if not key.startswith("journal/"):
            return await conditional(self, key, data, content_type=content_type)
        await self.put(key, data, content_type=content_type)
        return True

    Store.create = create  # type: ignore[method-assign]


MUTATIONS: dict[str, Callable[[], None]] = {"plain-put": plain_put}

"""Files that a run has stored or fetched, kept on this machine for as long as it lasts: what it needs again is at hand."""

import asyncio
import contextlib
import hashlib
import os
import shutil
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

from avatar.store.objects import hash_file

#: Bytes of all copies together, the oldest going first; and of one.
MOST_BYTES, MOST_OF_ONE = 256 * 2**20, 64 * 2**20


class Copies:
    """By object key. Whoever gets one must not change it. A disk that is full keeps none, and nothing fails of that."""

    def __init__(self, parent: Callable[[], Path]) -> None:
        self._parent, self._lock = parent, threading.Lock()
        self._made: tempfile.TemporaryDirectory[str] | None = None
        self._sizes: OrderedDict[str, int] = OrderedDict()

    async def keep(self, key: str, path: Path) -> None:
        """Keep what the key holds."""
        await asyncio.to_thread(self._keep, key, path)

    async def keep_checked(self, key: str, path: Path, sha256: str) -> None:
        """Keep a copy of a user's file, which may change, if it is what the key holds."""

        def copy() -> None:
            with contextlib.suppress(OSError), tempfile.TemporaryDirectory(dir=self._folder) as folder:
                if path.stat().st_size <= MOST_OF_ONE:
                    taken = Path(shutil.copyfile(path, Path(folder) / "copy"))
                    if hash_file(taken) == sha256:
                        self._keep(key, taken)

        if key not in self._sizes:
            await asyncio.to_thread(copy)

    async def fetch(self, key: str, target: Path) -> bool:
        """Put the copy at `target`. False if there is none."""
        if key not in self._sizes:
            return False
        return await asyncio.to_thread(_link, self._at(key), target)

    async def read(self, key: str) -> bytes | None:
        """What the key holds, if there is a copy of it."""
        if key not in self._sizes:
            return None
        with contextlib.suppress(OSError):
            return await asyncio.to_thread(self._at(key).read_bytes)
        return None

    def close(self) -> None:
        self._sizes.clear()
        if self._made is not None:
            self._made.cleanup()

    @property
    def _folder(self) -> Path:
        with self._lock:
            if self._made is None:
                self._made = tempfile.TemporaryDirectory(dir=self._parent(), prefix="copies-")
            return Path(self._made.name)

    def _at(self, key: str) -> Path:
        return self._folder / hashlib.sha256(key.encode()).hexdigest()

    def _keep(self, key: str, path: Path) -> None:
        with contextlib.suppress(OSError):
            self._forget(key)
            size = path.stat().st_size
            if size <= MOST_OF_ONE and _link(path, self._at(key)):
                self._sizes[key] = size
        while sum(self._sizes.values()) > MOST_BYTES:
            self._forget(next(iter(self._sizes)))

    def _forget(self, key: str) -> None:
        self._sizes.pop(key, None)
        with contextlib.suppress(OSError):
            self._at(key).unlink(missing_ok=True)


def _link(source: Path, target: Path) -> bool:
    """The same file under another name where that can be had, else a copy."""
    try:
        os.link(source, target)
    except OSError:
        try:
            shutil.copyfile(source, target)
        except OSError:
            target.unlink(missing_ok=True)
            return False
    return True

"""A store in memory that keeps the contract of `Store`: for tests of rules, which need no server to be right.

Passes `test_contract.py` beside the real ones. Times are told by the server's own clock, to the second, as S3 does.
"""

import asyncio
import builtins
import hashlib
import math
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

from avatar.errors import InvalidInput, ObjectNotFound, StoreUnavailable
from avatar.store.connection import CallCounts
from avatar.store.objects import Blob, KeyTaken, Stat, check_key, check_metadata, check_readable
from avatar.store.sdk_calls import MIB
from avatar.store.store import LONGEST_PRESIGN, Store


@dataclass(frozen=True)
class Kept:
    """One object: its bytes, and what is known of it but the moment of asking."""

    data: bytes
    stat: Stat

    def seen(self, at: datetime) -> Stat:
        """What an answer of that moment tells of it."""
        seen = Stat.__new__(Stat)  # `replace` takes longer than all else that is done here
        vars(seen).update(vars(self.stat), served_at=at)
        return seen

    @cached_property
    def listed(self) -> Stat:
        """As in a listing of S3: no content type, no metadata, no moment of asking."""
        stat = self.stat
        return Stat(stat.key, stat.size, stat.etag, stat.modified)


@dataclass
class MemoryServer:
    """Buckets in memory. Several stores on one server see the same objects, as several processes would.

    Attributes:
        machine: the machine's clock.
        ahead: by how much its clock is ahead of the machine's; `tick` moves it on without waiting.
        faults: by method of `Store` ("create", "get", …), what happens to its next calls: `refused` (not done,
            `StoreUnavailable`), `lost` (done, and `StoreUnavailable` all the same), or a number: done that many
            seconds later.
        calls: method and key of every call, in order.
    """

    machine: Callable[[], datetime] = lambda: datetime.now(UTC)
    ahead: timedelta = timedelta()
    buckets: dict[str, dict[str, Kept]] = field(default_factory=dict)
    faults: dict[str, list[str | float]] = field(default_factory=dict)
    calls: list[tuple[str, str]] = field(default_factory=list)

    def tick(self, seconds: float) -> None:
        """Let its clock go on."""
        self.ahead += timedelta(seconds=seconds)

    def clock(self) -> datetime:
        return (self.machine() + self.ahead).replace(microsecond=0)

    async def answer(self, method: str, key: str, act: Callable[[], Any]) -> Any:
        """Carry out one request, or let it meet with the fault that waits for its method."""
        self.calls.append((method, key))
        waiting = self.faults.get(method)
        fault = waiting.pop(0) if waiting else None
        await asyncio.sleep(fault if isinstance(fault, float | int) else 0)
        if fault == "refused":
            raise StoreUnavailable(f"The store was told to refuse: could not {method} {key}.")
        result = act()
        if fault == "lost":
            raise StoreUnavailable(f"The store was told to lose its answer: {method} {key}.")
        return result


class MemoryStore(Store):
    """`Store` on a `MemoryServer`. What is not written here is the real one's."""

    def __init__(self, server: MemoryServer | None = None, bucket: str = "avatar") -> None:
        self.server = server or MemoryServer()
        self.bucket, self.place = bucket, "memory.invalid"
        self.proved = False

    @property
    def calls(self) -> CallCounts:
        return CallCounts(len(self.server.calls))

    async def _ask(self, method: str, key: str, act: Callable[[], Any]) -> Any:
        return await self.server.answer(method, key, act)

    @property
    def _objects(self) -> dict[str, Kept]:
        objects = self.server.buckets.get(self.bucket)
        if objects is None:
            raise StoreUnavailable(f"The store answered NoSuchBucket: {self.bucket}.")
        return objects

    def _kept(self, key: str) -> Kept:
        try:
            return self._objects[key]
        except KeyError:
            raise ObjectNotFound(f"The store has no such object: {key}.") from None

    def _seen(self, key: str) -> Stat:
        return self._kept(key).seen(self.server.clock())

    def keep(
        self, key: str, data: bytes, content_type: str = "", metadata: Mapping[str, str] | None = None
    ) -> Stat:
        """Write an object past every rule, as other programs do."""
        told = {name.lower(): value for name, value in (metadata or {}).items()}
        etag, now = hashlib.md5(data, usedforsecurity=False).hexdigest(), self.server.clock()
        self._objects[key] = Kept(
            data, Stat(key, len(data), etag, now, None, content_type, told.get("sha256"), told)
        )
        return self._seen(key)

    async def ensure_bucket(self) -> None:
        await self._ask("ensure_bucket", "", lambda: self.server.buckets.setdefault(self.bucket, {}))

    async def stat(self, key: str) -> Stat:
        return await self._ask("stat", check_readable(key), lambda: self._seen(key))

    async def get(self, key: str, *, max_bytes: int = 16 * MIB) -> Blob:
        blob = await self._ask(
            "get", check_readable(key), lambda: Blob(self._kept(key).data, self._seen(key))
        )
        if blob.stat.size > max_bytes:
            raise InvalidInput(f"{key} has {blob.stat.size} bytes; no more than {max_bytes} were expected.")
        return blob

    async def put(
        self,
        key: str,
        data: bytes,
        *,
        content_type: str,
        metadata: Mapping[str, str] | None = None,
        like: str = "",
    ) -> Stat:
        named, told = check_key(key, like=like), check_metadata(metadata)
        return await self._ask("put", named, lambda: self.keep(named, data, content_type, told))

    async def create(self, key: str, data: bytes, *, content_type: str = "application/json") -> bool:
        def act() -> bool:
            if key in self._objects:
                return self._objects[key].data == data
            self.keep(key, data, content_type)
            return True

        return await self._ask("create", check_key(key), act)

    async def put_file(
        self,
        key: str,
        path: Path,
        *,
        content_type: str,
        sha256: str,
        overwrite: bool = False,
        expect_new: bool = False,
    ) -> Stat:
        data = path.read_bytes()
        check_key(key)
        found = None if overwrite else await self.exists(key)
        if found and (found.sha256, found.size) == (sha256, len(data)):
            return found
        if found:
            raise KeyTaken(f"{key} already holds other content ({found.size} bytes), which was kept.")
        told = {"sha256": sha256}
        return await self._ask("put_file", key, lambda: self.keep(key, data, content_type, told))

    async def download(self, key: str, path: Path) -> Stat:
        data, stat = await self._ask(
            "download", check_readable(key), lambda: (self._kept(key).data, self._seen(key))
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return stat

    async def stream(self, key: str, *, offset: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        if length == 0:
            return
        data = await self._ask("stream", check_readable(key), lambda: self._kept(key).data)
        if offset and offset >= len(data):
            raise InvalidInput(f"The object has no such range of bytes: could not read {key}.")
        end = len(data) if length is None else min(len(data), offset + length)
        for number in range(math.ceil((end - offset) / MIB)):
            start = offset + number * MIB
            yield data[start : min(start + MIB, end)]

    async def list(
        self, prefix: str, *, recursive: bool = True, after: str = "", most: int | None = None
    ) -> builtins.list[Stat]:
        def act() -> builtins.list[Stat]:
            found = self._listed(prefix, recursive=recursive)
            return [stat for stat in found if stat.key > after][:most] if after or most else found

        return await self._ask("list", prefix, act)

    def _listed(self, prefix: str, *, recursive: bool) -> builtins.list[Stat]:
        objects = self._objects
        # In the order of their bytes, which is that of their characters' numbers.
        found = [objects[key].listed for key in sorted(key for key in objects if key.startswith(prefix))]
        if recursive:
            return found
        flat = dict(_flat(prefix, stat) for stat in found)
        return [flat[key] for key in sorted(flat)]

    async def copy(self, source_key: str, target_key: str) -> Stat:
        named = check_key(target_key, like=source_key)

        def act() -> Stat:
            kept = self._kept(source_key)
            return self.keep(named, kept.data, kept.stat.content_type, kept.stat.metadata)

        return await self._ask("copy", named, act)

    async def remove(self, key: str) -> None:
        await self._ask("remove", check_readable(key), lambda: self._objects.pop(key, None))

    async def presign(self, key: str, *, expires: timedelta) -> str:
        """A link that leads nowhere, and has a signature to be kept secret."""
        if not timedelta(seconds=1) <= expires <= LONGEST_PRESIGN:
            raise InvalidInput(f"A link can hold for 1 second to 7 days, not for {expires}.")
        return f"https://memory.invalid/{self.bucket}/{quote(check_readable(key))}?X-Amz-Signature=0"

    async def aclose(self) -> None:
        """There is nothing to close."""


def _flat(prefix: str, stat: Stat) -> tuple[str, Stat]:
    """An object of this level as it is, a deeper one as the folder it is in."""
    inner, slash, _ = stat.key.removeprefix(prefix).partition("/")
    folder = f"{prefix}{inner}/"
    return (folder, Stat(folder, 0, "", stat.modified)) if slash else (stat.key, stat)

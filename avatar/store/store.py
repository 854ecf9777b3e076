"""The store: one bucket of any S3 server, through the MinIO SDK.

Uses only what every S3 server has, and conditional create, which `proves_conditional_create` checks.
Whatever fails is `StoreUnavailable`; `ObjectNotFound` is raised only when the store said so itself.
Calls that may be repeated are tried three times within about ten seconds.
"""

import asyncio
import builtins
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from avatar.errors import InvalidInput, ObjectNotFound, StoreUnavailable, StoreUnfit
from avatar.settings_sections import StoreSettings
from avatar.store.connection import CallCounts, Connection, create_if_absent
from avatar.store.local_copies import Copies
from avatar.store.objects import (
    Blob,
    KeyTaken,
    Stat,
    check_key,
    check_metadata,
    check_readable,
    md5_of,
    proves_bytes,
    stat_from_listing,
)
from avatar.store.sdk_calls import MIB, PART_SIZE, Bucket, release

__all__ = ["Blob", "Stat", "Store"]

#: Larger bodies go by the transfer threads and their time-outs.
SMALL = MIB // 4
LONGEST_PRESIGN = timedelta(days=7)


class Store:
    """One bucket. Making it does no I/O; it may be used from any event loop.

    Keys that are written must pass everywhere (`[A-Za-z0-9._=-]` parts), keys that are read need not:
    `InvalidInput` otherwise. Raises `NotConfigured` if the address or the keys are missing.
    """

    #: What the run that this store belongs to has at hand.
    copies: Copies | None = None

    def __init__(self, settings: StoreSettings) -> None:
        self._connection = Connection(settings)
        self._small = Bucket(self._connection.client, settings.bucket)
        self._large = Bucket(self._connection.transfers, settings.bucket)
        self._creating = Bucket(self._connection.creating, settings.bucket)
        self.bucket = settings.bucket
        self.place = self._connection.endpoint
        #: Whether it is known to refuse to create over an object.
        self.proved = False
        self._keeps_metadata = False

    @property
    def calls(self) -> CallCounts:
        """What this store was asked until now."""
        return self._connection.calls

    async def ensure_bucket(self) -> None:
        """Make the bucket unless it is there."""
        await self._connection.run(f"make the bucket {self.bucket}", self._small.ensure)

    async def stat(self, key: str) -> Stat:
        """Size, ETag, times and metadata. Raises `ObjectNotFound`."""
        return await self._connection.run(f"look at {key}", partial(self._small.stat, check_readable(key)))

    async def exists(self, key: str) -> Stat | None:
        """Like `stat`; None if the store said that there is no such object."""
        try:
            return await self.stat(key)
        except ObjectNotFound:
            return None

    async def get(self, key: str, *, max_bytes: int = 16 * MIB) -> Blob:
        """A small object with its `Stat` in one request. Raises `InvalidInput` if it is larger than `max_bytes`."""
        read = partial(self._small.read, check_readable(key), max_bytes)
        blob = await self._connection.run(f"read {key}", read)
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
        """Write a small object, over whatever is there. Raises `StoreUnavailable` if other bytes arrived.

        Parts of the key may be named as oddly as those of `like`, a key that others wrote.
        """
        small = len(data) <= SMALL
        bucket, run = (
            (self._small, self._connection.run) if small else (self._large, self._connection.transfer)
        )
        named = check_key(key, like=like)
        send = partial(bucket.put, named, data, content_type, check_metadata(metadata))
        if not small:
            # A dead store is found out in seconds by a short call, in minutes by a transfer.
            await self.exists(key)
        stat = await run(f"write {key}", send)
        if not proves_bytes(stat, data):
            await self._check_bytes(stat, data)
        return stat

    async def _check_bytes(self, stat: Stat, data: bytes) -> None:
        """Read back what was written; unless somebody has written it anew since."""
        kept = await self.get(stat.key, max_bytes=max(len(data), 16 * MIB))
        if kept.data != data and kept.stat.etag == stat.etag:
            raise StoreUnavailable(
                f"The store kept other bytes than were sent for {stat.key}. They can be sent again."
            )

    async def create(self, key: str, data: bytes, *, content_type: str = "application/json") -> bool:
        """Write an object only if there is none: True if it is ours, False if somebody else's is there.

        An object that already holds exactly `data` counts as ours, since it may be an earlier success whose
        answer was lost: put a unique token into every body. Tried five times. Raises `StoreUnavailable` if it
        stays unknown (creating again with the same bytes is safe), `StoreUnfit` if the store cannot do it.
        """

        async def read_back() -> bytes:
            read = partial(self._small.read_start, key, len(data) + 1)
            return await self._connection.run(f"read back {key}", read)

        return await create_if_absent(self._connection, check_key(key), data, content_type, read_back)

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
        """Upload a file in parts of 8 MiB, with its SHA-256 as metadata.

        Nothing is sent if the key already holds this content. Raises `KeyTaken` if it holds other content,
        unless `overwrite`: what is there may have been paid for. Raises `OSError` if the file cannot be read.

        With `expect_new` it is not looked at before: a file of one part is created, by a store known to do that, and
        only where the store says that something is there is that looked at.

        It is looked at afterwards, unless the answer's ETag proves that it arrived (not of several parts, not encrypted)
        and the store is known to keep metadata.
        """
        size = await asyncio.to_thread(lambda: path.stat().st_size)
        sent = check_key(key), path, content_type, {"sha256": sha256}
        etag = None
        if expect_new and self.proved and size <= PART_SIZE:
            create = partial(self._creating.create_file, *sent)
            etag = await self._connection.transfer(f"upload {key}", create)
        if etag is None and not overwrite and (found := await self._held(key, sha256, size)):
            return found
        if etag is None:
            etag = await self._connection.transfer(f"upload {key}", partial(self._large.put_file, *sent))
        arrived = size <= PART_SIZE and etag == await asyncio.to_thread(md5_of, path)
        if arrived and self._keeps_metadata:
            return Stat(key, size, etag, datetime.now(UTC), None, content_type, sha256, {"sha256": sha256})
        stat = await self.stat(key)
        if (stat.sha256, stat.size) != (sha256, size):
            raise StoreUnavailable(
                f"The store did not keep {key} as it was sent. The local file is untouched."
            )
        self._keeps_metadata = True
        return stat

    async def _held(self, key: str, sha256: str, size: int) -> Stat | None:
        """What the key holds, if that is this content; None for nothing. Raises `KeyTaken` for other content."""
        found = await self._connection.run(f"look at {key}", partial(self._small.head, key))
        self._keeps_metadata |= found is not None and found.sha256 is not None
        if found and (found.sha256, found.size) != (sha256, size):
            raise KeyTaken(
                f"{key} already holds other content ({found.size} bytes), which was kept. Nothing was uploaded.",
                hint="Ask for another take, or remove the object if it is not wanted.",
            )
        return found

    async def download(self, key: str, path: Path) -> Stat:
        """Fetch an object to `path`, which appears only when complete and, if its SHA-256 is known, verified.

        Raises `OSError` if the file cannot be written.
        """
        fetch = partial(self._small.download, check_readable(key), path)
        return await self._connection.transfer(f"download {key}", fetch)

    async def fetch(self, key: str, path: Path) -> None:
        """`download` of what never changes under its key: from this machine if this run had it already."""
        if self.copies is None:
            await self.download(key, path)
        elif not await self.copies.fetch(key, path):
            await self.download(key, path)
            await self.copies.keep(key, path)

    async def content(self, key: str) -> bytes:
        """All bytes of what never changes under its key: from this machine if this run had it already."""
        kept = await self.copies.read(key) if self.copies else None
        return b"".join([chunk async for chunk in self.stream(key)]) if kept is None else kept

    async def stream(self, key: str, *, offset: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        """The bytes of an object, or `length` of them from `offset`, in chunks of at most 1 MiB.

        Raises `InvalidInput` if `offset` is past the end, `StoreUnavailable` also in the middle.
        """
        if length == 0:
            return
        begin = partial(self._small.open_range, check_readable(key), offset, length)
        response = await self._connection.run(f"read {key}", begin)
        try:
            read = partial(response.read, MIB, decode_content=False)
            while chunk := await self._connection.run(f"read {key}", read, pauses=()):
                yield chunk
        finally:
            # In a thread: a read that was cancelled may still hold the response.
            await self._connection.run(f"end reading {key}", partial(release, response), pauses=())

    async def list(
        self, prefix: str, *, recursive: bool = True, after: str = "", most: int | None = None
    ) -> builtins.list[Stat]:
        """All objects whose keys begin with `prefix`, in the byte order of their keys.

        With `after`, those behind that key; of them, up to `most`. A thousand are one request.

        Not recursive: up to the next slash, folders as keys ending in a slash. SeaweedFS shows an emptied
        folder for up to two minutes.
        """
        look = partial(self._small.entries, prefix, recursive=recursive, after=after, most=most)
        found = await self._connection.run(f"list {prefix or self.bucket}", look)
        # SeaweedFS lists a/b before a-b.
        return sorted((stat_from_listing(item) for item in found), key=lambda stat: stat.key.encode())

    async def copy(self, source_key: str, target_key: str) -> Stat:
        """Copy within the bucket, metadata included, over whatever is there. Raises `ObjectNotFound`.

        Parts of the target may be named as oddly as those of the source.
        """
        send = partial(self._large.copy, source_key, check_key(target_key, like=source_key))
        await self.stat(source_key)
        await self._connection.transfer(f"copy {source_key} to {target_key}", send)
        return await self.stat(target_key)

    async def remove(self, key: str) -> None:
        """Remove an object; one that is not there is no error."""
        await self._connection.run(f"remove {key}", partial(self._small.remove, check_readable(key)))

    async def presign(self, key: str, *, expires: timedelta) -> str:
        """A GET link on the public endpoint, for at most seven days. No request is made. It is a secret."""
        if not timedelta(seconds=1) <= expires <= LONGEST_PRESIGN:
            raise InvalidInput(f"A link can hold for 1 second to 7 days, not for {expires}.")
        return self._connection.public.get_presigned_url(
            "GET", self.bucket, check_readable(key), expires=expires
        )

    async def proves_conditional_create(self) -> bool:
        """Whether this store, tried now on an object of its own, refuses to create over an object.

        JuiceFS and rclone overwrite silently. Remembered once proved; raises `StoreUnavailable`.
        """
        self.proved = self.proved or await self._try_conditional_create()
        return self.proved

    async def _try_conditional_create(self) -> bool:
        key = f"probe/{secrets.token_hex(16)}"
        first, second = (secrets.token_bytes(16) for _ in range(2))
        try:
            won = await self.create(key, first), await self.create(key, second)
            return won == (True, False) and (await self.get(key)).data == first
        except StoreUnfit:
            return False
        finally:
            with suppress(StoreUnavailable):
                await self.remove(key)

    async def aclose(self) -> None:
        """Close threads and sockets, once. Calls under way are waited for."""
        await self._connection.aclose()

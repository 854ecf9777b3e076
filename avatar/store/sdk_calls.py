"""One bucket through the MinIO SDK: each call of it runs in a thread, and raises what the SDK raises."""

import hashlib
import io
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from itertools import islice
from pathlib import Path

from minio import Minio
from minio.commonconfig import CopySource
from minio.datatypes import Object
from minio.error import S3Error
from urllib3 import BaseHTTPResponse
from urllib3.exceptions import ProtocolError

from avatar.store.connection import TAKEN
from avatar.store.objects import (
    META,
    Blob,
    Stat,
    WebPage,
    is_missing,
    is_web_page,
    plain_etag,
    stat_from_headers,
    status_of,
)

MIB = 1024 * 1024
#: The SDK holds whole parts in memory: this many of this size for each upload.
PART_SIZE = 8 * MIB
PARALLEL_PARTS = 2
SMALLEST_PART = 5 * MIB
OURS = frozenset({"BucketAlreadyOwnedByYou", "BucketAlreadyExists"})


@dataclass(frozen=True)
class Bucket:
    """A bucket seen through one SDK client."""

    client: Minio
    name: str

    def ensure(self) -> None:
        """Make the bucket unless it is there, or another process makes it now."""
        if self.client.bucket_exists(self.name):
            return
        try:
            self.client.make_bucket(self.name)
        except S3Error as error:
            if error.code not in OURS:
                raise

    def stat(self, key: str) -> Stat:
        """HEAD, and on its 404 a GET: only a body can tell a missing object from a missing bucket."""
        try:
            found = self.client.stat_object(self.name, key)
        except S3Error as error:
            if not is_missing(error):
                raise
            response = self.client.get_object(self.name, key)
            release(response)
            return stat_from_headers(key, response.headers)
        return stat_from_headers(key, dict(found.metadata or {}))

    def read(self, key: str, max_bytes: int) -> Blob:
        """Body and head in one GET; a body larger than `max_bytes` is left unread."""
        response = self.client.get_object(self.name, key)
        try:
            found = stat_from_headers(key, response.headers)
            data = b"" if found.size > max_bytes else response.read(decode_content=False)
        finally:
            release(response)
        return Blob(data, found)

    def read_start(self, key: str, count: int) -> bytes:
        """The first `count` bytes, or all if there are fewer. No Range: an empty object would answer 416."""
        response = self.client.get_object(self.name, key)
        try:
            return response.read(count, decode_content=False)
        finally:
            release(response)

    def open_range(self, key: str, offset: int, length: int | None) -> BaseHTTPResponse:
        """A GET whose body is still to be read. rclone answers a Range with the whole object: refused."""
        response = self.client.get_object(self.name, key, offset=offset, length=length or 0)
        ranged = offset > 0 or length is not None
        if ranged and response.status != HTTPStatus.PARTIAL_CONTENT:
            release(response)
            raise ProtocolError("The store answered a request for a range with the whole object.")
        return response

    def put(self, key: str, data: bytes, content_type: str, metadata: Mapping[str, str]) -> Stat:
        """One PUT, whatever the size, so that a pointer changes at once or not at all."""
        result = self.client.put_object(
            self.name,
            key,
            io.BytesIO(data),
            len(data),
            content_type,
            metadata=dict(metadata),
            part_size=max(len(data), SMALLEST_PART),
        )
        headers = {name.lower(): value for name, value in (result.http_headers or {}).items()}
        sent = {"content-type": content_type} | {
            META + name.lower(): value for name, value in metadata.items()
        }
        if is_web_page(headers):
            raise WebPage
        return stat_from_headers(key, headers | sent, size=len(data))

    def head(self, key: str) -> Stat | None:
        """One HEAD before a write: what is there, if anything. Whether the bucket is, the write will tell."""
        try:
            found = self.client.stat_object(self.name, key)
        except S3Error as error:
            if not is_missing(error):
                raise
            return None
        return stat_from_headers(key, dict(found.metadata or {}))

    def put_file(self, key: str, path: Path, content_type: str, metadata: Mapping[str, str]) -> str:
        """Upload in parts; the SDK removes them from the store if one fails. Returns the ETag."""
        done = self.client.fput_object(
            self.name,
            key,
            str(path),
            content_type,
            metadata=dict(metadata),
            part_size=PART_SIZE,
            num_parallel_uploads=PARALLEL_PARTS,
        )
        return plain_etag(done.etag)

    def create_file(self, key: str, path: Path, content_type: str, metadata: Mapping[str, str]) -> str | None:
        """`put_file` by a client that creates; None if something is there, or comes to be there at this moment."""
        try:
            return self.put_file(key, path, content_type, metadata)
        except S3Error as error:
            if status_of(error) not in TAKEN:
                raise
            return None

    def download(self, key: str, path: Path) -> Stat:
        """Write beside `path`, verify, then rename."""
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f".{path.name[:100]}.{secrets.token_hex(4)}.part")
        response = self.client.get_object(self.name, key)
        try:
            found = stat_from_headers(key, response.headers)
            arrived = write_body(response, unfinished)
            if found.sha256 not in {None, arrived}:
                raise ProtocolError("The bytes that arrived do not have the SHA-256 kept with the object.")
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
            release(response)
        return found

    def entries(self, prefix: str, *, recursive: bool, after: str, most: int | None) -> list[Object]:
        found = self.client.list_objects(
            self.name, prefix=prefix, recursive=recursive, start_after=after or None
        )
        try:
            return [*islice(found, most)]
        except ValueError as error:  # what the SDK raises for XML of another kind
            raise WebPage from error

    def copy(self, source_key: str, target_key: str) -> None:
        self.client.copy_object(self.name, target_key, CopySource(self.name, source_key))

    def remove(self, key: str) -> None:
        self.client.remove_object(self.name, key)


def write_body(response: BaseHTTPResponse, path: Path) -> str:
    """Write the rest of an answer to `path`; its SHA-256."""
    digest = hashlib.sha256()
    with path.open("wb") as file:
        while chunk := response.read(MIB, decode_content=False):
            digest.update(chunk)
            file.write(chunk)
    return digest.hexdigest()


def release(response: BaseHTTPResponse) -> None:
    """Give the connection back; one with bytes left on it is closed first, to be opened anew."""
    response.close()
    response.release_conn()

"""What stores say about new objects, read into changes of uploads. Nothing in a notice is ever fetched."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_plus

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from avatar.errors import InvalidInput
from avatar.store.objects import check_readable

_BUCKETS = "/buckets/"


@dataclass(frozen=True)
class Written:
    """An object that was written. `version` differs whenever the object was written anew."""

    bucket: str
    key: str
    version: str


@dataclass(frozen=True)
class Change:
    """A new object in an upload, which is a folder of the inbox."""

    upload: str
    key: str
    version: str


class _Part(BaseModel):
    """A part of a notice. What stores say beyond that is theirs, and null is as good as absent."""

    model_config = ConfigDict(alias_generator=to_camel, extra="ignore", frozen=True)


class _Bucket(_Part):
    name: str = Field(min_length=1)


class _Object(_Part):
    key: str = Field(min_length=1)
    e_tag: str | None = None
    sequencer: str | None = None


class _S3(_Part):
    bucket: _Bucket
    object: _Object


class _Record(_Part):
    event_name: str
    s3: _S3


class _S3Notice(BaseModel):
    #: A test of the connection (`s3:TestEvent`) has none.
    records: list[_Record] = Field([], alias="Records")


class _Attributes(BaseModel):
    mtime: int = 0
    md5: str | None = None


class _Chunk(BaseModel):
    modified_ts_ns: int = 0


class _Entry(BaseModel):
    name: str = ""
    is_directory: bool = False
    attributes: _Attributes = _Attributes()
    chunks: list[_Chunk] = []

    @property
    def version(self) -> str:
        written = max((chunk.modified_ts_ns for chunk in self.chunks), default=0)
        return f"{self.attributes.md5 or ''}/{written or self.attributes.mtime}"


class _Message(BaseModel):
    new_entry: _Entry | None = None
    new_parent_path: str = ""


class _FilerNotice(BaseModel):
    key: str = Field(min_length=1)
    message: _Message


def from_s3(body: bytes) -> list[Written]:
    """Read a notification of MinIO or S3, which have the same form.

    https://docs.aws.amazon.com/AmazonS3/latest/userguide/notification-content-structure.html

    Raises:
        InvalidInput: it is no such notification.
    """
    records = _read(_S3Notice, body).records
    return [_written(record.s3) for record in records if "ObjectCreated:" in record.event_name]


def from_filer(body: bytes) -> list[Written]:
    """Read a message of SeaweedFS's filer (as weed 4.48 sends it): a path, and the entry as it is now, if there is one.

    Raises:
        InvalidInput: it is no such message.
    """
    notice = _read(_FilerNotice, body)
    entry = notice.message.new_entry
    if entry is None or entry.is_directory:
        return []
    # After a rename `key` is the old path.
    parent = notice.message.new_parent_path
    path = f"{parent}/{entry.name}" if parent and entry.name else notice.key
    bucket, _, key = path.removeprefix(_BUCKETS).partition("/")
    return [Written(bucket, key, entry.version)] if path.startswith(_BUCKETS) and key else []


def changes(written: list[Written], bucket: str, prefix: str) -> Iterator[Change]:
    """Those in uploads that wait. `inbox/.done/…` and its like are ours, and what lies in no folder is no upload."""
    for each in written:
        upload, _, rest = each.key.removeprefix(prefix).partition("/")
        inside = each.bucket == bucket and each.key.startswith(prefix)
        if inside and rest and not upload.startswith(".") and _is_readable(each.key):
            yield Change(upload, each.key, each.version)


def _is_readable(key: str) -> bool:
    """Whether the store can be asked for it: one that fails on a key would be asked for ever."""
    try:
        check_readable(key)
    except InvalidInput:
        return False
    return True


def _written(s3: _S3) -> Written:
    version = f"{s3.object.e_tag or ''}/{s3.object.sequencer or ''}"
    return Written(s3.bucket.name, unquote_plus(s3.object.key), version)


def _read(model: type[Any], body: bytes) -> Any:
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        fault = error.errors(include_input=False, include_url=False, include_context=False)[0]
        where = ".".join(str(part) for part in fault["loc"])
        raise InvalidInput(f"This is not a notification: {where or 'body'}: {fault['msg']}.") from None

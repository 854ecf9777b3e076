"""Objects of the store: what is told of one, which keys every server takes, and what a failed call means."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from http import HTTPStatus
from pathlib import Path
from xml.etree.ElementTree import ParseError

import urllib3.exceptions
from minio.datatypes import Object
from minio.error import InvalidResponseError, MinioException, S3Error, ServerError

from avatar.errors import AvatarError, InvalidInput, ObjectNotFound, StoreUnavailable

# What the store tells about an object, and which keys every S3 server takes.
LONGEST_KEY = 900
# Servers that keep objects as files take no longer name (255 bytes, less what they append).
SEGMENT = re.compile(r"[A-Za-z0-9._=-]{1,200}")
META = "x-amz-meta-"
NEVER = datetime.fromtimestamp(0, UTC)


@dataclass(frozen=True)
class Stat:
    """An object without its bytes. `size` in bytes; times are the store's clock, to the second.

    Listings carry no content type, metadata or `served_at`: those are empty there.
    """

    key: str
    size: int
    etag: str
    modified: datetime
    served_at: datetime | None = None
    content_type: str = ""
    sha256: str | None = None
    metadata: dict[str, str] = field(default_factory=dict)

    @property
    def age(self) -> float | None:
        """Seconds since the object was written, by the store's own clock; None if it did not say."""
        return None if self.served_at is None else (self.served_at - self.modified).total_seconds()


@dataclass(frozen=True)
class Blob:
    """A small object with its bytes."""

    data: bytes
    stat: Stat


def check_key(key: str, *, like: str = "") -> str:
    """The key itself, if every S3 server keeps it as written; `InvalidInput` otherwise.

    Parts that are in `like`, a key of this store, are kept by it as they are there.
    """
    known = set(like.split("/")) - {""}
    plain = all(
        (SEGMENT.fullmatch(segment) or segment in known) and segment not in {".", ".."}
        for segment in key.split("/")
    )
    if not plain or len(key.encode()) > LONGEST_KEY:
        raise InvalidInput(
            f"{key[:120]!r} cannot be used as an object key: not every S3 server keeps it as written.",
            hint="Use letters, digits and . _ = - in parts of at most 200 characters separated by single slashes.",
        )
    return key


def check_readable(key: str) -> str:
    """The key itself, if it can be asked for: what others put into the bucket may have spaces or accents."""
    odd = any(segment in {"", ".", ".."} for segment in key.split("/"))
    if odd or len(key.encode()) > LONGEST_KEY or not key.isprintable():
        raise InvalidInput(f"{key[:120]!r} cannot be used as an object key.")
    return key


class KeyTaken(AvatarError):
    """The key holds other content, which was kept. Nothing was uploaded."""


class WebPage(MinioException):
    """A web page where an S3 server should answer: a sign-in, a proxy's own."""


def is_web_page(headers: Mapping[str, str]) -> bool:
    """Whether an answer is one. An object that is a page has an ETag, at least."""
    lower = {name.lower(): value for name, value in headers.items()}
    return lower.get("content-type", "").lower().startswith("text/html") and not lower.get("etag")


def stat_from_headers(key: str, headers: Mapping[str, str], *, size: int | None = None) -> Stat:
    """Read an answer to HEAD, GET or PUT. After a PUT the moment of the answer stands for `modified`."""
    if size is None and is_web_page(headers):
        raise WebPage
    lower = {name.lower(): value for name, value in headers.items()}
    served_at = parse_date(lower.get("date"))
    metadata = {name.removeprefix(META): value for name, value in lower.items() if name.startswith(META)}
    return Stat(
        key=key,
        size=int(lower["content-length"]) if size is None else size,
        etag=plain_etag(lower.get("etag")),
        modified=parse_date(lower.get("last-modified")) or served_at or NEVER,
        served_at=served_at,
        content_type=lower.get("content-type", ""),
        sha256=metadata.get("sha256"),
        metadata=metadata,
    )


def stat_from_listing(item: Object) -> Stat:
    """Read one line of a listing; a folder (only in flat listings) has size 0 and no ETag."""
    return Stat(
        key=item.object_name or "",
        size=item.size or 0,
        etag=plain_etag(item.etag),
        modified=item.last_modified or NEVER,
    )


def check_metadata(metadata: Mapping[str, str] | None) -> dict[str, str]:
    """Metadata travels in HTTP headers: ASCII only."""
    checked = dict(metadata or {})
    for name, value in checked.items():
        if not (name + value).isascii() or not (name + value).isprintable():
            raise InvalidInput(f"The metadata {name[:80]!r} of an object must be printable ASCII.")
    return checked


def proves_bytes(stat: Stat, data: bytes) -> bool:
    """Whether the answer to a PUT proves that these bytes arrived: SeaweedFS does not check the signed SHA-256.

    The ETag of a store that encrypts, or sends none, proves nothing.
    """
    return stat.etag == hashlib.md5(data, usedforsecurity=False).hexdigest()


def plain_etag(etag: str | None) -> str:
    return (etag or "").removeprefix("W/").strip('"')


def parse_date(text: str | None) -> datetime | None:
    """An HTTP date, or None where a server sent something else."""
    try:
        return parsedate_to_datetime(text).astimezone(UTC) if text else None
    except ValueError:
        return None


#: All that the SDK raises for an answer, or for none.
CALL_ERRORS = (MinioException, urllib3.exceptions.HTTPError, ParseError)
NOT_FOUND = frozenset({"NoSuchKey", "NoSuchObject"})
BUSY = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS})
UNPROVED = "its certificate does not prove its name"
CREDENTIALS_HINT = "Check AVATAR_STORE__ACCESS_KEY, AVATAR_STORE__SECRET_KEY and this machine's clock."
FULL = frozenset(
    {"QuotaExceeded", "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded", "InsufficientCapacity"}
)
#: What to do about an answer, by its code.
ADVICE = {
    "AuthorizationHeaderMalformed": "Set AVATAR_STORE__REGION to the bucket's region.",
    "PermanentRedirect": "Set AVATAR_STORE__ENDPOINT, and AVATAR_STORE__REGION, to those of the bucket's region.",
    "TemporaryRedirect": "Set AVATAR_STORE__ENDPOINT to that of the bucket's region; a new bucket needs some minutes.",
    "IllegalLocationConstraintException": "Set AVATAR_STORE__REGION to the endpoint's region.",
    "SecondLevelDomainForbidden": "Set AVATAR_STORE__ADDRESSING=virtual.",
    "RequestTimeTooSkewed": "Set this machine's clock: it differs from the store's by more than minutes.",
    "InvalidAccessKeyId": f"{CREDENTIALS_HINT} Temporary keys need AVATAR_STORE__SESSION_TOKEN.",
    "ExpiredToken": "Get new temporary keys, or let them be found: unset AVATAR_STORE__ACCESS_KEY and __SECRET_KEY.",
    "InvalidToken": "Check AVATAR_STORE__SESSION_TOKEN: it goes with the keys it came with.",
    "WebPage": "A web page answers there, as of a sign-in: set AVATAR_STORE__ENDPOINT to the S3 server itself, and let no "
    "proxy before it ask for a login.",
    **dict.fromkeys(
        FULL, "Make room in the store, or raise its quota. What is there is safe; run the same again."
    ),
}


def advice_for(code: str, status: int | None) -> str | None:
    """What a person can do about an answer; None if nothing is known."""
    if code in ADVICE:
        return ADVICE[code]
    if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        return (
            "A proxy before the store takes no body of that size: raise its limit to 16 MiB at least "
            "(nginx: client_max_body_size)."
        )
    if status == HTTPStatus.INSUFFICIENT_STORAGE:
        return ADVICE["QuotaExceeded"]
    if status in {HTTPStatus.MOVED_PERMANENTLY, HTTPStatus.TEMPORARY_REDIRECT}:
        return ADVICE["PermanentRedirect"]
    return CREDENTIALS_HINT if status == HTTPStatus.FORBIDDEN else None


def status_of(error: BaseException) -> int | None:
    """HTTP status of the answer; None if there was none."""
    if isinstance(error, S3Error):
        return int(error.response.status)
    if isinstance(error, ServerError):
        return error.status_code
    return error._code if isinstance(error, InvalidResponseError) else None  # noqa: SLF001 - has no public name


def code_of(error: BaseException) -> str:
    """The S3 error code, else the kind of failure. Codes are cut to letters: servers may echo anything."""
    code = error.code if isinstance(error, S3Error) else None
    if code:
        return re.sub(r"[^A-Za-z0-9]", "", code)[:60]
    if isinstance(error, urllib3.exceptions.SSLError) and "certificate" in str(error):
        return UNPROVED
    status = status_of(error)
    return f"HTTP {status}" if status else type(error).__name__


def may_pass(error: BaseException) -> bool:
    """Whether the same call may succeed in a moment."""
    status = status_of(error)
    if code_of(error) == UNPROVED or isinstance(error, WebPage):
        return False
    return status is None or status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in BUSY


def is_missing(error: BaseException) -> bool:
    return status_of(error) == HTTPStatus.NOT_FOUND and code_of(error) in NOT_FOUND


def explain(error: BaseException, action: str, endpoint: str) -> AvatarError:
    """The project's error for a failed call. `action` completes "could not …".

    Raise it outside the `except` block: the original holds request headers and URLs.
    """
    code, status = code_of(error), status_of(error)
    if is_missing(error):
        return ObjectNotFound(f"The store has no such object: could not {action}.")
    if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        return InvalidInput(f"The object has no such range of bytes: could not {action}.")
    if status == HTTPStatus.FORBIDDEN and code not in FULL:
        text = f"Access denied by the store at {endpoint} ({code}): could not {action}."
        return StoreUnavailable(text, hint=advice_for(code, status))
    if isinstance(error, WebPage):
        return StoreUnavailable(
            f"No S3 server answers at {endpoint}: could not {action}.", hint=advice_for(code, None)
        )
    if status is None:
        text = f"No usable answer from the store at {endpoint} ({code}): could not {action}."
        own = "Set SSL_CERT_FILE to the certificate of its authority, if that is one of your own."
        there = "Check that the store runs and that AVATAR_STORE__ENDPOINT names it."
        return StoreUnavailable(text, hint=own if code == UNPROVED else there)
    place = f" (the region is {region})" if (region := region_of(error)) else ""
    text = f"The store at {endpoint} answered {code}{place}: could not {action}."
    there = f"Set AVATAR_STORE__REGION={region}, and AVATAR_STORE__ENDPOINT to that of this region."
    return StoreUnavailable(text, hint=there if region else advice_for(code, status))


def region_of(error: BaseException) -> str:
    """The bucket's region, where the answer names it."""
    if not isinstance(error, S3Error):
        return ""
    told = error.response.headers.get("x-amz-bucket-region", "")
    return told if re.fullmatch(r"[a-z0-9-]{2,40}", told) else ""


def hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def md5_of(path: Path) -> str:
    """What the ETag of a file is that went by one PUT to a store that does not encrypt."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, partial(hashlib.md5, usedforsecurity=False)).hexdigest()

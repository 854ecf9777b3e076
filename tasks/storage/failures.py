"""What a failed call to the store means, in words that hold no URL, signature or key."""

import re
from http import HTTPStatus
from xml.etree.ElementTree import ParseError

import urllib3.exceptions
from minio.error import InvalidResponseError, MinioException, S3Error, ServerError

from tasks.errors import AvatarError, InvalidInput, ObjectNotFound, StoreUnavailable

#: All that the SDK raises for an answer, or for none.
CALL_ERRORS = (MinioException, urllib3.exceptions.HTTPError, ParseError)
NOT_FOUND = frozenset({"NoSuchKey", "NoSuchObject"})
BUSY = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS})
UNPROVED = "its certificate does not prove its name"
CREDENTIALS_HINT = "Check AVATAR_STORE__ACCESS_KEY, AVATAR_STORE__SECRET_KEY and this machine's clock."


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
    if code_of(error) == UNPROVED:
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
    if status == HTTPStatus.FORBIDDEN:
        text = f"Access denied by the store at {endpoint} ({code}): could not {action}."
        return StoreUnavailable(text, hint=CREDENTIALS_HINT)
    if status is None:
        text = f"No usable answer from the store at {endpoint} ({code}): could not {action}."
        own = "Set SSL_CERT_FILE to the certificate of its authority, if that is one of your own."
        there = "Check that the store runs and that AVATAR_STORE__ENDPOINT names it."
        return StoreUnavailable(text, hint=own if code == UNPROVED else there)
    return StoreUnavailable(f"The store at {endpoint} answered {code}: could not {action}.")

"""Create an object only if there is none: the one thing safe payment needs beyond plain S3.

minio 7.2.20 has no parameter for it: `If-None-Match` in its `metadata=` becomes user metadata and the
object is silently overwritten. A presigned PUT carries the header as it is, and goes through the SDK's own
sockets, which belong to no event loop.
"""

import asyncio
import base64
import hashlib
import re
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from http import HTTPStatus

import urllib3.exceptions

from avatar.errors import ObjectNotFound, StoreUnavailable, StoreUnfit
from avatar.store.connection import Connection
from avatar.store.objects import BUSY, FULL, advise, code_of, is_web_page

#: Seconds between tries. SeaweedFS makes losers of a contended key wait for up to 6 s.
PAUSES = (0.1, 0.3, 0.8, 1.5)
#: No try is begun later than this many seconds after the first.
PATIENCE = 30.0
TAKEN = frozenset({HTTPStatus.PRECONDITION_FAILED, HTTPStatus.CONFLICT})


@dataclass(frozen=True)
class Answer:
    """How one PUT ended; `status` is None when the answer, or the request, was lost."""

    status: int | None
    code: str

    @property
    def created(self) -> bool:
        return self.status in {HTTPStatus.OK, HTTPStatus.CREATED, HTTPStatus.NO_CONTENT}

    @property
    def lost(self) -> bool:
        """The object may or may not have been created."""
        return self.status is None or self.status >= HTTPStatus.INTERNAL_SERVER_ERROR or self.status in BUSY


async def create(
    connection: Connection,
    key: str,
    data: bytes,
    content_type: str,
    read_back: Callable[[], Awaitable[bytes]],
) -> bool:
    """True if the object under `key` is now ours: created by this call, or found to hold these very bytes.

    `read_back` returns what the key holds, up to one byte more than `data`. See `Store.create`.
    """
    begun, send = time.monotonic(), partial(put_if_absent, connection, key, data, content_type)
    for pause in (*PAUSES, None):
        answer = await connection.run(f"create {key}", send, pauses=())
        if answer.created:
            return True
        check_answer(answer, key, connection.endpoint)
        if answer.status in TAKEN and (mine := await is_mine(data, read_back)) is not None:
            return mine
        if pause is None or time.monotonic() - begun > PATIENCE:
            break
        await asyncio.sleep(pause)
    with suppress(StoreUnavailable):
        if (mine := await is_mine(data, read_back)) is not None:
            return mine
    raise StoreUnavailable(
        f"The store at {connection.endpoint} did not confirm that it created {key} ({answer.code}). "
        "Creating it again with the same content is safe.",
        hint=advise(answer.code, answer.status)
        or "Check that the store runs and that AVATAR_STORE__ENDPOINT names it.",
    )


async def is_mine(data: bytes, read_back: Callable[[], Awaitable[bytes]]) -> bool | None:
    """Whether the key holds `data`, which may be an earlier success of ours; None if it holds nothing."""
    try:
        return await read_back() == data
    except ObjectNotFound:
        return None


def check_answer(answer: Answer, key: str, endpoint: str) -> None:
    """Raise for an answer that repeating the call will not change."""
    if answer.status == HTTPStatus.NOT_IMPLEMENTED:
        raise StoreUnfit(
            f"The store at {endpoint} cannot create an object conditionally (501): {key} was not created."
        )
    if answer.status not in TAKEN and not answer.lost:
        denied = answer.status == HTTPStatus.FORBIDDEN and answer.code not in FULL
        said = f"denied access ({answer.code})" if denied else f"answered {answer.code}"
        raise StoreUnavailable(
            f"The store at {endpoint} {said}: {key} was not created.",
            hint=advise(answer.code, answer.status),
        )


def put_if_absent(connection: Connection, key: str, data: bytes, content_type: str) -> Answer:
    """One PUT with `If-None-Match: *`. Never raises for what the store or the network did."""
    url = connection.client.get_presigned_url("PUT", connection.bucket, key, expires=timedelta(minutes=15))
    digest = base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()
    headers = {"If-None-Match": "*", "Content-Type": content_type, "Content-MD5": digest}
    try:
        response = connection.pool.request("PUT", url, body=data, headers=headers, redirect=False)
    except urllib3.exceptions.HTTPError as error:
        return Answer(None, code_of(error))
    if response.status < HTTPStatus.BAD_REQUEST and is_web_page(response.headers) and response.data:
        return Answer(HTTPStatus.BAD_REQUEST, "WebPage")  # nothing was created, whatever it says
    found = re.search(rb"<Code>([A-Za-z0-9]{1,60})</Code>", response.data)
    return Answer(response.status, found[1].decode() if found else f"HTTP {response.status}")

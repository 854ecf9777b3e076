"""Bodies as they come off the wire: packed although nobody asked for it, and never larger than agreed."""

import zlib
from collections.abc import AsyncIterator

import httpx

#: gzip and zlib, told apart by their headers.
_EITHER = 32 + zlib.MAX_WBITS


class Unreadable(Exception):
    """The body is packed in a way that is not read, or damaged."""


async def read_bounded(response: httpx.Response, most: int) -> AsyncIterator[bytes]:
    """The body in pieces, until a little more than `most` bytes.

    httpx unpacks a whole chunk at once, and each of several encodings after the other: a megabyte of nothing may
    come in as one kilobyte, a terabyte as one megabyte. Here one encoding is unpacked, as far as is wanted.

    Raises:
        Unreadable: see there.
        httpx.HTTPError: it was cut.
    """
    packed = response.headers.get("content-encoding", "").strip().lower()
    if packed in {"", "identity"}:
        pieces = response.aiter_raw()
    elif packed in {"gzip", "x-gzip", "deflate"}:
        pieces = _unpack(response.aiter_raw(), most)
    else:
        raise Unreadable(f"packed as {packed[:40]!r}")
    size = 0
    async for piece in pieces:
        size += len(piece)
        yield piece
        if size > most:
            return


async def _unpack(chunks: AsyncIterator[bytes], most: int) -> AsyncIterator[bytes]:
    unpacker = zlib.decompressobj(_EITHER)
    async for chunk in chunks:
        try:
            yield unpacker.decompress(chunk, most + 1)
        except zlib.error as error:
            raise Unreadable(str(error)) from None
        if unpacker.eof or unpacker.unconsumed_tail:  # it has ended, or is more than is wanted
            return
    if not unpacker.eof:
        raise Unreadable("packed, and cut")

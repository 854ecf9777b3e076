"""Server-sent events, none larger than an answer, as far as a status stream needs them (WHATWG HTML §9.2)."""

from collections.abc import AsyncGenerator, AsyncIterator

from tasks.providers.wire import MAX_BODY

#: Bytes after which a stream is closed: a render has some hundred events of some hundred bytes.
MAX_STREAM = 64 * MAX_BODY


class StreamDropped(Exception):
    """The stream broke; it may be opened again."""


class NoStream(Exception):
    """There is no stream here; ask instead."""


async def read_events(chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
    """The data of each event. Comments, ids and event names are passed over.

    Lines are split on bytes: a JSON text may hold U+2028, at which `str.splitlines` would cut it.
    """
    data: list[bytes] = []
    size = 0
    async for line in _lines(chunks):
        name, _, value = line.partition(b":")
        if name == b"data":
            data.append(value.removeprefix(b" "))
            size += len(value) + 1
        if size > MAX_BODY:
            raise StreamDropped("an event without end")
        if not line and data:
            yield b"\n".join(data)
            data, size = [], 0


async def _lines(chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
    rest, size = bytearray(), 0
    async for chunk in chunks:
        size += len(chunk)
        first, *lines = chunk.split(b"\n")
        rest += first
        for line in lines:
            yield bytes(rest).removesuffix(b"\r")
            rest = bytearray(line)
        if len(rest) > MAX_BODY:
            raise StreamDropped("a line without end")
        if size > MAX_STREAM:
            raise StreamDropped("a stream without end")

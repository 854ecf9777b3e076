"""Server-sent events, as far as a status stream needs them (WHATWG HTML §9.2)."""

from collections.abc import AsyncGenerator, AsyncIterator

from tasks.providers.wire import MAX_BODY


class StreamDropped(Exception):
    """The stream broke; it may be opened again."""


class NoStream(Exception):
    """There is no stream here; ask instead."""


async def read_events(chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
    """The data of each event. Comments, ids and event names are passed over.

    Lines are split on bytes: a JSON text may hold U+2028, at which `str.splitlines` would cut it.
    """
    data: list[bytes] = []
    async for line in _lines(chunks):
        name, _, value = line.partition(b":")
        if name == b"data":
            data.append(value.removeprefix(b" "))
        if not line and data:
            yield b"\n".join(data)
            data = []


async def _lines(chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
    rest = b""
    async for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line.removesuffix(b"\r")
        if len(rest) > MAX_BODY:
            raise StreamDropped("a line without end")

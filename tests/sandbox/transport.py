"""Ending a connection for real."""

import socket
import struct

from aiohttp import web


def cut(request: web.Request, answer: web.StreamResponse | None = None) -> web.StreamResponse:
    """Close the connection after what was already written."""
    if request.transport is not None:
        request.transport.close()
    return answer or web.Response()


def reset(request: web.Request, answer: web.StreamResponse | None = None) -> web.StreamResponse:
    """Close the connection with a TCP RST."""
    if request.transport is not None:
        connection = request.transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        request.transport.abort()
    return answer or web.Response()

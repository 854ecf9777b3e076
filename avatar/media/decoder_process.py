"""The process that decodes: `python -m avatar.media.decoder_process DESCRIPTOR`, started and asked by `avatar.media.confined`.

It answers one call after another within its limits, and ends when whoever started it does, even in the middle of one.
With `--fork` it decodes nothing itself, and forks a child for each connection that it is sent.
"""

import gc
import os
import selectors
import socket
import sys
import threading
from contextlib import suppress
from multiprocessing.connection import Connection
from queue import SimpleQueue

# Beside the first, what is asked for: imported before there are forks. Nothing of it may start a thread, for a fork has
# only the one it is made in.
from PIL import JpegImagePlugin, PngImagePlugin  # noqa: F401

from avatar.media import confined, cuts, decoder_calls, embed_metadata, inspect_video, portrait, voice  # noqa: F401
from avatar.media.decoder_limits import confine, forbid_network
from avatar.media.decoder_pool import ENDED, READY


def main(arguments: list[str]) -> None:
    """Serve the connection whose descriptor is given, to its end."""
    connection: Connection[bytes, bytes] | None
    if arguments[0] == "--fork":
        connection = fork_children(socket.socket(fileno=int(arguments[1])))
        if connection is None:
            return
    else:
        connection = Connection(int(arguments[0]))
    confine()
    confined.decode_here()
    waiting: SimpleQueue[bytes] = SimpleQueue()
    threading.Thread(target=_receive, args=(connection, waiting), daemon=True).start()
    connection.send_bytes(READY + str(os.getpid()).encode())
    fit = True
    while fit:
        answered, fit = confined.answer(waiting.get())
        connection.send_bytes(answered)


def _receive(connection: "Connection[bytes, bytes]", waiting: "SimpleQueue[bytes]") -> None:
    while True:
        try:
            waiting.put(connection.recv_bytes())
        except (EOFError, OSError):
            # The other side is gone, perhaps killed: nobody waits for what is being decoded.
            os._exit(0)


def fork_children(line: socket.socket) -> "Connection[bytes, bytes] | None":
    """Fork for each connection that comes over `line`, until nobody holds its other end.

    Returns:
        In each fork its connection, and in the end None.
    """
    forbid_network()
    gc.collect()
    gc.freeze()  # so that forks share it
    with selectors.DefaultSelector() as selector:
        selector.register(line, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.data:
                    _tell_end(*key.data)
                    selector.unregister(key.fd)
                    os.close(key.fd)
                    continue
                _, descriptors, _, _ = socket.recv_fds(line, 1, 1)
                if not descriptors:
                    return None
                pid = os.fork()
                if not pid:
                    _close_all(selector)
                    line.detach()
                    os.setsid()
                    return Connection(descriptors[0])
                selector.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, descriptors[0]))


def _close_all(selector: selectors.BaseSelector) -> None:
    """In a fork: the line that its parent listens on, and what is known of other forks."""
    for key in tuple(selector.get_map().values()):
        os.close(key.fd)
        if key.data:
            os.close(key.data[1])


def _tell_end(pid: int, descriptor: int) -> None:
    """Tell whoever asks a fork, over its own connection, how it ended."""
    _, status = os.waitpid(pid, 0)
    os.set_blocking(descriptor, False)  # nobody may read it
    with suppress(OSError), Connection(descriptor) as connection:
        connection.send_bytes(ENDED + str(os.waitstatus_to_exitcode(status)).encode())


if __name__ == "__main__":
    main(sys.argv[1:])

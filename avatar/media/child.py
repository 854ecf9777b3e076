"""The process that decodes: `python -m avatar.media.child DESCRIPTOR`, started and asked by `avatar.media.confined`.

It answers one call after another, and ends when whoever started it does, even in the middle of one.
"""

import os
import sys
import threading
from multiprocessing.connection import Connection
from queue import SimpleQueue

from avatar.media import confined
from avatar.media.confined import confine

READY = b"ready"


def main(arguments: list[str]) -> None:
    """Serve the connection whose descriptor is given, to its end."""
    connection = Connection(int(arguments[0]))
    confine()
    confined.decode_here()
    waiting: SimpleQueue[bytes] = SimpleQueue()
    threading.Thread(target=_receive, args=(connection, waiting), daemon=True).start()
    connection.send_bytes(READY)
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


if __name__ == "__main__":
    main(sys.argv[1:])

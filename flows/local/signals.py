"""Signals, for a command that has something to put away before it ends."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Never


@contextmanager
def interrupted_by_sigterm() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the block as Ctrl-C does, unless somebody else has taken them."""
    free = [
        number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) is signal.SIG_DFL
    ]
    with _handled(free, _interrupt):
        yield


@contextmanager
def undisturbed() -> Iterator[None]:
    """Ignore the signals that ask to end: the block is what they ask for, and bounded in time."""
    with _handled((signal.SIGINT, signal.SIGTERM, signal.SIGHUP), signal.SIG_IGN):
        yield


@contextmanager
def _handled(numbers: Any, handler: Any) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers, and only it gets signals
        return
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


def _interrupt(_: int, __: FrameType | None) -> Never:
    raise KeyboardInterrupt

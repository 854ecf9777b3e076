"""File locks. The kernel releases them when their holder dies, however it dies."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def shared(path: Path) -> Iterator[int]:
    """Hold `path` together with others, waiting for an exclusive holder to let go."""
    with _opened(path) as descriptor:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield descriptor


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold `path` alone, waiting for all others to let go."""
    with _opened(path) as descriptor:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield


@contextmanager
def exclusive_now(path: Path) -> Iterator[bool]:
    """Hold `path` alone if nobody else does; yields whether it is held."""
    with _opened(path) as descriptor:
        yield becomes_exclusive(descriptor)


def becomes_exclusive(descriptor: int) -> bool:
    """Turn a shared lock into an exclusive one, if no other process shares it.

    On failure the shared lock is lost too: of two that leave at once, exactly the later one succeeds.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        return False
    return True


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)

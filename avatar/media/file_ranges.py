"""Parts of a file, read as if each were a file."""

import io
import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Data", "FileRange", "RangeReader", "open_mapped"]

Data = bytes | mmap.mmap


@dataclass(frozen=True)
class FileRange:
    """A part of a file that can be decoded by itself: from `start` to before `end`, behind a header of our own."""

    start: int
    end: int
    head: bytes = b""


class RangeReader(io.RawIOBase):
    """A piece as a file to read."""

    def __init__(self, path: Path, piece: FileRange) -> None:
        self._file = path.open("rb")
        self._piece, self._at = piece, 0
        self._size = len(piece.head) + piece.end - piece.start

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        head = self._piece.head
        if self._at < len(head):
            found = head[self._at : self._at + len(buffer)]
        else:
            self._file.seek(self._piece.start + self._at - len(head))
            found = self._file.read(max(0, min(len(buffer), self._size - self._at)))
        buffer[: len(found)] = found
        self._at += len(found)
        return len(found)

    def close(self) -> None:
        self._file.close()
        super().close()


@contextmanager
def open_mapped(path: Path) -> Iterator[Data]:
    with path.open("rb") as file:
        if not path.stat().st_size:
            yield b""
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            yield data

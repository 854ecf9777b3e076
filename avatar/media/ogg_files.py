"""Ogg files, page by page."""

import mmap
from pathlib import Path

__all__ = ["ends_open", "forms_begin"]

#: An Ogg page is no longer than this; its header tells whether it is the first of a stream, or the last.
PAGE_BYTES, PAGE_HEAD, PAGE_FLAGS, FIRST_PAGE, LAST_PAGE = 65_307, 27, 5, 2, 4


def forms_begin(data: bytes | mmap.mmap) -> list[int]:
    """Where the Oggs begin, if they differ in what their first pages say: FFmpeg's decoders keep to the first."""
    begins: list[int] = []
    forms: set[bytes] = set()
    at, opens = 0, False
    while data[at : at + 4] == b"OggS" and at + PAGE_HEAD <= len(data):
        sizes = data[at + PAGE_HEAD : at + PAGE_HEAD + data[at + PAGE_HEAD - 1]]
        end = at + PAGE_HEAD + len(sizes) + sum(sizes)
        if data[at + PAGE_FLAGS] & FIRST_PAGE:
            begins += [] if opens else [at]
            forms.add(bytes(data[at + PAGE_HEAD + len(sizes) : end]))
        opens = bool(data[at + PAGE_FLAGS] & FIRST_PAGE)
        at = end
    return begins if len(forms) > 1 else [0]


def ends_open(path: Path) -> bool:
    """Whether an Ogg ends without the page that is marked as its last."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - PAGE_BYTES))
        tail = file.read()
    page = tail[tail.rfind(b"OggS") :]
    return len(page) > PAGE_FLAGS and not page[PAGE_FLAGS] & LAST_PAGE

"""What a file says of itself, where FFmpeg does not pass it on."""

from pathlib import Path

__all__ = ["declared_seconds", "ends_open", "has_faststart", "has_index"]

#: Writers that cannot seek back leave about this in a WAV's size field.
STREAMED_WAV = 0x7FFF_0000
#: An MP3's index is in its first frame, which is no longer than this.
FRAME_BYTES = 4096
ID3_BYTES = 10
#: An Ogg page is no longer than this; its header tells whether it is the last.
PAGE_BYTES, PAGE_FLAGS, LAST_PAGE = 65_307, 5, 4


def declared_seconds(path: Path, container: str, duration: float, decoded: float) -> float:
    """Length by the file's own account, 0 if it gives none.

    Args:
        path: the file.
        container: what it is (`container_name`).
        duration: what FFmpeg takes it for, in seconds.
        decoded: what was decoded of it, in seconds.
    """
    if container != "wav":
        return duration
    # FFmpeg goes by the size of the file; only the header still knows how much there should be.
    with path.open("rb") as file:
        head = file.read(8)
    announced, size = int.from_bytes(head[4:], "little") + 8, path.stat().st_size
    return decoded * announced / size if head[:4] == b"RIFF" and announced < STREAMED_WAV else 0.0


def has_index(path: Path) -> bool:
    """Whether an MP3 tells how many frames it has; else its length is guessed from its first ones."""
    with path.open("rb") as file:
        head = file.read(ID3_BYTES)
        tagged = head.startswith(b"ID3") and len(head) == ID3_BYTES
        file.seek(ID3_BYTES + _syncsafe(head[6:]) if tagged else 0)
        frame = file.read(FRAME_BYTES)
    return any(mark in frame for mark in (b"Xing", b"Info", b"VBRI"))


def _syncsafe(four: bytes) -> int:
    return sum((byte & 0x7F) << shift for byte, shift in zip(four, (21, 14, 7, 0), strict=True))


def ends_open(path: Path) -> bool:
    """Whether an Ogg ends without the page that is marked as its last."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - PAGE_BYTES))
        tail = file.read()
    page = tail[tail.rfind(b"OggS") :]
    return len(page) > PAGE_FLAGS and not page[PAGE_FLAGS] & LAST_PAGE


def has_faststart(path: Path) -> bool:
    """Whether an MP4's index lies before its media, so that it plays while it loads."""
    with path.open("rb") as file:
        while len(head := file.read(8)) == 8:  # noqa: PLR2004 - size and type of a box
            size, kind = int.from_bytes(head[:4]), head[4:]
            if kind in (b"moov", b"mdat"):
                return kind == b"moov"
            size = int.from_bytes(file.read(8)) - 8 if size == 1 else size
            if size < 8:  # noqa: PLR2004 - smaller than its own header
                return False
            file.seek(size - 8, 1)
    return False

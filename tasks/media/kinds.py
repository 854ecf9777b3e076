"""What a file is that is no picture, or is something else beside being one."""

import zipfile
from pathlib import Path

__all__ = ["second_kind", "what_instead"]

#: Bytes at either end in which readers of web pages and of PDF look for a beginning.
ENDS = 1024
HTML = (b"<!doctype html", b"<html", b"<script", b"<?php", b"<svg")
PICTURES = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8")
SOUNDS = (b"ID3", b"OggS", b"fLaC", b"\xff\xfb")


def what_instead(path: Path) -> str:
    """In brackets, what a file is that Pillow cannot read, and what to do; nothing if that is not plain."""
    with path.open("rb") as file:
        head = file.read(ENDS)
    found = _told(head)
    return f" (it is {found})" if found else ""


def _told(head: bytes) -> str | None:
    is_iso, text = head[4:8] == b"ftyp", head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    known = (
        (is_iso and head[8:11] in (b"hei", b"hev", b"mif"), "HEIC, which phones write: export it as JPEG"),
        (is_iso or head.startswith(SOUNDS) or head[8:12] == b"WAVE", "sound or video: is it the voice?"),
        (b"<svg" in text, "an SVG drawing: export it as PNG"),
        (text.startswith(HTML), "a web page: perhaps a download that failed"),
        (head.startswith(b"%PDF-"), "a PDF: export its picture as JPEG"),
        (head.startswith(b"%!PS"), "PostScript: export its picture as JPEG"),
        (head.startswith(PICTURES) or head[8:12] == b"WEBP", "damaged, or claims what no picture can"),
    )
    return next((what for holds, what in known if holds), None)


def second_kind(path: Path) -> str | None:
    """What else a picture would be taken for by another program: an archive, a PDF, a page that runs scripts.

    Phones append data of their own to their pictures, which is none of these.
    """
    with path.open("rb") as file:
        head = file.read(ENDS)
        file.seek(max(0, path.stat().st_size - ENDS))
        tail = file.read(ENDS)
    if b"%PDF-" in head:
        return "a PDF"
    if any(mark in end.lower() for mark in HTML for end in (head, tail)):
        return "a web page or a script"
    return "a ZIP archive" if _is_archive(path) else None


def _is_archive(path: Path) -> bool:
    # The mark alone is in one picture of a hundred thousand by chance; a directory of files is not.
    if not zipfile.is_zipfile(path):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return bool(archive.infolist())
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError):
        return False

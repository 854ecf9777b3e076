"""Conditional and partial requests (RFC 9110 §13, §14): whether to send, and which bytes."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from tasks.storage.objects import Stat, parse_date

_RANGE = re.compile(r"bytes=[ \t]*(\d{0,18})[ \t]*-[ \t]*(\d{0,18})[ \t]*", re.ASCII | re.IGNORECASE)
_TAG = re.compile(r'(?:W/)?"([^"]*)"')


class Unsatisfiable(Exception):
    """The range asked for lies outside the object: 416."""


@dataclass(frozen=True)
class Span:
    """Bytes of an object: `length` of them from `start`."""

    start: int
    length: int

    def content_range(self, size: int) -> str:
        return f"bytes {self.start}-{self.start + self.length - 1}/{size}"


def wanted_span(headers: Mapping[str, str], stat: Stat) -> Span | None:
    """The bytes a GET asks for; None for the whole: no Range, one not understood, several, or an outdated If-Range.

    Raises:
        Unsatisfiable: it is understood, and the object has no such byte.
    """
    asked = _RANGE.fullmatch(headers.get("range", "").strip())
    if asked is None or asked.groups() == ("", "") or not _still_valid(headers.get("if-range"), stat):
        return None
    first, last = asked.groups()
    if not first:
        length = min(int(last), stat.size)
        start = stat.size - length
    elif last and int(last) < int(first):
        return None  # not a range at all, so the header is to be ignored
    else:
        start = int(first)
        length = min(int(last or stat.size), stat.size - 1) - start + 1
    if length <= 0:
        raise Unsatisfiable
    return Span(start, length)


def not_modified(headers: Mapping[str, str], stat: Stat) -> bool:
    """Whether what the browser has is still right. If-None-Match is decisive where it is given."""
    if (tags := headers.get("if-none-match")) is not None:
        return tags.strip() == "*" or stat.etag in _TAG.findall(tags)
    since = parse_date(headers.get("if-modified-since"))
    return since is not None and stat.modified <= since


def _still_valid(if_range: str | None, stat: Stat) -> bool:
    """A strong comparison: the very tag, or the very date."""
    if if_range is None:
        return True
    if '"' in if_range:
        return if_range.strip() == f'"{stat.etag}"'
    return parse_date(if_range) == stat.modified

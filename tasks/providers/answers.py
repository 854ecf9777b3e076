"""Reading what providers answer: total functions over JSON that may be anything, and text fit to be shown."""

import json
import logging
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import quote

from tasks.models import RemoteState

log = logging.getLogger("avatar.provider")

#: Longest request id believed. Theirs are 36 to 70 characters; a longer one is kept, a page of text is not an id.
MAX_ID = 10_000
#: Longest stretch of a provider's words put into an error, in characters.
MAX_WORDS = 500
#: Names under which fal, Pixazo and Azure's gateway in front of it put what went wrong.
_ERROR_NAMES = ("error", "message", "detail", "error_message", "payload_error", "msg", "title")

_SECRET_PARTS = (
    (re.compile(r"(?i)\b(https?://)[^\s/@\"'<>]*@"), r"\1"),
    (re.compile(r"(?i)\b(https?://[^\s?#\"'<>]*)[?#][^\s\"'<>]*"), r"\1"),
    (re.compile(r"(?i)\bX-Amz-[A-Za-z-]+=[^\s&\"'<>]+"), "X-Amz-…"),
)


def parse_object(body: bytes) -> dict[str, Any] | None:
    """The JSON object in `body`, or None for anything else. NaN and lone surrogates, which no store keeps, go."""
    try:
        value = json.loads(body.decode("utf-8", "replace"), parse_constant=lambda _: None)
        if b"\\ud" in body.lower():
            value = json.loads(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def usable_id(value: Any) -> str | None:
    """`value` if it can name a request: opaque text of any shape (a documented sample is not even hexadecimal)."""
    return value if isinstance(value, str) and value.strip() and len(value) <= MAX_ID else None


def path_segment(request_id: str) -> str:
    """A request id as one segment of a URL's path, whatever is in it."""
    if set(request_id) == {"."}:
        return request_id.replace(".", "%2E")
    return quote(request_id, safe="")


def number(value: Any) -> float | None:
    """A finite number of 0 or more, also when written as text; None for anything else."""
    try:
        parsed = (
            float(value) if isinstance(value, (int, float, str)) and not isinstance(value, bool) else math.nan
        )
    except (ValueError, OverflowError):
        return None
    return parsed if math.isfinite(parsed) and parsed >= 0 else None


def whole(value: Any) -> int | None:
    """A whole number of 0 or more, or None."""
    parsed = number(value)
    return int(parsed) if parsed is not None else None


def text(value: Any) -> str:
    """`value` if it is text, stripped; otherwise nothing."""
    return value.strip() if isinstance(value, str) else ""


def clean(words: str, *secrets: str) -> str:
    """Text by others, fit for an error or a log: one line, short, without query strings or secrets."""
    line = " ".join("".join(char if char.isprintable() else " " for char in words[:20_000]).split())
    for secret in filter(None, secrets):
        line = line.replace(secret, "[key]")
    for pattern, instead in _SECRET_PARTS:
        line = pattern.sub(instead, line)
    return line if len(line) <= MAX_WORDS else line[: MAX_WORDS - 1] + "…"


def error_words(data: Mapping[str, Any] | None) -> str:
    """What a body says went wrong, in the shapes fal and Pixazo use; empty if it says nothing."""
    found = (_said(data[name]) for name in _ERROR_NAMES if name in (data or {})) if data else iter(())
    return next(filter(None, found), "")


def _said(value: Any) -> str:
    if isinstance(value, list):
        return "; ".join(filter(None, map(_said, value[:20])))
    if isinstance(value, dict):
        place = ".".join(str(part) for part in value["loc"]) if isinstance(value.get("loc"), list) else ""
        said = error_words(value)
        return f"{said} ({place})" if said and place else said
    return text(value)


def error_kind(data: Mapping[str, Any] | None) -> str:
    """The provider's own error type: `error_type`, or the first `type` in a `detail` list."""
    if not data:
        return ""
    detail = data.get("detail")
    entries: Iterator[Any] = iter(detail if isinstance(detail, list) else [])
    listed = (text(entry.get("type")) for entry in entries if isinstance(entry, dict))
    return clean(text(data.get("error_type")) or next(filter(None, listed), ""))


class Vocabulary:
    """A provider's status words. One that is not known means "keep polling", and is logged once."""

    def __init__(self, provider: str, **words: Iterable[str]) -> None:
        self._provider = provider
        self._states = {word: RemoteState(state) for state, known in words.items() for word in known}
        self._odd: set[str] = set()

    def state(self, word: str) -> RemoteState:
        """What `word` means; running if nobody knows."""
        name = word.strip().upper().replace(" ", "_").replace("-", "_")
        if name not in self._states and name not in self._odd and len(self._odd) < 100:  # noqa: PLR2004 - enough
            self._odd.add(name)
            log.warning("%s said an unknown status word, %r: taken as running.", self._provider, clean(word))
        return self._states.get(name, RemoteState.RUNNING)

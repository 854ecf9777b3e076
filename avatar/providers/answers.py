"""Reading what providers answer: total functions over JSON that may be anything, and text fit to be shown."""

import json
import logging
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import quote

from avatar.models import RemoteState

log = logging.getLogger("avatar.provider")

#: Longest request id believed. Theirs are 36 to 70 characters; a longer one is kept, a page of text is not an id.
MAX_ID = 10_000
#: Deepest that an answer is read: theirs have up to five levels. Deeper parts are left out.
MAX_DEPTH = 32
#: Digits of the longest number that means anything.
MAX_DIGITS = 30
#: Characters of a provider's words that are looked at.
_LOOKED_AT = 4_000
#: Longest stretch of a provider's words put into an error, in characters.
MAX_WORDS = 500
#: Names under which fal, Pixazo and Azure's gateway in front of it put what went wrong.
_ERROR_NAMES = ("error", "message", "detail", "error_message", "payload_error", "msg", "title")

_SECRET_PARTS = (
    (re.compile(r"(?i)\b(https?://)[^\s/@\"'<>]*@"), r"\1"),
    (re.compile(r"(?i)\b(https?://[^\s?#\"'<>]*)[?#][^\s\"'<>]*"), r"\1"),
    (re.compile(r"(?i)\bX-Amz-[A-Za-z-]+=[^\s&\"'<>]+"), "X-Amz-…"),
    # The last part of a webhook's address (`avatar.money.webhooks`), which lets anybody use it.
    (re.compile(r"(?i)((?:/|%2f)webhooks(?:(?:/|%2f)[a-z0-9]+){3}(?:/|%2f))[0-9a-f]{8,}"), r"\1…"),
)


def parse_object(body: bytes) -> dict[str, Any] | None:
    """The JSON object in `body`, or None for anything else. Of a name that comes twice the last value holds.

    What no store keeps goes: numbers that are none or endless, lone surrogates, what is nested too deeply.
    """
    try:
        text = body.decode("utf-8", "replace").removeprefix("\ufeff")
        value = json.loads(text, parse_constant=lambda _: None, parse_float=_finite, parse_int=_whole)
        if b"\\ud" in body.lower():
            value = json.loads(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict):
        return None
    # A level takes a bracket: few answers have so many, and need the walk.
    return _shallow(value, MAX_DEPTH) if body.count(b"{") + body.count(b"[") > MAX_DEPTH else value


def _finite(digits: str) -> float | None:
    found = float(digits)
    return found if math.isfinite(found) else None


def _whole(digits: str) -> int | None:
    return int(digits) if len(digits) <= MAX_DIGITS else None


def _shallow(value: Any, depth: int) -> Any:
    if not isinstance(value, (dict, list)):
        return value
    if not depth:
        return None
    if isinstance(value, list):
        return [_shallow(item, depth - 1) for item in value]
    return {name: _shallow(item, depth - 1) for name, item in value.items()}


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
    line = " ".join("".join(char if char.isprintable() else " " for char in words[:_LOOKED_AT]).split())
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
        name = word.strip()[:100].upper().replace(" ", "_").replace("-", "_")
        if name not in self._states and name not in self._odd and len(self._odd) < 100:  # noqa: PLR2004 - enough
            self._odd.add(name)
            log.warning("%s said an unknown status word, %r: taken as running.", self._provider, clean(word))
        return self._states.get(name, RemoteState.RUNNING)

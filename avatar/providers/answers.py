"""Reading what providers answer: total functions over JSON that may be anything, and text fit to be shown."""

import json
import logging
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Any
from urllib.parse import quote

from avatar.models import RemoteState, RemoteVideo

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

    A list of objects counts as one that holds it as its `data`.

    What no store keeps goes: numbers that are none or endless, lone surrogates, what is nested too deeply.
    """
    try:
        text = body.decode("utf-8", "replace").removeprefix("\ufeff")
        value = _DECODER.decode(text)
        if b"\\ud" in body.lower():
            value = json.loads(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None
    if isinstance(value, list) and value and all(isinstance(each, dict) for each in value):
        value = {"data": value}
    if not isinstance(value, dict):
        return None
    # A level takes a bracket: few answers have so many, and need the walk.
    return _shallow(value, MAX_DEPTH) if body.count(b"{") + body.count(b"[") > MAX_DEPTH else value


def _finite(digits: str) -> float | None:
    found = float(digits)
    return found if math.isfinite(found) else None


def _whole(digits: str) -> int | None:
    return int(digits) if len(digits) <= MAX_DIGITS else None


#: Made once: that takes longer than reading an answer.
_DECODER = json.JSONDecoder(parse_constant=lambda _: None, parse_float=_finite, parse_int=_whole)


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


def read_number(value: Any) -> float | None:
    """A finite number of 0 or more, also when written as text; None for anything else."""
    try:
        parsed = (
            float(value) if isinstance(value, (int, float, str)) and not isinstance(value, bool) else math.nan
        )
    except (ValueError, OverflowError):
        return None
    return parsed if math.isfinite(parsed) and parsed >= 0 else None


def read_whole_number(value: Any) -> int | None:
    """A whole number of 0 or more, or None."""
    parsed = read_number(value)
    return int(parsed) if parsed is not None else None


def text_or_empty(value: Any) -> str:
    """`value` if it is text, stripped; otherwise nothing."""
    return value.strip() if isinstance(value, str) else ""


def clean_text(words: str, *secrets: str) -> str:
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
    return text_or_empty(value)


def error_kind(data: Mapping[str, Any] | None) -> str:
    """The provider's own error type: `error_type`, or the first `type` in a `detail` list."""
    if not data:
        return ""
    detail = data.get("detail")
    entries: Iterator[Any] = iter(detail if isinstance(detail, list) else [])
    listed = (text_or_empty(entry.get("type")) for entry in entries if isinstance(entry, dict))
    return clean_text(text_or_empty(data.get("error_type")) or next(filter(None, listed), ""))


# Where a result's video stands. Two shapes are documented; siblings and gateways use a dozen more, and what was paid
# for is not thrown away because its address stands elsewhere.
#: Names whose values are no result, whatever they link to; and those that rarely hold one.
_NO_RESULT = re.compile(
    r"image|audio|voice|thumb|poster|cover|input|prompt|error|(?:status|response|cancel|polling|hook|callback)_?url"
)
_HARDLY = re.compile(r"log|detail")
_VIDEO_FILE = re.compile(r"(?i)^[^?#]*\.(?:mp4|m4v|mov|webm|mkv)(?:[?#]|$)")
_VIDEO_IN_TEXT = re.compile(r"(?i)https?://[^\s\"'<>()?#]+\.(?:mp4|m4v|mov|webm|mkv)(?:\?[^\s\"'<>()]*)?")
#: What a link that is not called a video may be called.
_RESULT = re.compile(
    r"^(?:(?:media|output|result|file|download)_?)?(?:ur[li]s?|links?)$|^(?:outputs?|results?|media|files?|data|download)$"
)
#: How sure it is that a link is the result: 0 is surest. From `UNSURE` on, only where the render is known to be done.
UNSURE = 2


def read_video(
    answer: Mapping[str, Any], *, billed_seconds: Decimal | None = None, anywhere: bool = False
) -> RemoteVideo | None:
    """The video that an answer names, with what is told about it; None if it names none.

    `anywhere`: also in places where a link may be something else, such as a text.
    """
    # Python's sort is stable: of two as good, the one named first.
    found = sorted(_links(answer, ()), key=lambda one: one[0])
    if not found or (found[0][0] >= UNSURE and not anywhere):
        return None
    _, url, beside = found[0]
    parts = (
        beside,
        *(part for part in (answer.get("video"), answer.get("output")) if isinstance(part, dict)),
        answer,
    )
    lengths = (read_number(part.get(name)) for part in parts for name in ("duration", "duration_seconds"))
    return RemoteVideo(
        url=url,
        content_type=next(filter(None, (text_or_empty(part.get("content_type")) for part in parts)), None),
        size=next(filter(None, (read_whole_number(part.get("file_size")) for part in parts)), None),
        seconds=next(filter(None, lengths), None),
        billed_seconds=billed_seconds,
        payload=dict(answer),
    )


def _links(
    value: Any, names: tuple[str, ...], beside: Mapping[str, Any] | None = None
) -> Iterator[tuple[int, str, Mapping[str, Any]]]:
    """Links to what may be the result: how sure that is, the link, the object it stands in."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if not _NO_RESULT.search(name.lower()):
                yield from _links(inner, (*names, name.lower()), value)
    elif isinstance(value, list):
        for inner in value:
            yield from _links(inner, names, beside)
    elif isinstance(value, str) and value.lstrip().startswith(("{", "[")) and names:
        packed = parse_object(b'{"data":%s}' % value.encode("utf-8", "replace"))
        yield from _links((packed or {}).get("data"), names, beside)
    elif beside is not None and isinstance(value, str):
        yield from ((sure, link, beside) for sure, link in _link(text_or_empty(value), names, beside))


def _link(words: str, names: tuple[str, ...], beside: Mapping[str, Any]) -> Iterator[tuple[int, str]]:
    """The link that a text is, or holds."""
    unsure = UNSURE if any(map(_HARDLY.search, names)) else 0
    if words.lower().startswith(("https://", "http://")) and not re.search(r"\s", words):
        is_video = text_or_empty(beside.get("content_type")).startswith("video/") or _VIDEO_FILE.match(words)
        if is_video or any("video" in name for name in names):
            yield unsure, words
        elif _RESULT.match(names[-1]):
            yield unsure + 1, words
    elif found := _VIDEO_IN_TEXT.search(words[:_LOOKED_AT]):
        yield unsure + UNSURE, found[0]


class StatusWords:
    """A provider's status words. One that is not known means "keep polling", and is logged once."""

    def __init__(self, provider: str, **words: Iterable[str]) -> None:
        self._provider = provider
        self._states = {word: RemoteState(state) for state, known in words.items() for word in known}
        self._odd: set[str] = set()

    def knows(self, word: str) -> bool:
        return self._name(word) in self._states

    def state(self, word: str) -> RemoteState:
        """What `word` means; running if nobody knows."""
        name = self._name(word)
        if name not in self._states and name not in self._odd and len(self._odd) < 100:  # noqa: PLR2004 - enough
            self._odd.add(name)
            log.warning(
                "%s said an unknown status word, %r: taken as running.", self._provider, clean_text(word)
            )
        return self._states.get(name, RemoteState.RUNNING)

    @staticmethod
    def _name(word: str) -> str:
        return word.strip()[:100].upper().replace(" ", "_").replace("-", "_")

"""What Pixazo's status answers mean, in both generations of its API and the shapes its other models use."""

from collections.abc import Iterator, Mapping
from typing import Any

from tasks.models import RemoteState, RemoteVideo, Snapshot
from tasks.providers.answers import Vocabulary, clean, error_kind, error_words, number, text

_NAMES_OF_URL = ("url", "media_url", "output_url", "video_url")
_WRAPPERS = ("video", "output", "data", "result")


def pixazo_words() -> Vocabulary:
    """v1 and v2 of this model's page, and what the vendor's own clients map."""
    return Vocabulary(
        "pixazo",
        queued=("IN_QUEUE", "QUEUED", "PENDING", "SUBMITTED", "CREATED", "STARTING", "WAITING"),
        running=("IN_PROGRESS", "PROCESSING", "RUNNING"),
        done=("COMPLETED", "SUCCEEDED", "SUCCEED", "SUCCESS", "DONE", "READY"),
        failed=("FAILED", "ERROR", "CANCELED", "CANCELLED", "ABORTED"),
    )


def read_status(data: Mapping[str, Any], words: Vocabulary) -> Snapshot | None:
    """A status body as a snapshot; None if it tells nothing. A result without a status is done: siblings do that."""
    word = text(data.get("status"))
    if word:
        state = words.state(word)
    elif video_url(data):
        state = RemoteState.DONE
    elif data.get("success") is False and error_words(data):
        state = RemoteState.FAILED
    else:
        return None
    percent = number(data.get("progress_percent"))
    return Snapshot(
        state=state,
        progress=min(percent / 100, 1.0) if percent is not None else None,
        eta_seconds=_first_number(data, "estimated_remaining_seconds", "estimated_completion_time"),
        message=clean(error_words(data)),
        kind=(error_kind(data) or "failed") if state is RemoteState.FAILED else "",
        word=clean(word),
    )


def read_video(data: Mapping[str, Any]) -> RemoteVideo | None:
    """The video in a status body, in any of the documented places; None if there is none."""
    url = video_url(data)
    if url is None:
        return None
    parts = list(_parts(data))
    seconds = (_first_number(part, "duration", "duration_seconds") for part in parts)
    sizes = (_first_number(part, "file_size") for part in parts)
    size = next(filter(None, sizes), None)
    return RemoteVideo(
        url=url,
        content_type=next(filter(None, (text(part.get("content_type")) for part in parts)), None),
        size=int(size) if size else None,
        seconds=next(filter(None, seconds), None),
        payload=dict(data),
    )


def video_url(data: Mapping[str, Any]) -> str | None:
    """`video.url`, `output.media_url` (a list or text), `output_url`, `video_url`, or `output` itself."""
    for part in _parts(data):
        for name in (*_NAMES_OF_URL, *_WRAPPERS):
            url = _link(part.get(name))
            if url:
                return url
    return None


def _parts(data: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The places a result is described in, the most specific first: two levels down, no deeper."""
    inner = [part for name in _WRAPPERS if isinstance(part := data.get(name), dict)]
    for part in inner:
        yield from (deeper for name in _WRAPPERS if isinstance(deeper := part.get(name), dict))
    yield from inner
    yield data


def _link(value: Any) -> str | None:
    first = value[0] if isinstance(value, list) and value else value
    link = text(first)
    return link if link.lower().startswith(("https://", "http://")) else None


def _first_number(data: Mapping[str, Any], *names: str) -> float | None:
    return next((found for name in names if (found := number(data.get(name))) is not None), None)

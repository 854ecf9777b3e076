"""fal's queue by script: what it accepted, what becomes of it, and in what shape that is told.

Wire facts: the sandbox's `fal.py` and the pages it names. What was really accepted and is really charged is known
here alone; the invariants ask this module, never the product.
"""

import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

APP = "/fal-ai/kling-video"
CDN = "https://v3b.fal.media/files/b/"
#: Status, headers, body.
Answer = tuple[int, dict[str, str], bytes]
#: What fal calls the failures of a script.
FAILURES = {
    "refused": "content_policy_violation",
    "unreachable": "file_download_error",
    "broke": "internal_server_error",
}
#: Words for the end beside which the status has no video.
BARE_WORDS = {"COMPLETED", "OK"}
VIDEO, BROKEN = b"\x00\x00\x00\x18ftyp", b"\x00junk"


@dataclass
class Script:
    """What becomes of one accepted request. Times in seconds after it was accepted."""

    takes: float = 20.0  #: until it is done
    #: or `refused` (a typed 422), `unreachable` (the same, of inputs not fetched), `broke` (a typed 500), `lost`, `stuck`
    fate: str = "video"
    charged: bool = True  #: whether a failure is charged
    shape: str = "plain"  #: how the result holds the video; `none`: it never does
    word: str = "COMPLETED"  #: the status word at the end
    result_fails: str = ""  #: how the result address fails for a while, although the video is there
    result_back: float = 0.0  #: when it stops failing so
    quota_from: float = 0.0  #: between these, status and result answer 403
    quota_until: float = 0.0
    link: str = (
        "good"  #: or `late` (404 at first), `forbidden` (403 at first), `expires`, `junk`, `junk_once`
    )
    link_back: float = 0.0
    result_kept: float = 0.0  #: 0: for ever; else the result is forgotten after this

    @property
    def delay(self) -> float:
        """For how long the video of a render that is done cannot be had."""
        return max(self.result_back, self.quota_until, self.link_back, self.takes) - self.takes


@dataclass
class Accepted:
    """One request that fal accepted."""

    request_id: str
    render_id: str
    attempt: int
    holder: str
    at: float
    script: Script
    body: dict[str, Any]
    webhook: str | None
    links: int = 0
    fetched: int = 0
    cancelled: bool = False
    named: bool = False  #: whether its id was somewhere in the answer, and that came in

    @property
    def done_at(self) -> float:
        return self.at + self.script.takes

    @property
    def playable(self) -> bool:
        """Whether there will ever be a video of it that can be fetched and played."""
        script = self.script
        return (
            script.fate == "video" and script.link != "junk" and script.shape != "none" and not self.cancelled
        )

    @property
    def charged(self) -> bool:
        if self.cancelled:
            return False
        return self.script.fate == "video" or (self.script.fate != "broke" and self.script.charged)


@dataclass
class Fal:
    """The provider. `now` tells true time."""

    random: random.Random
    now: Callable[[], float]
    write_script: Callable[[], Script]
    history: str = "off"  #: `full`, `bare` (no payloads), `forbidden`, `off`
    accepted: dict[str, Accepted] = field(default_factory=dict)
    posts: int = 0
    on_accept: Callable[[Accepted], None] = lambda _: None
    who: Callable[[dict[str, Any], Mapping[str, str]], tuple[str, int, str]] = lambda *_: ("", 1, "")

    # --- the paid request

    def accept(self, body: dict[str, Any], headers: Mapping[str, str], query: str) -> Accepted:
        render_id, attempt, holder = self.who(body, headers)
        hook = parse_qs(query).get("fal_webhook")
        job = Accepted(
            request_id=f"req-{len(self.accepted) + 1}-{self.random.getrandbits(24):06x}",
            render_id=render_id,
            attempt=attempt,
            holder=holder,
            at=self.now(),
            script=self.write_script(),
            body=body,
            webhook=hook[0] if hook else None,
        )
        self.accepted[job.request_id] = job
        self.on_accept(job)
        return job

    def receipt(self, job: Accepted) -> Answer:
        base = f"https://queue.fal.run{APP}/requests/{job.request_id}"
        body = {"request_id": job.request_id, "status": "IN_QUEUE", "queue_position": 0}
        urls = {"status_url": base + "/status", "response_url": base, "cancel_url": base + "/cancel"}
        return _json(200, body | urls, job)

    # --- free calls

    def answer(self, method: str, url: str) -> Answer:
        """Answer one free call."""
        parts = urlsplit(url)
        if parts.netloc.startswith("api."):
            return self._platform(parts.path, parse_qs(parts.query))
        request_id, _, what = parts.path.partition("/requests/")[2].partition("/")
        job = self.accepted.get(request_id)
        if job is None or (job.script.fate == "lost" and self.now() > job.done_at):
            return _json(404, {"status": "NOT_FOUND"})
        if what == "cancel":
            return self._cancel(job)
        if job.script.quota_from <= self.now() - job.at < job.script.quota_until:
            return _json(403, {"detail": "User is locked. Reason: Exhausted balance."})
        return self._status(job) if what == "status" else self._result(job)

    def _done(self, job: Accepted) -> bool:
        return job.script.fate != "stuck" and self.now() >= job.done_at

    def _status(self, job: Accepted) -> Answer:
        if not self._done(job):
            return _json(202, {"status": "IN_PROGRESS", "logs": None}, job)
        body: dict[str, Any] = {"status": job.script.word, "logs": None, "metrics": {}}
        if job.script.word not in BARE_WORDS:
            body["video"] = {"url": self.link(job)}
        if job.cancelled:
            body |= {"error": "The request was cancelled", "error_type": "client_cancelled"}
        elif job.script.fate in FAILURES:
            body |= {"error": "It did not work out", "error_type": FAILURES[job.script.fate]}
        return _json(200, body, job)

    def _result(self, job: Accepted) -> Answer:
        script, since = job.script, self.now() - job.at
        if not self._done(job):
            return _json(400, {"detail": "Request is still in progress"}, job)
        if script.result_kept and since > script.takes + script.result_kept:
            return _json(404, {"detail": "Not found"})
        if job.cancelled or script.fate in FAILURES:
            return self._failure(job)
        if script.result_fails and since < script.result_back:
            return self._failing(job)
        return _json(200, _shaped(script.shape, self.link(job)), job, {"x-fal-billable-units": "8"})

    def _failure(self, job: Accepted) -> Answer:
        """The model's own answer, when it is none."""
        if job.cancelled:
            return _json(499, {"detail": "The request was cancelled", "error_type": "client_cancelled"}, job)
        if job.script.fate == "broke":
            return _json(500, {"detail": "It broke", "error_type": "internal_server_error"}, job)
        detail = [{"loc": ["body"], "msg": "It did not work out", "type": FAILURES[job.script.fate]}]
        units = {"x-fal-billable-units": "8" if job.script.charged else "0"}
        told = job.script.fate == "refused" and self.random.random() < 0.5
        return _json(422, {"detail": detail}, job, units if told else {})

    def _failing(self, job: Accepted) -> Answer:
        """The result address fails although the render is done (openstory-so/openstory#1505)."""
        kind = job.script.result_fails
        if kind == "page":
            return 502, {"content-type": "text/html"}, b"<html>bad gateway</html>"
        if kind == "typed":
            text = {"detail": "Gateway timed out", "error_type": "request_timeout"}
            return _json(504, text, job, {"x-fal-error-type": "request_timeout"})
        if kind == "listed":
            return _json(
                504, {"detail": [{"loc": [], "msg": "timed out", "type": "generation_timeout"}]}, job
            )
        if kind == "empty":
            return _json(200, {}, job)
        if kind == "forbidden":
            return _json(403, {"detail": "Quota exceeded"}, job)
        return _json(504, {"detail": "Gateway timed out"}, job)

    def link(self, job: Accepted) -> str:
        job.links += 1
        return f"{CDN}{job.request_id}-{job.links}.mp4"

    def _cancel(self, job: Accepted) -> Answer:
        if self._done(job):
            return _json(400, {"status": "ALREADY_COMPLETED"}, job)
        if self.now() - job.at < job.script.takes / 3:
            job.cancelled = True
            return _json(200, {"success": True}, job)
        return _json(202, {"status": "CANCELLATION_REQUESTED"}, job)

    # --- the video

    def fetch(self, url: str) -> Answer:
        """What a GET of a video's address brings."""
        name = url.removeprefix(CDN).removesuffix(".mp4")
        request_id, _, number = name.rpartition("-")
        job = self.accepted[request_id]
        script, since = job.script, self.now() - job.at
        if script.link == "late" and since < script.link_back:
            return 404, {}, b"not found"
        if script.link == "forbidden" and since < script.link_back:
            return 403, {}, b"<Error>AccessDenied</Error>"
        if script.link == "expires" and int(number) < job.links:
            return 404, {}, b"gone"
        job.fetched += 1
        if script.link == "junk" or (script.link == "junk_once" and job.fetched == 1):
            return 200, {"content-type": "video/mp4"}, BROKEN + request_id.encode()
        return 200, {"content-type": "video/mp4"}, VIDEO + request_id.encode()

    # --- the platform API

    def _platform(self, path: str, query: dict[str, list[str]]) -> Answer:
        if not path.endswith("/models/requests/by-endpoint") or self.history in {"off", "forbidden"}:
            return _json(403 if self.history == "forbidden" else 404, {"detail": "Not allowed"})
        asked = query.get("request_id")
        items = [
            self._item(job, payloads="payloads" in query.get("expand", []))
            for job in self.accepted.values()
            if not asked or job.request_id in asked
        ]
        return _json(200, {"items": items, "next_cursor": None, "has_more": False})

    def _item(self, job: Accepted, *, payloads: bool) -> dict[str, Any]:
        item: dict[str, Any] = {
            "request_id": job.request_id,
            "endpoint_id": "fal-ai/kling-video/ai-avatar/v2/pro",
            "sent_at": self.stamp(job.at),
            "started_at": self.stamp(job.at),
        }
        if self._done(job):
            item |= {"ended_at": self.stamp(job.done_at), "status_code": 200, "duration": job.script.takes}
        if payloads and self.history == "full":
            item |= {"json_input": job.body}
        return item

    stamp: Callable[[float], str] = lambda _: ""


def _json(
    status: int, body: Mapping[str, Any], job: Accepted | None = None, more: Mapping[str, str] | None = None
) -> Answer:
    headers = {"content-type": "application/json", **(more or {})}
    if job is not None:
        headers["x-fal-request-id"] = job.request_id
    return status, headers, json.dumps(body).encode()


def _shaped(shape: str, url: str) -> dict[str, Any]:
    """A result that holds the video, as documented or as nobody expected."""
    video = {"url": url, "content_type": "video/mp4"}
    return {
        "plain": {"video": video, "duration": 8.0},
        "none": {},
        "list": {"video": [video]},
        "wrapped": {"data": {"video": video}},
        "bare": {"video": url},
        "videos": {"videos": [{"url": url}]},
        "output": {"output": {"media_url": [url]}},
    }[shape]

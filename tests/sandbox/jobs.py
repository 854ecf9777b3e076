"""One accepted request, and how far it has come."""

import asyncio
import hashlib
import json
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

IN_QUEUE, IN_PROGRESS, COMPLETED = "IN_QUEUE", "IN_PROGRESS", "COMPLETED"
LOG_LINES = ("Preparing inputs", "Rendering avatar", "Still rendering", "Encoding video")


@dataclass(frozen=True)
class Failure:
    """How a job ended badly: fal's result status and body, and what Pixazo calls it."""

    kind: str
    message: str
    status: int = 422
    body: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    word: str = "FAILED"  # Pixazo's status word
    name: str = "error"  # the field in which Pixazo puts its message

    @classmethod
    def parse(cls, order: dict[str, Any]) -> "Failure":
        """From JSON; the body is written in fal's list shape, or its `flat` one, unless given."""
        kind = order.get("kind", "internal_server_error")
        message = order.get("message", "The model could not make a video of this")
        entry = {"loc": ["body"], "msg": message, "type": kind, "url": f"https://docs.fal.ai/errors/#{kind}"}
        flat = {"detail": message, "error_type": kind}
        body = order.get("body", flat if order.get("flat") else {"detail": [entry]})
        names = ("status", "headers", "word", "name")
        return cls(kind, message, body=body, **{name: order[name] for name in names if name in order})


@dataclass
class Fate:
    """What is decided about a job when it is accepted (see `misdeeds`)."""

    request_id: str | None = None
    never: bool = False
    failure: Failure | None = None
    defect: str = ""
    render_seconds: float | None = None
    queue_seconds: float | None = None
    webhooks: int = 1  # how often it is sent, once it is taken
    webhook_delay: float = 0.0  # seconds after the end

    @classmethod
    def parse(cls, order: dict[str, Any]) -> "Fate":
        """From JSON; `failure` in the words of `Failure.parse`."""
        failure = order.get("failure")
        return cls(**order | {"failure": Failure.parse(failure) if failure else None})


@dataclass
class Job:
    provider: str
    generation: str
    request_id: str
    key: str
    body: dict[str, Any]
    endpoint: str = ""
    keeps_payloads: bool = True
    tag: str | None = None
    webhook: str | None = None
    start_within: float | None = None
    fate: Fate = field(default_factory=Fate)
    media_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    state: str = IN_QUEUE
    accepted: float = field(default_factory=time.time)
    started: float | None = None
    ended: float | None = None
    render_seconds: float = 0.0
    queue_seconds: float = 0.0
    failure: Failure | None = None
    cancelled: bool = False
    video: Path | None = None
    seconds: float = 0.0
    size: tuple[int, int] = (0, 0)
    content: str | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def advance(self, state: str) -> None:
        """Take the next state and wake whoever streams it."""
        self.state = state
        self.started = self.started or (time.time() if state == IN_PROGRESS else None)
        self.ended = time.time() if state == COMPLETED else None
        self.changed.set()
        self.changed = asyncio.Event()

    @property
    def progress(self) -> float:
        """From 0 to 1, by the clock; 1 only when completed."""
        if self.state == COMPLETED:
            return 1.0
        if self.started is None:
            return 0.0
        return min(0.99, (time.time() - self.started) / max(self.render_seconds, 0.01))

    def logs(self) -> list[dict[str, str]]:
        """Log lines so far, in fal's shape."""
        if self.started is None:
            return []
        reached = 1 + int(self.progress * (len(LOG_LINES) - 1))
        pause = self.render_seconds / len(LOG_LINES)
        return [
            {
                "message": line,
                "level": "INFO",
                "source": "USER",
                "timestamp": iso(self.started + index * pause),
            }
            for index, line in enumerate(LOG_LINES[:reached])
        ]

    def record(self) -> dict[str, Any]:
        """The job as `/__sandbox__/state` shows it."""
        names = (
            "request_id",
            "provider",
            "generation",
            "endpoint",
            "tag",
            "key",
            "accepted",
            "started",
            "ended",
            "state",
        )
        return {name: getattr(self, name) for name in names} | {
            "body": self.body,
            "body_hash": digest(json.dumps(self.body, sort_keys=True).encode()),
            "content": self.content,
            "webhook": self.webhook,
            "seconds": self.seconds,
            "failed": self.failure.kind if self.failure else None,
        }


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def iso(moment: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(moment)) + "Z"

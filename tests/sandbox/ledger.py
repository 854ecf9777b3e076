"""What the sandbox saw: the evidence tests judge by."""

import time
from collections import Counter
from typing import Any

from aiohttp import web

#: Headers that carry a customer's key.
CREDENTIALS = ("Authorization", "Ocp-Apim-Subscription-Key", "X-Api-Key", "Cookie")
#: Operations that a key belongs to; on any other it is a leak.
KEYED = frozenset(
    {
        "submit",
        "status",
        "stream",
        "result",
        "cancel",
        "upload_token",
        "upload_file",
        "upload_initiate",
        "history",
    }
    | {"pricing", "bills"}
)


class Ledger:
    """Counts every request by operation, and records every one that carried a credential."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.received: list[dict[str, Any]] = []
        self.uploads: list[dict[str, Any]] = []
        self.misdeeds: list[dict[str, Any]] = []
        self._credentials: Counter[tuple[str, str, str, str, str, bool]] = Counter()

    def saw(self, request: web.Request, operation: str, *, foreign: bool) -> None:
        self.counts[operation] += 1
        if operation == "submit":
            tag, now = request.headers.get("X-Fal-Tags"), time.time()
            self.received.append({"path": request.path, "tag": tag, "time": now, "peer": str(request.remote)})
        for header in CREDENTIALS:
            if value := request.headers.get(header):
                leak = foreign or operation not in KEYED
                self._credentials[request.method, request.host, request.path, header, value, leak] += 1

    def credentials(self) -> list[dict[str, Any]]:
        """Every place a credential was sent to; `leak` where it has no business."""
        names = ("method", "host", "path", "header", "value", "leak")
        return [
            dict(zip(names, seen, strict=True)) | {"times": times}
            for seen, times in self._credentials.items()
        ]

    def report(self) -> dict[str, Any]:
        names = (
            "submit",
            "status",
            "stream",
            "result",
            "cancel",
            "media",
            "uploaded",
            "upload_put",
            "unknown",
        )
        credentials = self.credentials()
        return {
            "counts": {name: self.counts[name] for name in names} | self.counts,
            "posts": self.counts["submit"],
            "received": self.received,
            "uploads": self.uploads,
            "misdeeds": self.misdeeds,
            "credentials": credentials,
            "leaks": [entry for entry in credentials if entry["leak"]],
        }

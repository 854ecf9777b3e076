"""fal's own Python client, unchanged, pointed at a sandbox: run in a process of its own.

    python -m tests.sandbox.stock_client ACTION URL KEY ARGUMENTS

Two things are replaced, both below its own code: httpx's socket transport sends what is meant for fal's hosts
(https only, fixed at import) to the sandbox, and the pauses between its tries are shrunk a thousandfold.
What it retries, how often, and what it makes of an answer is its own.
"""

import json
import sys
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import fal_client
import httpx
from fal_client import client as implementation

MODEL = "fal-ai/kling-video/ai-avatar/v2/pro"
HURRY = 1000
Json = dict[str, Any]


def reroute(base: str) -> None:
    """Send requests for fal's hosts to the sandbox."""
    original, target = httpx.HTTPTransport.handle_request, httpx.URL(base)

    def handle(self: httpx.HTTPTransport, request: httpx.Request) -> httpx.Response:
        if not request.url.host.endswith(("fal.run", "fal.ai", "fal.media", "falrun.com")):
            return original(self, request)
        url = request.url.copy_with(scheme=target.scheme, host=target.host, port=target.port)
        headers = [(name, value) for name, value in request.headers.items() if name != "host"]
        headers.append(("host", url.netloc.decode()))
        moved = httpx.Request(
            request.method, url, headers=headers, stream=request.stream, extensions=request.extensions
        )
        return original(self, moved)

    httpx.HTTPTransport.handle_request = handle  # type: ignore[method-assign]


def hurry() -> list[float]:
    """Shrink the client's pauses; returns the list they are noted in."""
    pauses: list[float] = []

    def short(seconds: float) -> None:
        pauses.append(seconds)
        time.sleep(seconds / HURRY)

    implementation.time = SimpleNamespace(**{**vars(time), "sleep": short})  # type: ignore[assignment, attr-defined]
    return pauses


def walk(client: fal_client.SyncClient, arguments: Json) -> Json:
    """Submit, then status to the end, then the result, then a cancel that comes too late."""
    handle = client.submit(MODEL, arguments, headers={"X-Fal-Tags": "stock"})
    words: list[str] = []
    for event in handle.iter_events(with_logs=True, interval=0.05 * HURRY):
        words += [type(event).__name__] if type(event).__name__ not in words else []
    resumed = client.result(MODEL, handle.request_id)
    try:
        handle.cancel()
    except fal_client.FalClientHTTPError as error:
        return {"id": handle.request_id, "words": words, "result": resumed, "cancel": error.status_code}
    return {"cancel": "accepted"}


def subscribe(client: fal_client.SyncClient, arguments: Json) -> Json:
    """The README's one call."""
    try:
        return {"result": client.subscribe(MODEL, arguments, with_logs=True)}
    except fal_client.FalClientHTTPError as error:
        return {"status": error.status_code, "body": error.response.json()}


def cancel(client: fal_client.SyncClient, arguments: Json) -> Json:
    """Submit, cancel at once, and look."""
    handle = client.submit(MODEL, arguments)
    handle.cancel()
    status = handle.status()
    return {"word": type(status).__name__, "error_type": getattr(status, "error_type", None)}


def upload(client: fal_client.SyncClient, arguments: Json) -> Json:
    return {"url": client.upload(arguments["text"].encode(), "text/plain", file_name="note.txt")}


def lost(client: fal_client.SyncClient, arguments: Json) -> Json:
    """A submit whose answer is lost."""
    pauses = hurry()
    try:
        client.submit(MODEL, arguments)
    except httpx.TransportError as error:
        return {"error": type(error).__name__, "pauses": len(pauses), "would_have_waited": sum(pauses)}
    return {"error": None}


ACTIONS: dict[str, Callable[[fal_client.SyncClient, Json], Json]] = {
    "walk": walk,
    "subscribe": subscribe,
    "cancel": cancel,
    "upload": upload,
    "lost": lost,
}


def main(action: str, base: str, key: str, arguments: str) -> None:
    reroute(base)
    if action != "lost":
        hurry()
    print(json.dumps(ACTIONS[action](fal_client.SyncClient(key=key), json.loads(arguments))))


if __name__ == "__main__":
    main(*sys.argv[1:])

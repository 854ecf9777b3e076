"""What one job asks of the store and of the Prefect server: HTTP requests by kind, counted where they leave the process.

As a program, it runs a job twice in one process, so that the second finds a store whose fitness is proved, and prints the
requests of the second.
"""

import asyncio
import json
import re
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch
from urllib.parse import urlsplit

import httpx
import urllib3

from avatar.models import AvatarJob
from benchmarks import driven
from benchmarks.driven import Order, order_given
from benchmarks.rows import Row
from benchmarks.stage import Stage

BENCH, OURSELVES = "requests", "benchmarks.requests"
_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{32,64}|req[-_][\w-]+|\d{6,}")
#: What belongs to every flow run and task run, whatever they do.
_PREFECTS_OWN = re.compile(
    r"/(admin/version|csrf-token|flow_runs|flows|task_runs|deployments|work_pools|work_queues|logs|block_\w+|health|version)\b"
)


@dataclass
class Requests:
    """Every request that left this process, in order: method, and path without what is different each time."""

    store: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)

    def to_prefect(self, api_url: str) -> list[str]:
        """Those to the server at `api_url`, without its address."""
        begin = f" {api_url}"
        return [each.replace(begin, " ", 1) for each in self.others if begin in each]


def ours(requests: list[str]) -> list[str]:
    """Of the requests to Prefect those that the flows make beyond what any run makes."""
    return [each for each in requests if not _PREFECTS_OWN.match(each.partition(" ")[2])]


def by_kind(requests: list[str]) -> dict[str, int]:
    """How often each method."""
    return dict(sorted(Counter(each.partition(" ")[0] for each in requests).items()))


@contextmanager
def counted() -> Iterator[Requests]:
    """Counts what the store's SDK and httpx send while the block runs."""
    seen = Requests()
    urlopen = urllib3.HTTPConnectionPool.urlopen
    handle = httpx.AsyncHTTPTransport.handle_async_request

    def to_store(pool: Any, method: str, url: str, *args: Any, **more: Any) -> Any:
        parts = urlsplit(url)
        listed = f"?{_value(parts.query, 'prefix')}" if "list-type" in parts.query else ""
        seen.store.append(_plain(f"{'LIST' if listed else method} {parts.path}{listed}"))
        return urlopen(pool, method, url, *args, **more)

    async def to_others(transport: Any, request: httpx.Request) -> httpx.Response:
        seen.others.append(_plain(f"{request.method} {str(request.url).partition('?')[0]}"))
        return await handle(transport, request)

    with ExitStack() as stack:
        stack.enter_context(patch.object(urllib3.HTTPConnectionPool, "urlopen", to_store))
        stack.enter_context(patch.object(httpx.AsyncHTTPTransport, "handle_async_request", to_others))
        yield seen


def _value(query: str, name: str) -> str:
    return next(
        (value for key, _, value in (each.partition("=") for each in query.split("&")) if key == name), ""
    )


def _plain(text: str) -> str:
    return _ID.sub("…", text.replace("%2F", "/"))


def measure(stage: Stage) -> list[Row]:
    sandbox = stage.sandbox(render_seconds=1.0)
    process = driven.start(OURSELVES, stage.order(1), stage.connected(sandbox.fal_env()))
    said, complained = process.communicate()
    if process.returncode:
        raise RuntimeError(f"the job whose requests were to be counted failed:\n{complained[-4000:]}")
    found = json.loads(said.strip().splitlines()[-1])
    return [
        Row(BENCH, "one job, the second in its process: requests to the store", "", sum(found["store"].values()), None, "≤ 20"),
        *(Row(BENCH, f"one job: {method} to the store", "", count) for method, count in found["store"].items()),
        Row(BENCH, "one job: requests to Prefect, but those that every run makes", "", found["ours"], None, "≤ 12"),
        Row(BENCH, "one job: all requests to Prefect", "", found["prefect"]),
    ]  # fmt: skip


async def _main(order: Order) -> dict[str, Any]:
    from prefect.settings import PREFECT_API_URL

    from flows.generate import generate_avatar

    for _ in range(2):
        with counted() as seen:
            await generate_avatar(
                AvatarJob(portrait=order.portrait, voice=order.voice, prompt=f"bench {uuid.uuid4()}")
            )
    prefect = seen.to_prefect(PREFECT_API_URL.value() or "")
    return {
        "store": by_kind(seen.store),
        "ours": len(ours(prefect)),
        "prefect": len(prefect),
        "each": [*seen.store, *prefect],
    }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(_main(order_given()))))

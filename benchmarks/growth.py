"""What is asked of the store with 1,000 and with 100,000 videos kept, 100 a day: requests, not time.

The store is in memory; a listing counts as one request for each thousand keys, as S3 answers it.
"""

import asyncio
import math
from bisect import bisect_left
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx

from avatar.commands.status import tell_all
from avatar.errors import AvatarError
from avatar.job.index import summarise
from avatar.job.reconcile import reconcile_renders
from avatar.job.retention import expire
from avatar.money.entries import Entry, RenderState
from avatar.money.journal import INDEXED, request_key
from avatar.money.state import find_holder
from avatar.settings import AvatarSettings
from avatar.settings_sections import BudgetSettings
from avatar.store.by_day import KINDS, NOTES, RENDERS, RESULTS
from avatar.store.objects import Stat
from avatar.stored_models import ProviderName
from avatar.web.gallery import build_app
from avatar.web.metrics import Metrics
from avatar.workspace import Workspace
from benchmarks.rows import Row
from benchmarks.stage import Stage
from tests.store.memory import Kept, MemoryServer, MemoryStore, _flat
from tests.web.gallery.manifests import make_video

BENCH = "growth"
SIZES = (1_000, 100_000)
A_DAY, PAGE = 100, 1_000
Ask = Callable[[Workspace], Awaitable[Any]]


def measure(stage: Stage) -> list[Row]:
    counted = {kept: asyncio.run(count_requests(stage.folder, kept)) for kept in SIZES}
    few, many = (counted[kept] for kept in SIZES)
    return [
        Row(
            BENCH,
            f"{what}: requests at {SIZES[1]:,} videos (at {SIZES[0]:,}: {few[what]})",
            "",
            many[what],
            None,
            "the same",
        )
        for what in few
    ]


@dataclass
class CountingServer(MemoryServer):
    """Counts what S3 would be sent."""

    requests: int = 0

    async def answer(self, method: str, key: str, act: Callable[[], Any]) -> Any:
        found = await super().answer(method, key, act)
        self.requests += max(1, math.ceil(len(found) / PAGE)) if method == "list" else 1
        return found


class SortedStore(MemoryStore):
    """Lists a prefix without looking at every key."""

    _sorted: tuple[str, ...] = ()

    def _listed(self, prefix: str, *, recursive: bool) -> list[Stat]:
        if len(self._sorted) != len(self._objects):
            self._sorted = tuple(sorted(self._objects))
        begin, end = bisect_left(self._sorted, prefix), bisect_left(self._sorted, prefix + "\x7f")
        found = {key: self._objects[key].stat for key in self._sorted[begin:end]}
        if not recursive:
            found = dict(_flat(prefix, stat) for stat in found.values())
        return list(found.values())


async def count_requests(folder: Path, kept: int) -> dict[str, int]:
    """What each question costs with so many videos kept."""
    settings = AvatarSettings(
        _env_file=None, state_dir=folder / "growth", budget=BudgetSettings(per_day=Decimal(10_000)),
        store={"endpoint": "127.0.0.1:9", "access_key": "-", "secret_key": "-"},
        retention={"videos_days": 3650, "renders_days": 3650, "results_days": 3650, "batches_days": 3650},
    )  # fmt: skip
    counts = {}
    async with Workspace(settings) as workspace:
        server = CountingServer()
        store = SortedStore(server)
        workspace.store = workspace.journal.store = workspace.budget.store = store
        await store.ensure_bucket()
        server.buckets["avatar"].update(_seeds(kept))
        for what, ask in QUESTIONS.items():
            before = server.requests
            with suppress(AvatarError):
                await ask(workspace)
            counts[what] = server.requests - before
    return counts


def _seeds(kept: int) -> Iterator[tuple[str, Kept]]:
    """Videos with all that lies beside each, journals and bills; the newest of today, the others of the days before."""
    sample = make_video(1)
    manifest, summary = sample.model_dump_json(), summarise(sample).model_dump_json()
    head = _entry(sample, RenderState.COLLECTED)
    yield _kept(INDEXED, b"{}", datetime.now(UTC))
    for kind in KINDS:
        yield _kept(f"{NOTES}{kind}.json", b'{"whole": true}', datetime.now(UTC))
    for number in range(kept):
        at = datetime.now(UTC) - timedelta(days=number // A_DAY)
        day, job_id = f"{at:%Y-%m-%d}", f"{number + 0x1000:032x}"
        own = manifest.replace(sample.job_id, job_id).encode()
        yield _kept(f"videos/{job_id}/manifest.json", own, at)
        yield _kept(f"videos/{job_id}/video.mp4", b"", at)
        entry = summary.replace(sample.job_id, job_id).encode()
        yield _kept(f"index/videos/{day}/{number % A_DAY:012d}-{job_id}.json", entry, at)
        yield _kept(f"journal/{job_id}/0001.json", head, at)
        yield _kept(f"renders/{job_id}/{job_id}.mp4", b"", at)
        yield _kept(f"plans/{job_id}.json", b"{}", at)
        yield _kept(f"results/{job_id}", b"{}", at)
        for kind, place in ((RENDERS, f"renders/{job_id}"), (RESULTS, f"results/{job_id}")):
            yield _kept(f"{NOTES}{kind}/{day}/{place}", b"{}", at)
        yield _kept(request_key(ProviderName.FAL, f"req-{number}"), b"{}", at)
        yield _kept(f"budget/{day}/{job_id}.settled.9400.billed.json", b"{}", at)


def _entry(sample: Any, state: RenderState) -> bytes:
    who = {
        "render_id": sample.job_id,
        "job_id": sample.job_id,
        "holder": "-",
        "token": "-",
        "provider": "fal",
    }
    what = {
        "seq": 1,
        "state": state,
        "at": sample.published_at,
        "lease_seconds": 120,
        "quoted": Decimal("1.04"),
    }
    return Entry.model_validate(who | what).model_dump_json().encode()


def _kept(key: str, data: bytes, at: datetime) -> tuple[str, Kept]:
    return key, Kept(data, Stat(key, len(data), "etag", at, None, "application/json", None, {}))


async def _gallery_page(workspace: Workspace) -> None:
    app = build_app(workspace)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        (await client.get("/")).raise_for_status()


async def _claim(workspace: Workspace) -> None:
    claims = await workspace.budget.claim({"f" * 32: Decimal("1.04")})
    await workspace.budget.release(*claims.values())


async def _unknown(workspace: Workspace) -> None:
    await find_holder(workspace, "e" * 32, ProviderName.FAL, "req-of-nobody")


QUESTIONS: dict[str, Ask] = {
    "a gallery's first page": _gallery_page,
    "avatar status": tell_all,
    "a claim of a day's budget": _claim,
    "a webhook of an unknown render": _unknown,
    "/metrics": lambda workspace: Metrics(workspace).answer(None),  # type: ignore[arg-type]
    "reconcile, nothing open": reconcile_renders,
    "expire, nothing old": expire,
}

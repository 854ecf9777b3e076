"""`/metrics` of gallery and bridge, for Prometheus. Counted from what is open and from today's indexes.

Nothing here lists or reads all videos, renders or claims: what a look costs grows with what is open and with the day.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from http import HTTPStatus

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric, SummaryMetricFamily
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from avatar.errors import StoreUnavailable
from avatar.inbox.uploads import Inbox, list_uploads
from avatar.job.index import read_summary
from avatar.job.month_index import VIDEOS
from avatar.money.budget import Claim, total
from avatar.money.commit import open_jobs
from avatar.money.entries import Record, RenderState
from avatar.waiting import in_turns
from avatar.workspace import Workspace

METRICS = "/metrics"
#: Seconds for which a look at the store is good, however many ask.
FRESH_SECONDS = 15.0
#: Open renders whose state is read; all are counted.
MOST_READ = 500
#: Seconds that a render takes at its provider.
_BUCKETS = (5, 10, 20, 30, 60, 120, 300, 600, 1200, 3600)


@dataclass
class StoreReading:
    """What was in the store."""

    heads: list[Record]
    open_renders: int
    open_jobs: int
    claims: list[Claim]
    uploads: list[float]  # seconds since each upload in the inbox last changed
    at: float = field(default_factory=time.monotonic)


class Metrics(Collector):
    """Answers `/metrics`. What an access needs to be allowed is the caller's to check."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._look: StoreReading | None = None
        self._reachable = True
        self._looking = asyncio.Lock()
        self._seen: set[str] = set()
        self._registry = CollectorRegistry()
        self._rendered = Histogram(
            "avatar_render_seconds", "From a render's submit to its video in the store; today's, once published.",
            ["provider"], buckets=_BUCKETS, registry=self._registry,
        )  # fmt: skip
        self._registry.register(self)

    async def answer(self, _: Request) -> Response:
        async with self._looking:
            if self._look is None or time.monotonic() - self._look.at > FRESH_SECONDS:
                try:
                    self._look = await self._look_again()
                    self._reachable = True
                except StoreUnavailable:  # what was seen last would be taken for what is
                    self._look, self._reachable = None, False
        headers = {"content-type": CONTENT_TYPE_LATEST, "cache-control": "no-store"}
        return PlainTextResponse(generate_latest(self._registry), HTTPStatus.OK, headers)

    async def _look_again(self) -> StoreReading:
        workspace, today = self._workspace, f"{datetime.now(UTC):%Y-%m-%d}"
        renders = await workspace.journal.open_renders()
        heads = await in_turns(workspace.journal.head, renders[:MOST_READ])
        await self._observe(today)
        found = await list_uploads(Inbox(workspace))
        return StoreReading(
            heads=[head for head in heads if head is not None],
            open_renders=len(renders),
            open_jobs=len(await open_jobs(workspace)),
            claims=await workspace.budget.claims(today),
            uploads=[upload.age for upload in found.uploads],
        )

    async def _observe(self, day: str) -> None:
        """Count the day's videos that were not counted before."""
        keys = {stat.key for stat in await self._workspace.store.list(f"{VIDEOS}{day}/")}
        for summary in await in_turns(
            lambda key: read_summary(self._workspace.store, key), keys - self._seen
        ):
            for seconds in summary.render_seconds if summary else ():
                self._rendered.labels(summary.provider if summary else "").observe(seconds)
        self._seen = keys

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        calls = self._workspace.store.calls
        yield SummaryMetricFamily(
            "avatar_store_call_seconds", "Calls of this process to the store, their repetitions included.",
            count_value=calls.count, sum_value=calls.seconds,
        )  # fmt: skip
        yield CounterMetricFamily("avatar_store_errors", "Such calls that failed.", value=calls.failed)
        yield _gauge("avatar_store_up", "Whether the store answered at the last look.", int(self._reachable))
        if self._look is not None:
            yield from self._money(self._look)
            yield from self._work(self._look)

    def _work(self, seen: StoreReading) -> Iterator[Metric]:
        states = GaugeMetricFamily(
            "avatar_open_renders", "Renders that are not at rest.", labels=["provider", "state"]
        )
        for (provider, state), count in Counter(
            (e.entry.provider, e.entry.state) for e in seen.heads
        ).items():
            states.add_metric([provider, state], count)
        yield states
        now = datetime.now(UTC)
        ages = [(now - head.entry.at).total_seconds() for head in seen.heads]
        yield _gauge("avatar_open_renders_all", "Renders that are not at rest, in all.", seen.open_renders)
        yield _gauge(
            "avatar_oldest_open_render_seconds", "Since the last entry in the journal of the one that has waited longest.",
            max(ages, default=0.0),
        )  # fmt: skip
        yield _gauge(
            "avatar_open_jobs",
            "Jobs that have spent or set aside money and have no video yet.",
            seen.open_jobs,
        )
        yield _gauge("avatar_inbox_uploads", "Uploads that no run has filed yet.", len(seen.uploads))
        yield _gauge(
            "avatar_inbox_oldest_seconds", "Since the one that has waited longest last changed.",
            max(seen.uploads, default=0.0),
        )  # fmt: skip

    def _money(self, seen: StoreReading) -> Iterator[Metric]:
        per_day = self._workspace.budget.per_day
        billed, set_aside = (
            total([claim for claim in seen.claims if claim.state == state]) for state in ("settled", "open")
        )
        yield _gauge("avatar_billed_dollars", "Billed for renders of this UTC day.", billed)
        yield _gauge(
            "avatar_set_aside_dollars",
            "Quoted for renders of this UTC day that are not billed yet.",
            set_aside,
        )
        quoted = sum((head.entry.quoted for head in seen.heads), Decimal(0))
        yield _gauge("avatar_quoted_dollars", "Quoted for the open renders.", quoted)
        unknown = [head.entry.quoted for head in seen.heads if head.state is RenderState.UNKNOWN]
        yield _gauge(
            "avatar_at_risk_dollars", "Quoted for renders whose outcome is unknown.", sum(unknown, Decimal(0))
        )
        if per_day is not None:
            left = max(Decimal(0), per_day - billed - set_aside)
            yield _gauge("avatar_budget_left_dollars", "Of AVATAR_BUDGET__PER_DAY, this UTC day.", left)


def _gauge(name: str, text: str, value: float | Decimal) -> Metric:
    return GaugeMetricFamily(name, text, value=float(value))

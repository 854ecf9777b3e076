"""Every row looked at before anything is spent: read, stored, decoded, planned, priced, and summed against every limit."""

import asyncio
import itertools
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Generic, TypeVar

from avatar.batch.chunks import CHUNK_ROWS, earlier_rows, write_rows
from avatar.batch.chunks import read_rows as read_chunk
from avatar.batch.manifest import Manifest
from avatar.batch.models import Batch, Checked, Outcome, Row, RowState
from avatar.batch.rows import RawRow, as_job, read_rows
from avatar.errors import (
    BudgetRefused,
    ConsentMissing,
    InvalidInput,
    SourceUnavailable,
    StoreUnfit,
    VideoRejected,
)
from avatar.job.captions import caption_video, with_captions
from avatar.job.consent import consented, find_consent
from avatar.job.inputs import ingest
from avatar.job.plan import (
    identify,
    plan_cache_key,
    plan_ready,
    ready_portrait,
    ready_voice,
    refuse_warned,
)
from avatar.job.publish import find_video, require_published
from avatar.models import AvatarJob, Plan, Video, VideoState, shown, title_for
from avatar.money.budget import total
from avatar.money.commit import still_to_buy
from avatar.money.quote import check_price
from avatar.option_names import named
from avatar.store.conditional_create import keeps_conditional_create
from avatar.stored_models import Asset, Consent, Portrait, ProviderName, Segment, Voice
from avatar.workspace import Workspace

T = TypeVar("T")

#: Rows looked at at a time: each holds a decoder and its files.
AT_A_TIME = 8
#: Inputs remembered, for rows that share them.
REMEMBERED = 512

OnProgress = Callable[[int], None]


class AsyncCache(Generic[T]):
    """Work done once for all rows that ask for it under the same key; the newest `REMEMBERED` results are kept."""

    def __init__(self) -> None:
        self._tasks: OrderedDict[Hashable, asyncio.Future[T]] = OrderedDict()

    async def get(self, key: Hashable, work: Callable[[], Awaitable[T]]) -> T:
        task = self._tasks.get(key)
        if task is None:
            task = self._tasks[key] = asyncio.ensure_future(work())
            if len(self._tasks) > REMEMBERED:
                self._tasks.popitem(last=False)
        try:
            # Shielded: one row that is cancelled must not take it from the others.
            return await asyncio.shield(task)
        except BaseException:
            self._tasks.pop(key, None)
            raise


class Checker:
    """Looks at the rows of one batch, chunk by chunk."""

    def __init__(self, workspace: Workspace, batch: Batch, manifest: Manifest) -> None:
        self.workspace, self.batch, self.manifest = workspace, batch, manifest
        self._turn = asyncio.Semaphore(AT_A_TIME)
        self._lines: dict[str, int] = {}
        self._assets: AsyncCache[Asset] = AsyncCache()
        self._portraits: AsyncCache[Portrait] = AsyncCache()
        self._voices: AsyncCache[tuple[Voice, tuple[Segment, ...]]] = AsyncCache()
        self._consents: AsyncCache[Consent | None] = AsyncCache()
        self._fit: set[tuple[str, str]] = set()

    async def check_chunk(self, raws: Sequence[RawRow], earlier: Mapping[int, Row]) -> list[Row]:
        """Rows with their plans and prices; bad ones with their reasons.

        Raises:
            NotConfigured, StoreUnfit: a provider that is asked for cannot be used at all.
            StoreUnavailable: the store failed.
        """
        jobs = [as_job(raw, self.batch, self.manifest.base) for raw in raws]
        for job in jobs:
            if isinstance(job, AvatarJob):
                await self._check_provider(job)
        inputs = await asyncio.gather(
            *(self._in_turn(self._take_in(raw, job)) for raw, job in zip(raws, jobs, strict=True))
        )
        unique = [self._without_doubles(each) for each in inputs]
        return await asyncio.gather(*(self._in_turn(self._finish(each, earlier)) for each in unique))

    async def _in_turn(self, work: Awaitable[T]) -> T:
        async with self._turn:
            return await work

    async def _take_in(self, raw: RawRow, job: AvatarJob | str) -> "Row | _Ingested":
        if isinstance(job, str):
            return _bad(raw, job)
        try:
            portrait = await self._asset(job.portrait, "portrait")
            voice = await self._asset(job.voice, "voice")
        except (InvalidInput, SourceUnavailable, OSError, ValueError) as error:  # a file not ours to read
            passes = isinstance(error, SourceUnavailable)
            return _bad(raw, str(error), getattr(error, "hint", None), passes=passes)
        name = identify(job, portrait, voice, self.workspace.provider(job.provider, job.model))
        return _Ingested(raw.line, job, portrait, voice, name)

    async def _asset(self, source: str, what: str) -> Asset:
        return await self._assets.get((what, source), lambda: ingest(self.workspace, source, what=what))

    async def _check_provider(self, job: AvatarJob) -> None:
        provider = self.workspace.provider(job.provider, job.model)
        if (provider.name, provider.model) not in self._fit:
            await require_provider(self.workspace, job.provider, job.model)
            self._fit.add((provider.name, provider.model))

    def _without_doubles(self, ingested: "Row | _Ingested") -> "Row | _Ingested":
        """The first row of a job stays; the others refer to it."""
        if isinstance(ingested, Row):
            return ingested
        first = self._lines.setdefault(ingested.job_id, ingested.line)
        if first == ingested.line:
            return ingested
        return ingested.row(RowState.DUPLICATE, reason=f"the same job as line {first}")

    async def _finish(self, ingested: "Row | _Ingested", earlier: Mapping[int, Row]) -> Row:
        if isinstance(ingested, Row):
            return ingested
        video = await find_video(self.workspace, ingested.job_id)
        try:
            if video is not None and not (video.state is VideoState.REJECTED and ingested.job.accept):
                if ingested.captions:
                    video = await caption_video(self.workspace, video, ingested.captions)
                return ingested.made(require_published(video))
            plan, key = await self._plan(ingested, earlier.get(ingested.line))
            asked = ingested.job.model_copy(update={"captions": ingested.captions})
            plan = await self._consented(await with_captions(self.workspace, asked, plan))
            check_price(plan.quote, ingested.job, self.workspace.settings.budget)
        except VideoRejected as error:
            return ingested.row(RowState.REJECTED, reason=str(error), hint=error.hint or "")
        except (InvalidInput, SourceUnavailable, BudgetRefused, ConsentMissing) as error:
            return ingested.row(RowState.BAD, reason=ingested.in_its_words(str(error)), hint=error.hint or "")
        return ingested.planned(plan, key, await still_to_buy(self.workspace, plan))

    async def _consented(self, plan: Plan) -> Plan:
        sha256 = plan.portrait.source.sha256
        found = await self._consents.get(sha256, lambda: find_consent(self.workspace, sha256))
        return consented(self.workspace, plan, found)

    async def _plan(self, ingested: "_Ingested", earlier: Row | None) -> tuple[Plan, str]:
        """As an earlier run planned it, if nothing that it depends on has changed."""
        key = plan_cache_key(self.workspace, ingested.job, ingested.portrait, ingested.voice)
        if earlier is not None and earlier.plan is not None and earlier.plan_key == key:
            return earlier.plan, key
        provider = self.workspace.provider(ingested.job.provider, ingested.job.model)
        portrait = await self._portraits.get(
            (ingested.portrait.sha256, provider.limits),
            lambda: ready_portrait(self.workspace, ingested.portrait, provider.limits, ingested.job.portrait),
        )
        voice, segments = await self._voices.get(
            (ingested.voice.sha256, provider.limits, ingested.job.trim),
            lambda: ready_voice(
                self.workspace, ingested.voice, provider.limits, ingested.job.voice, trim=ingested.job.trim
            ),
        )
        plan = plan_ready(provider, ingested.job, portrait, voice, segments)
        refuse_warned(self.workspace.settings, plan)
        return plan, key


async def require_provider(workspace: Workspace, name: ProviderName | None, model: str | None = None) -> None:
    """Raise `NotConfigured` or `StoreUnfit` if a provider cannot be used at all. None: that of the settings."""
    provider = workspace.provider(name, model)
    provider.check_configured()
    if provider.capabilities.paid and not await keeps_conditional_create(workspace.store):
        raise StoreUnfit(
            "This store cannot keep two workers from paying for the same render: it ignores If-None-Match. Nothing "
            "was sent or spent.",
            hint="`avatar doctor` tells which stores are fit.",
        )


class _Ingested:
    """A row whose inputs are stored, so that its job has a name, and its links, which may be secrets, can go."""

    def __init__(self, line: int, job: AvatarJob, portrait: Asset, voice: Asset, job_id: str) -> None:
        self.line, self.portrait, self.voice, self.job_id = line, portrait, voice, job_id
        self.captions = job.captions
        named = {"portrait": shown(job.portrait), "voice": shown(job.voice), "captions": ()}
        self.job = job.model_copy(update=named)

    def row(self, state: RowState, **facts: object) -> Row:
        known = {
            "line": self.line,
            "state": state,
            "title": title_for(self.job),
            "portrait": self.job.portrait,
            "voice": self.job.voice,
            "provider": self.job.provider or "",
            "job_id": self.job_id,
        }
        return Row(line=self.line, job=self.job, outcome=Outcome.model_validate(known | facts))

    def in_its_words(self, reason: str) -> str:
        """A reason that names a file by its content, by the name it has in the manifest."""
        for asset, source in ((self.portrait, self.job.portrait), (self.voice, self.job.voice)):
            reason = reason.replace(asset.key.rsplit("/", 1)[-1], source)
        return reason

    def made(self, video: Video) -> Row:
        return self.row(RowState.ALREADY, **video_facts(video))

    def planned(self, plan: Plan, key: str, owed: Mapping[str, Decimal]) -> Row:
        facts = {"provider": plan.provider, "seconds": plan.voice.seconds, "quoted": plan.quote.amount}
        row = self.row(RowState.WAITING, **facts)
        return row.model_copy(update={"plan": plan, "plan_key": key, "owed": dict(owed)})


def video_facts(video: Video) -> dict[str, object]:
    """What the report says of a published video."""
    return {
        "provider": video.provider,
        "seconds": video.seconds,
        "quoted": video.cost.quoted,
        "billed": video.cost.billed,
        "video": video.uri,
        "renders": tuple(render.render_id for render in video.renders),
        "requests": tuple(render.request_id for render in video.renders),
    }


def _bad(raw: RawRow, reason: str, hint: str | None = None, *, passes: bool = False) -> Row:
    outcome = Outcome(
        line=raw.line,
        state=RowState.BAD,
        title=raw.text("title"),
        portrait=raw.text("portrait"),
        voice=raw.text("voice"),
        reason=reason,
        hint=hint or "",
        passes=passes,
    )
    return Row(line=raw.line, outcome=outcome)


async def check_rows(
    workspace: Workspace, batch: Batch, manifest: Manifest, on_progress: OnProgress = lambda _: None
) -> Checked:
    """Look at every row, and keep the rows with their plans and prices in the store, chunk by chunk.

    Raises:
        InvalidInput: the manifest as a whole cannot be read, or has no rows.
        NotConfigured, StoreUnfit: a provider that is asked for cannot be used at all.
        StoreUnavailable: the store failed. Nothing was spent.
    """
    checker = Checker(workspace, batch, manifest)
    found = Checked(batch_id=manifest.batch_id, rows=0, chunks=0, ready=0)
    for number, raws in enumerate(_in_chunks(read_rows(manifest.path, batch))):
        rows = await checker.check_chunk(raws, await earlier_rows(workspace, manifest.batch_id, number))
        await write_rows(workspace, manifest.batch_id, number, rows)
        found = _counted(workspace, found, rows)
        on_progress(found.rows)
    if not found.rows:
        raise InvalidInput("The manifest has no rows. Nothing was sent or spent.")
    return found


def _in_chunks(rows: Iterable[RawRow]) -> Iterable[list[RawRow]]:
    left = iter(rows)
    while chunk := list(itertools.islice(left, CHUNK_ROWS)):
        yield chunk


def _counted(workspace: Workspace, found: Checked, rows: Sequence[Row]) -> Checked:
    ready = [row for row in rows if row.plan is not None]
    paid = any(
        workspace.provider(row.plan.provider, row.plan.model).capabilities.paid for row in ready if row.plan
    )
    zero = Decimal(0)
    return Checked(
        batch_id=found.batch_id,
        rows=found.rows + len(rows),
        chunks=found.chunks + 1,
        ready=found.ready + len(ready),
        bad=found.bad + sum(row.outcome.state is RowState.BAD for row in rows),
        quoted=found.quoted + sum((row.plan.quote.amount for row in ready if row.plan), zero),
        owed=found.owed + sum((sum(row.owed.values(), zero) for row in ready), zero),
        paid=found.paid or paid,
    )


# The price of a whole batch against every limit, before anything is sent.
async def check_budget(workspace: Workspace, batch: Batch, checked: Checked) -> None:
    """Raise `BudgetRefused` if what is still to be bought is above what one batch, or the day, may cost.

    The day's money is claimed job by job as they are sent, so another batch may take it in between; then the jobs
    that no longer fit are refused one by one, and reported.
    """
    budget = workspace.settings.budget
    limits = {
        named("max_cost"): batch.max_cost,
        "AVATAR_BUDGET__PER_BATCH": budget.per_batch,
    }
    for name, limit in limits.items():
        if limit is not None and checked.owed > limit:
            raise BudgetRefused(
                f"This batch is quoted at ${checked.owed:.2f} for what is still to be bought of its {checked.rows} rows, "
                f"above the limit of ${limit:.2f} set by {name}. Nothing was sent or spent.",
                hint=f"Raise {name}, take rows out, or render the free preview ({named('provider')} preview).",
            )
    if budget.per_day is not None and checked.owed:
        await _check_day(workspace, checked, budget.per_day)


async def _check_day(workspace: Workspace, checked: Checked, limit: Decimal) -> None:
    day = f"{datetime.now(UTC).date():%Y-%m-%d}"
    claims = await workspace.budget.claims(day)
    taken, counted = total(claims), {claim.render_id for claim in claims}
    asked = Decimal(0)
    for chunk in range(checked.chunks):
        for row in await read_chunk(workspace, checked.batch_id, chunk):
            # A run that was killed may have left claims for these very renders.
            asked += sum((sum_ for name, sum_ in row.owed.items() if name not in counted), Decimal(0))
    if taken + asked > limit:
        raise BudgetRefused(
            f"This batch asks for ${asked:.2f}; ${taken:.2f} of the ${limit:.2f} for {day} (UTC) set by "
            "AVATAR_BUDGET__PER_DAY are spent or set aside. Nothing was sent or spent.",
            hint="Raise AVATAR_BUDGET__PER_DAY, split the manifest, or run it again tomorrow.",
        )

"""What an order would cost: a plan for each provider and model, or every row of a batch looked at."""

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal

from avatar.batch.check import check_rows
from avatar.batch.manifest import open_manifest
from avatar.batch.models import Checked, Outcome, RowState
from avatar.batch.report import each_outcome
from avatar.errors import AvatarError, ConsentMissing, InvalidInput, NotConfigured
from avatar.job.consent import with_consent
from avatar.job.plan import plan_job
from avatar.job.publish import find_video
from avatar.media.decoder_calls import voice_outline
from avatar.models import PREVIEW, Plan, Video
from avatar.money.budget import total
from avatar.money.commit import still_to_buy
from avatar.option_names import at_form
from avatar.providers.known_models import find_model, known_models
from avatar.stored_models import ProviderName
from avatar.web.drafts import Draft, ManifestRows, address, asset_of, batch_of, write_manifest
from avatar.workspace import Workspace

#: Orders whose prices are kept in memory: a page that is loaded again decodes nothing.
MOST_KEPT = 100
#: Bars of a waveform.
BARS = 240
#: Rows of a batch that are told to have something against them.
TOLD = 50


@dataclass(frozen=True)
class Offer:
    """What one provider asks with one model. `fault` is why it cannot be had.

    Attributes:
        owed: US dollars that are still to be paid.
        plan, video: of a single job; the video if it was published before.
        checked, bad: of a batch; the rows that cannot be rendered.
    """

    provider: ProviderName
    model: str
    title: str = ""
    price_per_second: Decimal = Decimal(0)
    owed: Decimal = Decimal(0)
    plan: Plan | None = None
    video: Video | None = None
    checked: Checked | None = None
    bad: tuple[Outcome, ...] = ()
    fault: str = ""

    @property
    def is_paid(self) -> bool:
        """Rows of a manifest may name a paid provider of their own."""
        return self.provider is not ProviderName.PREVIEW or bool(self.checked and self.checked.paid)

    @property
    def asked_model(self) -> str | None:
        return None if self.provider is ProviderName.PREVIEW else self.model


@dataclass
class Pricing:
    """The offers for an order, as far as they are known.

    Attributes:
        rows: of a batch.
        bars: the waveform of a single voice.
        looked_at: rows so far, of all offers.
        fault: why nothing can be said.
    """

    offers: list[Offer] = field(default_factory=list)
    rows: ManifestRows | None = None
    bars: tuple[float, ...] = ()
    looked_at: int = 0
    fault: str = ""
    done: bool = False

    def offer(self, provider: str, model: str) -> Offer | None:
        return next((each for each in self.offers if (each.provider, each.model) == (provider, model)), None)


class Offers:
    """Prices orders, each once, a few at a time, and goes on while nobody looks."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self._kept: OrderedDict[str, tuple[Pricing, asyncio.Task[None]]] = OrderedDict()
        self._turn = asyncio.Semaphore(2)

    async def price(self, order_id: str, order: Draft, *, seconds: float = 20.0) -> Pricing:
        """What is known of an order's price, waiting for all of it for so long."""
        kept = self._kept.get(order_id)
        if kept is None or (kept[1].done() and self._may_differ_now(kept[0])):
            pricing = Pricing()
            self._kept[order_id] = pricing, asyncio.create_task(self._work(order, pricing))
            while len(self._kept) > MOST_KEPT:
                _, (_, dropped) = self._kept.popitem(last=False)
                dropped.cancel()
        pricing, task = self._kept[order_id]
        await asyncio.wait({task}, timeout=seconds)
        return pricing

    def _may_differ_now(self, pricing: Pricing) -> bool:
        """What was refused may be let through by now: a consent is recorded by a command of its own."""
        refused = any(offer.fault or offer.bad for offer in pricing.offers)
        return bool(pricing.fault) or (refused and self.workspace.settings.consent == "required")

    def forget(self, order_id: str) -> None:
        """Price it anew when it is asked for again: something was bought."""
        self._kept.pop(order_id, None)

    async def aclose(self) -> None:
        tasks = [task for _, task in self._kept.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _work(self, order: Draft, pricing: Pricing) -> None:
        try:
            async with self._turn:
                await (self._price_batch if order.is_batch else self._price_job)(order, pricing)
        except AvatarError as error:
            pricing.fault = in_words(error)
        pricing.done = True

    def _asked(self) -> list[tuple[ProviderName, str, str]]:
        """Provider, model and the model's title: the free preview, then the settings' model, then the others."""
        settings = self.workspace.settings
        first = find_model(settings).name
        known = sorted(known_models(settings).values(), key=lambda one: one.name != first)
        found = [(ProviderName.PREVIEW, PREVIEW, "Free preview")]
        for name in (ProviderName.FAL, ProviderName.PIXAZO):
            found += [(name, one.name, one.title) for one in known if name in one.offers and one.enabled]
        return found

    async def _price_job(self, order: Draft, pricing: Pricing) -> None:
        voice = order.voices[0]
        async with self.workspace.local_copy(await asset_of(self.workspace, voice)) as path:
            try:
                pricing.bars = await asyncio.to_thread(voice_outline, path, BARS)
            except InvalidInput as error:
                pricing.fault = in_words(error)
                return
        made: dict[tuple[ProviderName, str, str], Offer] = {}

        async def add(asked: tuple[ProviderName, str, str]) -> None:
            made[asked] = await self._offer(order, *asked)
            pricing.offers = _without_repeated_faults([made[each] for each in self._asked() if each in made])

        await asyncio.gather(*(add(asked) for asked in self._asked()))

    async def _offer(self, order: Draft, name: ProviderName, model: str, title: str) -> Offer:
        try:
            self.workspace.provider(name, model).check_configured()
            plan = await self.plan(order, name, model)
            video = await find_video(self.workspace, plan.job_id)
            owed = (
                sum((await still_to_buy(self.workspace, plan)).values(), Decimal(0))
                if not video
                else Decimal(0)
            )
        except (ConsentMissing, NotConfigured, InvalidInput) as error:
            return Offer(name, model, title, fault=in_words(error))
        price = plan.quote.price_per_second
        return Offer(name, model, title, price, owed, plan=plan, video=video)

    async def plan(self, order: Draft, name: ProviderName, model: str) -> Plan:
        portrait, voice = order.portraits[0], order.voices[0]
        facts = {"provider": name, "title": order.titled(voice), **_model(name, model)}
        job = order.job(address(self.workspace, portrait), address(self.workspace, voice), **facts)
        inputs = [await asset_of(self.workspace, key) for key in (portrait, voice)]
        return await with_consent(self.workspace, await plan_job(self.workspace, job, *inputs))

    async def _price_batch(self, order: Draft, pricing: Pricing) -> None:
        pricing.rows = await write_manifest(self.workspace, order)
        if not pricing.rows.good:
            pricing.fault = "No row can be rendered."
            return
        for asked in self._asked():
            offer = await self._offer_batch(order, pricing, *asked)
            pricing.offers = _without_repeated_faults([*pricing.offers, offer])

    async def _offer_batch(
        self, order: Draft, pricing: Pricing, name: ProviderName, model: str, title: str
    ) -> Offer:
        before = pricing.looked_at

        def told(rows: int) -> None:
            pricing.looked_at = before + rows

        assert pricing.rows  # noqa: S101 - the caller wrote them
        batch = batch_of(order, pricing.rows, name, _model(name, model).get("model"))
        batch = batch.of(datetime.now(UTC).date())  # as the run will: so its rows are found as they are
        try:
            provider = self.workspace.provider(name, model)
            provider.check_configured()
            async with open_manifest(self.workspace, batch) as manifest:
                checked = await check_rows(self.workspace, batch, manifest, told)
            bad = [
                each async for each in each_outcome(self.workspace, checked, "") if each.state is RowState.BAD
            ]
        except (NotConfigured, InvalidInput) as error:
            return Offer(name, model, title, fault=in_words(error))
        return Offer(
            name,
            model,
            title,
            provider.price_per_second,
            checked.owed,
            checked=checked,
            bad=tuple(bad[:TOLD]),
        )


def _model(name: ProviderName, model: str) -> dict[str, str]:
    return {} if name is ProviderName.PREVIEW else {"model": model}


def _without_repeated_faults(offers: list[Offer]) -> list[Offer]:
    """A provider without a key says so once, not for each of its models."""
    seen: set[tuple[ProviderName, str]] = set()
    kept = []
    for offer in offers:
        if not offer.fault or (offer.provider, offer.fault) not in seen:
            kept.append(offer)
        seen.add((offer.provider, offer.fault))
    return kept


def in_words(error: AvatarError) -> str:
    return at_form(" ".join(filter(None, (error.message, error.hint))))


async def budget_left(workspace: Workspace) -> Decimal | None:
    """US dollars of the day's limit that are neither spent nor set aside; None without a limit."""
    limit = workspace.budget.per_day
    if limit is None:
        return None
    claims = await workspace.budget.claims(f"{datetime.now(UTC):%Y-%m-%d}")
    return max(Decimal(0), limit - total(claims))


def cut_marks(plan: Plan) -> list[float]:
    """Where a voice is cut, as shares of its length."""
    return [segment.start / plan.voice.seconds for segment in plan.segments[1:]]

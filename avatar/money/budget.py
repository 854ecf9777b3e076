"""Money committed per UTC day, held in the store so that it survives restarts and is shared by all workers.

A claim is one object with one token, `budget/<day>/<render_id>.<open|settled>.<ten-thousandths of a dollar>.<token>.json`:
its name says everything, so that a day is counted by listing it. Claim first, then count, then refuse by releasing
one's own claims: two workers that claim at the same moment both see both, so the limit is never passed. Two runs of the
same job each hold a claim of their own for the same render, which is counted once.

A claim is given back by its key alone. Its maker believes in it for `USABLE_SECONDS` by its own clocks, and claims
anew after that; others take it for left behind after `LEAKED_SECONDS` by the store's clock, if it was not paid for.
"""

import asyncio
import random
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal

from avatar.errors import BudgetRefused, StoreUnavailable
from avatar.store.objects import Stat
from avatar.store.store import Store
from avatar.waiting import Moment

UNIT = Decimal("0.0001")
#: A refusal may be due to a rival that is about to be refused too; such claims are looked at again, this often.
ROUNDS = 5
#: Claims younger than this, in seconds, may still be withdrawn by their own count.
FRESH_SECONDS = 5.0
#: How long a claim is good for sending, and after how long it is taken for left behind. The hour between them is more
#: than passes between a last look at a claim and the request that it is for.
USABLE_SECONDS, LEAKED_SECONDS = 3600.0, 7200.0
#: Of what was billed: by the provider's answer, and the same where it is not what was quoted.
BILLED, DIFFERS = "billed", "billed-differs"
#: Of what the provider's own books say, which stands above the answer.
INVOICED, INVOICE_DIFFERS = "invoiced", "invoiced-differs"
_INVOICES = {INVOICED, INVOICE_DIFFERS}
#: Tokens of claims made by format 1, whose entries in the journal name no claim.
_OLD_TOKEN = 8


@dataclass(frozen=True)
class Claim:
    """Money set aside (`open`) or spent (`settled`) for one render."""

    day: str
    render_id: str
    state: str
    amount: Decimal
    token: str
    age: float = 0.0

    @property
    def key(self) -> str:
        return f"budget/{self.day}/{self.render_id}.{self.state}.{int(self.amount / UNIT)}.{self.token}.json"

    @property
    def differs(self) -> bool:
        """Whether it is a bill that is not what was quoted."""
        return self.token in {DIFFERS, INVOICE_DIFFERS}


class Budget:
    """The day's money. Raises `StoreUnavailable` when it cannot be counted: fail closed."""

    def __init__(self, store: Store, *, per_day: Decimal | None) -> None:
        self.store = store
        self.per_day = per_day
        #: When the claims of this process were made.
        self._made: dict[str, Moment] = {}

    async def claim(self, amounts: Mapping[str, Decimal], *, today: date | None = None) -> dict[str, str]:
        """Set money aside for renders about to be bought, all or none.

        Args:
            amounts: US dollars by render id.
            today: the UTC day to book on; for tests.

        Returns:
            The key of each render's claim, to be kept with the render.

        Raises:
            BudgetRefused: the day's limit would be passed; nothing stays claimed that was not before.
        """
        day = f"{today or datetime.now(UTC).date():%Y-%m-%d}"
        for last in (False,) * (ROUNDS - 1) + (True,):
            made = Moment.now()
            ours = [
                Claim(day, name, "open", amount, secrets.token_hex(8)) for name, amount in amounts.items()
            ]
            claims = await self._stake(day, ours)
            if claims is None:
                self._made |= dict.fromkeys((claim.key for claim in ours), made)
                return {claim.render_id: claim.key for claim in ours}
            if last or not self._may_clear(claims, amounts):
                raise self._refusal(day, claims, amounts)
            await asyncio.sleep(random.uniform(0.05, 0.5))  # noqa: S311 - spreads rivals, guards nothing
        raise AssertionError("unreachable")  # pragma: no cover

    async def _stake(self, day: str, ours: list[Claim]) -> list[Claim] | None:
        """Write claims and count the day. None: they stand; else what was counted, and they are taken back."""
        try:
            for claim in ours:
                await self._write(claim)
            if self.per_day is None or total(claims := await self.claims(day)) <= self.per_day:
                return None
        except BaseException:
            await asyncio.shield(self._take_back(ours))
            raise
        await self._take_back(ours)
        return claims

    async def _take_back(self, claims: list[Claim]) -> None:
        for claim in claims:
            await self.store.remove(claim.key)

    def _may_clear(self, claims: list[Claim], amounts: Mapping[str, Decimal]) -> bool:
        """Whether it would fit if rivals that claimed just now withdrew."""
        steady = [claim for claim in claims if claim.age > FRESH_SECONDS]
        others = [claim for claim in steady if claim.render_id not in amounts]
        return total(others) + sum(amounts.values(), Decimal(0)) <= (self.per_day or Decimal(0))

    def _refusal(self, day: str, claims: list[Claim], amounts: Mapping[str, Decimal]) -> BudgetRefused:
        asked = sum(amounts.values(), Decimal(0))
        others = total([claim for claim in claims if claim.render_id not in amounts])
        return BudgetRefused(
            f"This job asks for ${asked:.2f}; ${others:.2f} of the ${self.per_day:.2f} for {day} (UTC) set by "
            "AVATAR_BUDGET__PER_DAY are spent or set aside. Nothing was sent or spent.",
            hint="Raise AVATAR_BUDGET__PER_DAY, or run it again tomorrow. `avatar status --spend` lists the day.",
        )

    def is_usable(self, key: str | None) -> bool:
        """Whether a claim is of this process, and so young that nobody can have taken it for left behind."""
        made = self._made.get(key or "")
        return made is not None and made.passed < USABLE_SECONDS

    def use(self, key: str | None) -> None:
        """An attempt was begun on it: it serves no other, since whoever settles that attempt gives it back."""
        self._made.pop(key or "", None)

    async def ensure(self, key: str | None, render_id: str, amount: Decimal) -> str:
        """A claim that a paid request may be sent on: the given one if it is still usable, else a new one.

        Raises:
            BudgetRefused: the old one has become too old, and the day has no money left.
        """
        if key is not None and self.is_usable(key):
            return key
        fresh = await self.claim({render_id: amount})
        await self.release(key)
        return fresh[render_id]

    async def release(self, key: str | None) -> None:
        """Give back one claim."""
        if key is not None:
            self._made.pop(key, None)
            await self.store.remove(key)

    async def release_old(self, day: str | None, render_id: str) -> None:
        """Give back the claims of a render whose journal, of format 1, does not name its own."""
        if day is not None:
            for stat in await self.store.list(f"budget/{day}/{render_id}.open."):
                if len(stat.key.split(".")[3]) == _OLD_TOKEN:
                    await self.store.remove(stat.key)

    async def restore(self, key: str | None) -> None:
        """Set aside again what had been given back: the request was accepted after all. No limit stands against it."""
        if key is not None:
            await self.store.put(key, b"{}", content_type="application/json")

    async def settle(
        self, day: str, render_id: str, billed: Decimal, *, claim: str | None = None, token: str = BILLED
    ) -> None:
        """Turn a render's claim into what was billed. Written before the claim goes, so never counted too low."""
        await self._write(Claim(day, render_id, "settled", billed, token))
        await (self.release(claim) if claim else self.release_old(day, render_id))

    async def strike(self, day: str, render_id: str) -> list[str]:
        """Take a render's bill off the books: a person says that it was not charged. The keys, for `restore`."""
        keys = [stat.key for stat in await self.store.list(f"budget/{day}/{render_id}.settled.")]
        for key in keys:
            await self.store.remove(key)
        return keys

    async def move(self, key: str, render_id: str, amount: Decimal) -> str:
        """Hand a claim to another render, without ever counting too low. Returns the new claim's key."""
        made, day = self._made.get(key), key.split("/")[1]
        claim = Claim(day, render_id, "open", amount, secrets.token_hex(8))
        await self._write(claim)
        await self.release(key)
        if made is not None:
            self._made[claim.key] = made
        return claim.key

    async def _write(self, claim: Claim) -> None:
        await self.store.put(claim.key, b"{}", content_type="application/json")

    async def claims(self, day: str) -> list[Claim]:
        """What each render of one day counts with: what was billed, else the most that is set aside for it."""
        counted: dict[str, Claim] = {}
        for claim in sorted(await self.objects(day), key=_by_state):
            counted[claim.render_id] = claim
        return list(counted.values())

    async def objects(self, day: str) -> list[Claim]:
        """Every claim and bill of one day, several of one render included. Ages by the store's clock."""
        stats = await self.store.list(f"budget/{day}/")
        newest = max((stat.modified for stat in stats), default=None)
        return [_parse(stat, newest) for stat in stats]

    async def days(self) -> list[str]:
        """The days that anything was claimed on, oldest first."""
        stats = await self.store.list("budget/", recursive=False)
        return [stat.key.split("/")[1] for stat in stats]


def total(claims: list[Claim]) -> Decimal:
    return sum((claim.amount for claim in claims), Decimal(0))


def _by_state(claim: Claim) -> tuple[bool, bool, Decimal]:
    """Of several objects about one render, the last by this order counts."""
    return claim.state == "settled", claim.token in _INVOICES, claim.amount


def _parse(stat: Stat, now: datetime | None) -> Claim:
    """The claim a key names, its age by the store's clock. A key that cannot be read stops the count."""
    try:
        _, day, name = stat.key.split("/")
        render_id, state, units, token, _ = name.split(".")
        age = (now - stat.modified).total_seconds() if now else 0.0
        return Claim(day, render_id, state, int(units) * UNIT, token, age)
    except ValueError as error:
        raise StoreUnavailable(
            f"The budget cannot be counted: {stat.key} is not a claim. Nothing was sent or spent.",
            hint="Remove that object if it does not belong there.",
        ) from error

"""Money committed per UTC day, held in the store so that it survives restarts and is shared by all workers.

A claim is one object, `budget/<day>/<render_id>.<open|settled>.<ten-thousandths of a dollar>.<token>.json`: its name
says everything, so that a day is counted by listing it. Claim first, then count, then refuse by releasing one's own
claim: two workers that claim at the same moment both see both claims, so the limit is never passed. Two runs of the
same job each hold a claim of their own for the same render, which is counted once.
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

UNIT = Decimal("0.0001")
#: A refusal may be due to a rival that is about to be refused too; such claims are looked at again, this often.
ROUNDS = 5
#: Claims younger than this, in seconds, may still be withdrawn by their own count.
FRESH_SECONDS = 5.0


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


class Budget:
    """The day's money. Raises `StoreUnavailable` when it cannot be counted: fail closed."""

    def __init__(self, store: Store, *, per_day: Decimal | None) -> None:
        self.store = store
        self.per_day = per_day
        #: Claims written through this object, by render: only these are ours to take back.
        self._ours: dict[str, list[Claim]] = {}

    async def claim(self, amounts: Mapping[str, Decimal], *, today: date | None = None) -> str:
        """Set money aside for renders about to be bought, all or none.

        Args:
            amounts: US dollars by render id.
            today: the UTC day to book on; for tests.

        Returns:
            The day the claims stand on, to be kept with the render.

        Raises:
            BudgetRefused: the day's limit would be passed; nothing stays claimed that was not before.
        """
        day = f"{today or datetime.now(UTC).date():%Y-%m-%d}"
        for last in (False,) * (ROUNDS - 1) + (True,):
            ours = [
                Claim(day, name, "open", amount, secrets.token_hex(4)) for name, amount in amounts.items()
            ]
            for claim in ours:
                await self._write(claim)
            if self.per_day is None or total(claims := await self.claims(day)) <= self.per_day:
                for claim in ours:
                    self._ours.setdefault(claim.render_id, []).append(claim)
                return day
            for claim in ours:
                await self.store.remove(claim.key)
            if last or not self._may_clear(claims, amounts):
                raise self._refusal(day, claims, amounts)
            await asyncio.sleep(random.uniform(0.05, 0.5))  # noqa: S311 - spreads rivals, guards nothing
        raise AssertionError("unreachable")  # pragma: no cover

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

    async def settle(self, day: str, render_id: str, billed: Decimal) -> None:
        """Turn a render's claim into what was billed. Written before the claim goes, so never counted too low."""
        await self._write(Claim(day, render_id, "settled", billed, "billed"))
        await self.release(day, render_id)

    async def move(self, day: str, old: str, new: str, amount: Decimal) -> None:
        """Hand what is set aside for one render to another, without ever counting too low."""
        await self._write(Claim(day, new, "open", amount, secrets.token_hex(4)))
        await self.release(day, old)

    async def _write(self, claim: Claim) -> None:
        await self.store.put(claim.key, b"{}", content_type="application/json")

    async def release(self, day: str, render_id: str) -> None:
        """Give back what was set aside for a render that was not charged."""
        for stat in await self.store.list(f"budget/{day}/{render_id}.open."):
            await self.store.remove(stat.key)

    async def withdraw(self, render_id: str) -> None:
        """Take back what was set aside for a render through this object. A claim of another run's stays."""
        for claim in self._ours.pop(render_id, []):
            await self.store.remove(claim.key)

    async def claims(self, day: str) -> list[Claim]:
        """What each render of one day counts with: what was billed, else the most that is set aside for it."""
        stats = await self.store.list(f"budget/{day}/")
        newest = max((stat.modified for stat in stats), default=None)
        found = [_parse(stat, newest) for stat in stats]
        counted: dict[str, Claim] = {}
        for claim in sorted(found, key=lambda claim: (claim.state == "settled", claim.amount)):
            counted[claim.render_id] = claim
        return list(counted.values())

    async def days(self) -> list[str]:
        """The days that anything was claimed on, oldest first."""
        stats = await self.store.list("budget/", recursive=False)
        return [stat.key.split("/")[1] for stat in stats]


def total(claims: list[Claim]) -> Decimal:
    return sum((claim.amount for claim in claims), Decimal(0))


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

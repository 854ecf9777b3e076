"""The day's money on a real store: never passed, never lost, refused when it cannot be counted."""

import asyncio
from datetime import date
from decimal import Decimal

import pytest

from avatar.errors import BudgetRefused, StoreUnavailable
from avatar.money.budget import Budget, total

TODAY = date(2026, 1, 2)
DAY = "2026-01-02"


def budget(store, per_day: str | None = "10") -> Budget:
    return Budget(store, per_day=Decimal(per_day) if per_day else None)


async def test_claims_hold_until_the_limit_and_the_refusal_names_it(store):
    """Two of four dollars fit under ten; the third is refused with the sum, the limit and the setting."""
    for name in "ab":
        await budget(store).claim({name: Decimal(4)}, today=TODAY)
    with pytest.raises(
        BudgetRefused, match=r"asks for \$4.00; \$8.00 of the \$10.00 .* AVATAR_BUDGET__PER_DAY"
    ):
        await budget(store).claim({"c": Decimal(4)}, today=TODAY)
    assert total(await budget(store).claims(DAY)) == 8


async def test_a_job_is_claimed_whole_or_not_at_all(store):
    """Ten segments of which nine would fit: none stays claimed."""
    with pytest.raises(BudgetRefused):
        await budget(store).claim({f"s{n}": Decimal("1.01") for n in range(10)}, today=TODAY)
    assert await budget(store).claims(DAY) == []


async def test_rivals_never_pass_the_limit_together(store):
    """Twelve workers claim two dollars at once under ten: never more than five get through, and some do."""
    claims = [budget(store).claim({f"r{n}": Decimal(2)}, today=TODAY) for n in range(12)]
    ended = await asyncio.gather(*claims, return_exceptions=True)
    passed = [each for each in ended if isinstance(each, dict)]
    assert all(isinstance(each, dict | BudgetRefused) for each in ended)
    assert 1 <= len(passed) <= 5
    assert total(await budget(store).claims(DAY)) == 2 * len(passed)


async def test_two_runs_of_one_job_count_once_and_do_not_release_each_other(store):
    """A refused twin takes back its own claim only."""
    await budget(store, "5").claim({"a": Decimal(4)}, today=TODAY)
    await budget(store, "5").claim({"a": Decimal(4)}, today=TODAY)
    with pytest.raises(BudgetRefused):
        await budget(store, "3").claim({"a": Decimal(4)}, today=TODAY)
    assert total(await budget(store).claims(DAY)) == 4


async def test_settling_books_what_was_billed(store):
    """The claim becomes the bill, in the day it was claimed on."""
    (key,) = (await budget(store).claim({"a": Decimal(4)}, today=TODAY)).values()
    await budget(store).settle(DAY, "a", Decimal("3.6912"), claim=key)
    (claim,) = await budget(store).claims(DAY)
    assert (claim.state, claim.amount) == ("settled", Decimal("3.6912"))


async def test_released_money_can_be_claimed_again(store):
    """What was refused by the provider goes back into the day."""
    (key,) = (await budget(store).claim({"a": Decimal(10)}, today=TODAY)).values()
    await budget(store).release(key)
    assert list(await budget(store).claim({"b": Decimal(10)}, today=TODAY)) == ["b"]


async def test_what_cannot_be_counted_is_refused(store):
    """A stray object among the claims stops spending instead of being overlooked."""
    await store.put(f"budget/{DAY}/stray.json", b"{}", content_type="application/json")
    with pytest.raises(StoreUnavailable, match="cannot be counted"):
        await budget(store).claim({"a": Decimal(1)}, today=TODAY)


async def test_a_run_takes_back_its_own_claim_only(store):
    """A failing run must not free the money that another run of the same job is about to spend."""
    failing, paying = budget(store), budget(store)
    keys = [await run.claim({"a": Decimal(4)}, today=TODAY) for run in (failing, paying)]
    await failing.release(keys[0]["a"])
    assert total(await paying.claims(DAY)) == 4

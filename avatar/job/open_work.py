"""What `reconcile` would do something about: found by listings, without changing anything."""

import time
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from avatar.errors import ObjectNotFound
from avatar.job.reconcile import (
    BILLS_ASKED,
    BILLS_EVERY,
    DAYS_BACK,
    MOST_TRIES,
    default_idle_seconds,
    is_leaked,
    telling_bills,
)
from avatar.money import local_receipts
from avatar.money.budget import BILLED, DIFFERS
from avatar.money.commit import OPEN_JOBS, find_open
from avatar.money.webhooks import PREFIX
from avatar.store.objects import Stat
from avatar.store.store import Store
from avatar.workspace import Workspace

#: Seconds after which a note or a receipt is left to `reconcile`: whoever waits for it uses it sooner.
UNUSED_SECONDS = 60.0


async def find_unfinished(workspace: Workspace) -> set[str]:
    """Renders and jobs that nobody works on, notes and receipts that nobody used, by names of their own.

    Raises:
        StoreUnavailable: the store failed.
    """
    idle = default_idle_seconds(workspace)
    stats = await workspace.store.list("open/")
    notes = await workspace.store.list(PREFIX)
    now = await _clock(workspace.store, [*stats, *notes])
    left = [stat.key for stat in stats if _age(stat, now) >= idle]
    jobs = [key for key in left if key.startswith(OPEN_JOBS)]
    due = {key for key in left if key.count("/") == 1}
    due |= {key for key in jobs if await _is_job_due(workspace, key, idle)}
    due |= {stat.key for stat in notes if _age(stat, now) >= UNUSED_SECONDS}
    return due | {f"receipt {render_id}" for render_id in _receipts(workspace)}


async def find_unsettled_claims(workspace: Workspace) -> set[str]:
    """Claims that were left behind unpaid, and days with bills that no provider's books have confirmed.

    Raises:
        StoreUnavailable: the store failed.
    """
    today = datetime.now(UTC).date()
    days = [f"{today - timedelta(days=back):%Y-%m-%d}" for back in range(DAYS_BACK)]
    asks = bool(telling_bills(workspace)) and await _were_bills_asked_long_ago(workspace.store)
    due = set[str]()
    for day in days:
        claims = await workspace.budget.objects(day)
        due |= {
            each.key for each in claims if each.state == "open" and await is_leaked(workspace, each, claims)
        }
        if asks and any(each.token in {BILLED, DIFFERS} for each in await workspace.budget.claims(day)):
            due.add(f"bills {day}")
    return due


async def _is_job_due(workspace: Workspace, key: str, idle: float) -> bool:
    """As `reconcile` has it: one that could not be brought to its end is looked at ever less often."""
    opened = await find_open(workspace, key.removeprefix(OPEN_JOBS).removesuffix(".json"))
    if opened is None or opened.job.tries >= MOST_TRIES:
        return False
    return bool(opened.idle >= idle * 2**opened.job.tries)


async def _were_bills_asked_long_ago(store: Store) -> bool:
    stat = await store.exists(BILLS_ASKED)
    return stat is None or (stat.age is not None and stat.age >= BILLS_EVERY)


async def _clock(store: Store, stats: Iterable[Stat]) -> datetime:
    """The store's own time, by which ages count: that of this machine may differ."""
    for stat in stats:
        try:
            now = (await store.stat(stat.key)).served_at
        except ObjectNotFound:  # its run has ended meanwhile
            continue
        if now is not None:
            return now
    return datetime.now(UTC)


def _age(stat: Stat, now: datetime) -> float:
    return (now - stat.modified).total_seconds()


def _receipts(workspace: Workspace) -> list[str]:
    """Those on this machine that their run did not take into the journal."""
    folder = workspace.settings.state_dir
    return [
        render_id
        for render_id in local_receipts.renders_with_receipt(folder)
        if time.time() - local_receipts.receipt_time(folder, render_id) >= UNUSED_SECONDS
    ]

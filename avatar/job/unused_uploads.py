"""What people brought to the gallery and need no more: old orders, and old files that nothing names or waits for."""

import json
from contextlib import suppress
from datetime import datetime

from avatar.errors import ObjectNotFound
from avatar.job.inputs import BROUGHT, ORDERS
from avatar.money.commit import load_plan, open_jobs
from avatar.store.objects import Stat
from avatar.store.store import Store
from avatar.workspace import Workspace


async def old_orders(store: Store, before: datetime) -> list[Stat]:
    """Orders that were last asked for before a moment of the store's clock."""
    return [stat for stat in await store.list(ORDERS) if stat.modified < before]


async def old_files(workspace: Workspace, before: datetime, gone: frozenset[str]) -> list[Stat]:
    """Files brought before a moment of the store's clock that no order names and no open job is made of.

    Args:
        workspace: where they are.
        before: the moment.
        gone: keys of orders that are deleted, or would be.
    """
    old = [stat for stat in await workspace.store.list(BROUGHT) if stat.modified < before]
    if not old:
        return []
    named, needed = await _ordered(workspace.store, gone), await _inputs_of_open_jobs(workspace)
    return [stat for stat in old if stat.key not in named and stat.key.split("/")[2] not in needed]


async def _ordered(store: Store, gone: frozenset[str]) -> set[str]:
    """Keys of the files that orders name."""
    named: set[str] = set()
    for stat in await store.list(ORDERS):
        if stat.key not in gone:
            with suppress(ObjectNotFound, ValueError):
                order = json.loads((await store.get(stat.key)).data)
                if isinstance(order, dict):
                    named.update(
                        order.get("portraits", ()), order.get("voices", ()), [order.get("manifest", "")]
                    )
    return named


async def _inputs_of_open_jobs(workspace: Workspace) -> set[str]:
    """SHA-256 of the inputs of jobs of which something may be bought, and which have no video yet."""
    found: set[str] = set()
    for job_id in await open_jobs(workspace):
        with suppress(ObjectNotFound):
            plan = await load_plan(workspace, job_id)
            found |= {plan.portrait.source.sha256, plan.voice.source.sha256}
    return found

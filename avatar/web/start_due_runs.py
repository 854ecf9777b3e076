"""Looks for work in this process, and starts a flow run only when there is some: an empty run costs seconds of processor.

The scheduled deployments look for the same, more seldom: nothing depends on this.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from avatar.errors import AvatarError
from avatar.inbox.sweep import Sweep
from avatar.inbox.uploads import Inbox
from avatar.job.open_work import find_unfinished, find_unsettled_claims
from avatar.local import prefect_client
from avatar.local.prefect_client import FORGOTTEN_AFTER, TAG, failed_for_now
from avatar.workspace import Workspace

SWEEP, RECONCILE = "take-uploads/sweep-inbox", "reconcile/reconcile"
#: Seconds between two looks at the inbox, at open work and flow runs, and at claims and bills.
INBOX_EVERY, OPEN_EVERY, BOOKS_EVERY = 20.0, 120.0, 900.0
#: An upload that was quiet for so many seconds, and that no run has taken: the event about it started none.
MISSED_SECONDS = 20.0
#: Seconds between two runs for the same thing: doubled each time, up to the last. It may wait for a person.
FIRST_PAUSE, LONGEST_PAUSE = 120.0, 3600.0
#: A crashed run is started again by an automation, within seconds; after this many it was missed.
CRASHED_SECONDS = 60.0
#: A failed run is started again for what may have passed only after so long, and for so long (`tasks.flow_runs`).
PASSING_AFTER, PASSING_FOR = timedelta(minutes=1), timedelta(hours=1)
_OVER = {None, "COMPLETED", "FAILED", "CANCELLED"}


class FlowRuns:
    """What Prefect says of flow runs. Everything raises `httpx.HTTPError` if it does not answer.

    Args:
        api_url: where it is, with its `/api`.
        stale_seconds: without a sign of life for so long, a run is taken for dead.
    """

    def __init__(self, api_url: str, stale_seconds: float) -> None:
        self.api_url, self._stale = api_url, timedelta(seconds=stale_seconds)

    async def is_under_way(self, run_id: str) -> bool:
        """Whether it goes on, or will be started again by itself."""
        run = await asyncio.to_thread(prefect_client.read, self.api_url, f"/flow_runs/{run_id}")
        if run is None or run["state_type"] in _OVER:
            return False
        if run["deployment_id"] is None or _time(run["start_time"]) < datetime.now(UTC) - FORGOTTEN_AFTER:
            return run["state_type"] != "CRASHED" and not await self._is_stale(run)
        return True

    async def dead(self) -> set[str]:
        """Runs of ours that are to be started again, or to be ended, by names of their own."""
        begun = {"after_": (datetime.now(UTC) - FORGOTTEN_AFTER).isoformat()}
        runs = await self._ours({"start_time": begun}, "CRASHED", "RUNNING")
        runs += await self._ours({}, "PENDING", "CANCELLING")
        dead = [run for run in runs if await self._is_dead(run)]
        return {f"run {run['id']} {run['state_id']}" for run in (*dead, *await self._failed_for_now())}

    async def _failed_for_now(self) -> list[Any]:
        """Those whose error may have passed. One that failed for longer was started again as often as it may be."""
        now = datetime.now(UTC)
        ended = {"after_": (now - PASSING_FOR).isoformat(), "before_": (now - PASSING_AFTER).isoformat()}
        runs = await self._ours({"end_time": ended}, "FAILED")
        return [
            run for run in runs if failed_for_now(run["tags"], run["parameters"], run["state"]["message"])
        ]

    async def start(self, deployment: str) -> None:
        """Start a run, unless one waits to be begun."""
        now = datetime.now(UTC).isoformat()
        waiting = {
            "flow_runs": {
                "state": {"type": {"any_": ["SCHEDULED", "PENDING"]}},
                "expected_start_time": {"before_": now},
            },
            "flows": {"name": {"any_": [deployment.partition("/")[0]]}},
        }
        if await self._ask("/flow_runs/count", waiting):
            return
        found = await asyncio.to_thread(prefect_client.read, self.api_url, f"/deployments/name/{deployment}")
        if found is not None:  # else nothing was deployed there yet
            key = f"{deployment} {int(time.time() / 10)}"  # a lost answer, or another bridge, makes no second one
            await self._ask(f"/deployments/{found['id']}/create_flow_run", {"idempotency_key": key})

    async def _ours(self, more: Mapping[str, Any], *states: str) -> list[Any]:
        wanted = {
            "state": {"type": {"any_": list(states)}},
            "deployment_id": {"is_null_": False},
            "tags": {"all_": [TAG]},
            **more,
        }
        return list(await self._ask("/flow_runs/filter", {"flow_runs": wanted}))

    async def _is_dead(self, run: Mapping[str, Any]) -> bool:
        if run["state_type"] == "CRASHED":
            since = datetime.now(UTC) - timedelta(seconds=CRASHED_SECONDS)
            return _time(run["state"]["timestamp"]) < since
        return await self._is_stale(run)

    async def _is_stale(self, run: Mapping[str, Any]) -> bool:
        """As `tasks.flow_runs.is_stale` has it: no new state and no heartbeat for too long."""
        now = datetime.now(UTC)
        if run["state_type"] not in {"RUNNING", "PENDING", "CANCELLING"}:
            return False
        if _time(run["state"]["timestamp"]) > now - self._stale:
            return False
        query = prefect_client.heartbeat_query(run["id"], now - self._stale, now)
        return not (await self._ask("/events/filter", query))["events"]

    async def _ask(self, path: str, body: Mapping[str, Any]) -> Any:
        return await asyncio.to_thread(prefect_client.ask, self.api_url, path, body)


def _time(text: str | None) -> datetime:
    """What was never begun has no time, and is taken for old."""
    return datetime.fromisoformat(text) if text else datetime.fromtimestamp(0, UTC)


class DueRuns:
    """Tells whether a run is to be started for what is due: at once for what is new, ever less often for what stays."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[float, float]] = {}

    def is_new(self, names: set[str], now: float) -> bool:
        """Whether one of them waits for its next run. What is due no more is forgotten."""
        self._known = {name: known for name, known in self._known.items() if name in names}
        waiting = [name for name in names if name not in self._known or self._known[name][0] <= now]
        for name in waiting:
            _, pause = self._known.get(name, (0.0, FIRST_PAUSE))
            self._known[name] = now + pause, min(2 * pause, LONGEST_PAUSE)
        return bool(waiting)


Look = Callable[[], Awaitable[set[str]]]


@dataclass
class OpenWork:
    """What is looked for.

    Attributes:
        say: called when the looks fail, and when they succeed again.
    """

    workspace: Workspace
    runs: FlowRuns
    say: Callable[[str], None]
    _troubles: dict[str, str] = field(default_factory=dict)

    async def run(self) -> None:
        """Look until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keep_looking(SWEEP, self.inbox, INBOX_EVERY))
            group.create_task(self._keep_looking(RECONCILE, self.open_work, OPEN_EVERY))
            group.create_task(self._keep_looking(RECONCILE, self.books, BOOKS_EVERY))

    async def inbox(self) -> set[str]:
        sweep = Sweep(Inbox(self.workspace), "", self.runs.is_under_way)
        return await sweep.due(self.workspace.settings.inbox.settle_seconds + MISSED_SECONDS)

    async def open_work(self) -> set[str]:
        """Dead runs, and what runs left behind. A store that is away keeps no run from being started again."""
        dead = await self.runs.dead()
        try:
            return dead | await find_unfinished(self.workspace)
        except AvatarError:
            if dead:
                return dead
            raise

    async def books(self) -> set[str]:
        return await find_unsettled_claims(self.workspace)

    async def _keep_looking(self, deployment: str, look: Look, pause: float) -> None:
        due = DueRuns()
        while True:
            try:
                if due.is_new(await look(), time.monotonic()):
                    await self.runs.start(deployment)
            except Exception as error:  # noqa: BLE001 - webhooks and notifications go on, and so does the next look
                self._report(deployment, f"{error}" or type(error).__name__)
            else:
                self._report(deployment, "")
            await asyncio.sleep(pause)

    def _report(self, deployment: str, trouble: str) -> None:
        before = self._troubles.get(deployment, "")
        if trouble and not before:
            self.say(f"{deployment} is started by its schedule only, until this passes: {trouble}")
        elif before and not trouble:
            self.say(f"{deployment} is started again as soon as there is work for it.")
        self._troubles[deployment] = trouble

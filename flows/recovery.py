"""Start dead flow runs again: crashed ones, and those that still say Running although nothing runs them.

Prefect's own automation can miss a crash (an event emitted while the server starts is not acted upon), so this asks
the server, not its events. A run that turns out to be alive does no harm: the journal lets nobody pay twice.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterStartTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.states import AwaitingRetry

from tasks.settings import RecoverySettings

#: Only runs of our own deployments are touched: the server may have others.
TAG = "avatar"
#: A run that began longer ago than this is history, not an accident to be mended.
FORGOTTEN_AFTER = timedelta(days=2)


async def resume_dead_runs(recovery: RecoverySettings) -> list[str]:
    """Reschedule dead runs that belong to a deployment, each at most `max_resumes` times. Returns their names."""
    resumed = []
    async with get_client() as client:
        for run in await _dead_runs(client, recovery):
            if run.run_count <= recovery.max_resumes:
                await client.set_flow_run_state(
                    run.id, AwaitingRetry(scheduled_time=datetime.now(UTC)), force=True
                )
                resumed.append(run.name)
    return resumed


async def _dead_runs(client: PrefectClient, recovery: RecoverySettings) -> Sequence[FlowRun]:
    runs = await client.read_flow_runs(
        flow_run_filter=FlowRunFilter(
            state=FlowRunFilterState(
                type=FlowRunFilterStateType(any_=[StateType.CRASHED, StateType.RUNNING])
            ),
            deployment_id=FlowRunFilterDeploymentId(is_null_=False),
            tags=FlowRunFilterTags(all_=[TAG]),
            start_time=FlowRunFilterStartTime(after_=datetime.now(UTC) - FORGOTTEN_AFTER),
        )
    )
    return [
        run for run in runs if run.state_type is StateType.CRASHED or await _is_stale(client, run, recovery)
    ]


async def _is_stale(client: PrefectClient, run: FlowRun, recovery: RecoverySettings) -> bool:
    """Whether a run that says Running has not sent a heartbeat for too long."""
    since = datetime.now(UTC) - timedelta(seconds=recovery.stale_seconds)
    if run.state is None or run.state.timestamp > since:
        return False
    response = await client._client.post(  # noqa: SLF001 - the client has no public call for events
        "/events/filter",
        json={
            "filter": {
                "occurred": {"since": since.isoformat(), "until": datetime.now(UTC).isoformat()},
                "event": {"name": ["prefect.flow-run.heartbeat"]},
                "resource": {"id": [f"prefect.flow-run.{run.id}"]},
            },
            "limit": 1,
        },
    )
    response.raise_for_status()
    return not response.json()["events"]

"""Whether a flow run that has taken something still works on it, or will go on with it."""

from datetime import UTC, datetime
from uuid import UUID

from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.exceptions import ObjectNotFound

from flows.recovery import FORGOTTEN_AFTER, count_resumes, is_stale
from tasks.settings import RecoverySettings
from tasks.workspace import workspace

_OVER = {None, StateType.COMPLETED, StateType.FAILED, StateType.CANCELLED}


async def is_under_way(run_id: str) -> bool:
    """False once the run is over for good. One that crashed is not, as long as it is started again by itself.

    Raises what the client raises if the server does not answer: nobody knows then.
    """
    recovery = workspace().settings.recovery
    async with get_client() as client:
        try:
            run = await client.read_flow_run(UUID(run_id))
        except (ObjectNotFound, ValueError):
            return False
        if run.state_type in _OVER:
            return False
        if run.state_type is StateType.CRASHED or await _is_dead(client, run, recovery):
            return await _is_started_again(client, run, recovery)
        return True


async def _is_dead(client: PrefectClient, run: FlowRun, recovery: RecoverySettings) -> bool:
    return run.state_type is StateType.RUNNING and await is_stale(client, run, recovery)


async def _is_started_again(client: PrefectClient, run: FlowRun, recovery: RecoverySettings) -> bool:
    """Whether `resume_dead_runs` finds it."""
    recent = run.start_time is not None and run.start_time > datetime.now(UTC) - FORGOTTEN_AFTER
    if run.deployment_id is None or not recent:
        return False
    return await count_resumes(client, run.id) < recovery.max_resumes

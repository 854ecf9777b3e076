"""What Prefect says of runs: whether one is under way, and dead ones started again."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterEndTime,
    FlowRunFilterParentFlowRunId,
    FlowRunFilterStartTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.exceptions import ObjectNotFound, Pause
from prefect.runtime import deployment, flow_run
from prefect.states import AwaitingRetry, Cancelled, Failed

from avatar.errors import AvatarError
from avatar.local.prefect_client import FORGOTTEN_AFTER, TAG, failed_for_now, heartbeat_query
from avatar.settings_sections import RecoverySettings

# Whether a flow run that has taken something still works on it, or will go on with it.
_OVER = {None, StateType.COMPLETED, StateType.FAILED, StateType.CANCELLED}


async def is_under_way(recovery: RecoverySettings, run_id: str) -> bool:
    """False once the run is over for good. One that crashed is not, as long as it is started again by itself.

    Raises what the client raises if the server does not answer: nobody knows then.
    """
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


# Start dead flow runs again: crashed ones, and those that still say Running or Pending although nothing runs them.
#
# Those that were cancelled, and whose process was gone before it could say so, are ended.
#
# Prefect's own automation can miss a crash (an event emitted while the server starts is not acted upon), so this asks
# the server, not its events. A run that turns out to be alive does no harm: the journal lets nobody pay twice.


#: The state's message by which a start that nobody asked for is known.
RESUMED = "Started again by itself: its process was gone."
#: That of one that failed of what may have passed; and how long after, the first time. Each further rest is twice as long.
PASSED = "Started again by itself: what it failed of may have passed."
PASSING_AFTER = timedelta(minutes=1)
#: That of a run that was cancelled and could not say so itself.
CANCELLED = (
    "Cancelled; its process was gone. What it had sent goes on at the provider, and is collected by itself."
)


async def resume_dead_runs(recovery: RecoverySettings) -> list[str]:
    """Reschedule runs of deployments that are dead, or failed of what may have passed. Returns their names.

    Each at most `max_resumes` times. One whose parameters are not its flow's would die again, so it ends as Failed.
    """
    resumed = []
    async with get_client() as client:
        for run in await _dead_runs(client, recovery):
            if unknown := await _unknown_parameters(client, run):
                refused: State[None] = Failed(message=_refuse(unknown))
                await client.set_flow_run_state(run.id, refused, force=True)
                continue
            count = await count_resumes(client, run.id)
            if count < recovery.max_resumes:
                again: State[None] = AwaitingRetry(scheduled_time=datetime.now(UTC), message=RESUMED)
                await client.set_flow_run_state(run.id, again, force=True)
                resumed.append(run.name)
            else:
                # Crashed, the automation would start it once more.
                given_up: State[None] = Failed(message=_give_up(count, recovery))
                await client.set_flow_run_state(run.id, given_up, force=True)
        for run in await _failed_for_now(client):
            count = await count_resumes(client, run.id)
            if count < recovery.max_resumes and _rested(run, PASSING_AFTER * 2**count):
                again = AwaitingRetry(scheduled_time=datetime.now(UTC), message=PASSED)
                await client.set_flow_run_state(run.id, again, force=True)
                resumed.append(run.name)
    return resumed


def _rested(run: FlowRun, rest: timedelta) -> bool:
    return run.state is not None and run.state.timestamp <= datetime.now(UTC) - rest


async def _failed_for_now(client: PrefectClient) -> list[FlowRun]:
    ended = FlowRunFilterEndTime(after_=datetime.now(UTC) - FORGOTTEN_AFTER)
    return [
        run
        for run in await _runs(client, StateType.FAILED, end_time=ended)
        if run.state is not None and failed_for_now(run.tags, run.parameters, run.state.message)
    ]


async def end_cancelled_runs(recovery: RecoverySettings) -> list[str]:
    """Let runs be Cancelled that were told to stop and are gone. Returns their names.

    Otherwise they would say Cancelling for ever, and whoever waits for them, or for the uploads they took, would wait.
    """
    ended = []
    async with get_client() as client:
        for run in await _runs(client, StateType.CANCELLING):
            if await is_stale(client, run, recovery):
                over: State[None] = Cancelled(message=CANCELLED)
                await client.set_flow_run_state(run.id, over, force=True)
                ended.append(run.name)
    return ended


async def _unknown_parameters(client: PrefectClient, run: FlowRun) -> set[str]:
    """Parameters that the flow does not have. Deployments refuse them, unless a run is asked for without its schema."""
    if run.deployment_id is None:
        return set()
    try:
        found = await client.read_deployment(run.deployment_id)
    except ObjectNotFound:
        return set()
    known = (found.parameter_openapi_schema or {}).get("properties")
    return set() if known is None else set(run.parameters) - set(known)


def _refuse(unknown: set[str]) -> str:
    named = ", ".join(repr(each) for each in sorted(unknown))
    return f"This flow has no parameter {named}. Nothing was sent or spent; start it again without."


def _give_up(count: int, recovery: RecoverySettings) -> str:
    return (
        f"This run crashed and was started again {count} times, so it was given up "
        f"(AVATAR_RECOVERY__MAX_RESUMES={recovery.max_resumes}). What was paid for is in the journal: a new run of the "
        "same job continues there, and pays for nothing twice."
    )


async def count_resumes(client: PrefectClient, run_id: UUID) -> int:
    """How often a run was started again by itself, since a person last did. Resuming after approval does not count."""
    count = 0
    for state in sorted(await client.read_flow_run_states(run_id), key=lambda state: state.timestamp):
        if state.name == "AwaitingRetry":
            count = count + 1 if state.message in {RESUMED, PASSED} else 0
    return count


async def check_resumes(recovery: RecoverySettings) -> None:
    """End this run if it was started again by itself more often than `max_resumes`: it would crash for ever.

    Raises:
        AvatarError: it was.
    """
    if flow_run.id is None or (flow_run.run_count or 0) <= recovery.max_resumes + 1:
        return
    async with get_client() as client:
        count = await count_resumes(client, UUID(flow_run.id))
    if count > recovery.max_resumes:
        raise AvatarError(
            _give_up(count, recovery),
            hint="Look at the worker's log for why it dies, then start it again: Retry in the Prefect UI.",
        )


# The runs of one batch, on different workers: Prefect gives a run to whoever asks first, which may be the same worker
# again and again.
#: The state's message of a run that goes back to the work pool for another worker.
LEFT_TO_ANOTHER = "Left to a worker that has no part of this batch yet."
#: How often a run goes back: another worker may be full, or take none of these runs.
MOST_LEFT = 4


async def leave_to_idle_worker(batch_run: str) -> None:
    """End this run of a batch's part, to be taken again, if its worker has another part and some worker has none.

    A worker whose name contains `upkeep` takes no such runs.

    Args:
        batch_run: the id of the run that checked the batch, and has a part too.

    Raises:
        Pause: it does; the process ends without an error.
    """
    if flow_run.id is None or deployment.id is None:
        return
    async with get_client() as client:
        run = await client.read_flow_run(UUID(flow_run.id))
        if run.work_pool_name is None or not await _is_better_elsewhere(client, run, UUID(batch_run)):
            return
        states = await client.read_flow_run_states(run.id)
        if sum(state.message == LEFT_TO_ANOTHER for state in states) >= MOST_LEFT:
            return
        again: State[None] = AwaitingRetry(scheduled_time=datetime.now(UTC), message=LEFT_TO_ANOTHER)
        await client.set_flow_run_state(run.id, again, force=True)
    raise Pause(state=again)


async def _is_better_elsewhere(client: PrefectClient, run: FlowRun, batch_run: UUID) -> bool:
    """Of two on one worker, the part of the batch's own run stays, then the one whose id is lower."""
    parts = await client.read_flow_runs(
        flow_run_filter=FlowRunFilter(
            parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[batch_run]),
            state=FlowRunFilterState(
                type=FlowRunFilterStateType(any_=[StateType.PENDING, StateType.RUNNING])
            ),
        )
    )
    others = [await client.read_flow_run(batch_run), *(each for each in parts if each.id != run.id)]
    here = _worker_of(run)
    if not any(_worker_of(each) == here and (each.id == batch_run or each.id < run.id) for each in others):
        return False
    workers = await client.read_workers_for_work_pool(run.work_pool_name or "")
    there = {each.name for each in workers if each.status == "ONLINE" and "upkeep" not in each.name}
    return here is not None and bool(there - {here} - {_worker_of(each) for each in others})


def _worker_of(run: FlowRun) -> str | None:
    name = run.labels.get("prefect.worker.name")
    return str(name) if name else None


async def _dead_runs(client: PrefectClient, recovery: RecoverySettings) -> Sequence[FlowRun]:
    begun = FlowRunFilterStartTime(after_=datetime.now(UTC) - FORGOTTEN_AFTER)
    runs = await _runs(client, StateType.CRASHED, StateType.RUNNING, start_time=begun)
    # A worker took them and was gone before they began: neither an event nor another worker ever moves them. However
    # old, they are still to be done, like those that no worker has taken.
    runs += await _runs(client, StateType.PENDING)
    return [
        run for run in runs if run.state_type is StateType.CRASHED or await is_stale(client, run, recovery)
    ]


async def _runs(
    client: PrefectClient, *states: StateType, **more: FlowRunFilterStartTime | FlowRunFilterEndTime
) -> list[FlowRun]:
    """Runs of our deployments in one of these states."""
    wanted = FlowRunFilter(
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=list(states))),
        deployment_id=FlowRunFilterDeploymentId(is_null_=False),
        tags=FlowRunFilterTags(all_=[TAG]),
        **more,
    )
    return await client.read_flow_runs(flow_run_filter=wanted)


async def is_stale(client: PrefectClient, run: FlowRun, recovery: RecoverySettings) -> bool:
    """Whether a run that says Running, Pending or Cancelling has given no sign of life for too long."""
    since = datetime.now(UTC) - timedelta(seconds=recovery.stale_seconds)
    if run.state is None or run.state.timestamp > since:
        return False
    query = heartbeat_query(str(run.id), since, datetime.now(UTC))
    response = await client._client.post("/events/filter", json=query)  # noqa: SLF001 - there is no public call
    response.raise_for_status()
    return not response.json()["events"]

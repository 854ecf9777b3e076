"""What a flow needs around it: a workspace on the right store, handed to it as an argument, and its notices as events.

Prefect sends events from a thread in the background, and drops what a server that is away does not take within
seconds: they are news, and nothing depends on them. Payloads: docs/events.md.
"""

import asyncio
import functools
import inspect
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, nullcontext
from typing import Any, Concatenate, ParamSpec, TypeVar, cast
from uuid import UUID, uuid4

from prefect import Flow, get_run_logger
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import VariableCreate, VariableUpdate
from prefect.events import emit_event
from prefect.runtime import deployment, flow_run
from prefect.settings import PREFECT_API_URL
from prefect.states import Failed

from avatar.errors import AvatarError, NotConfigured, Transient
from avatar.events import BudgetRefusal, Notice, about_error, about_video
from avatar.local import find, services
from avatar.local.state_directory import StateDirectory
from avatar.models import AvatarJob, Video
from avatar.option_names import at_form
from avatar.settings import AvatarSettings
from avatar.store.conditional_create import ensure_bucket
from avatar.store.store_id import require_store, store_identity
from avatar.waiting import patiently
from avatar.workspace import RunSubject, Workspace
from tasks.flow_runs import check_resumes
from tasks.turns import counted_turns

log = logging.getLogger("avatar.notices")

P = ParamSpec("P")
R = TypeVar("R")

#: The Prefect Variable with the identity of the store that this server's runs are on.
STORE_VARIABLE = "avatar_store"
#: Gives a run its workspace, and closes it at the end.
Open = Callable[[], AbstractAsyncContextManager[Workspace]]


#: What Prefect's server and UI call a run that nobody named: an adjective and an animal.
_GENERATED = re.compile(r"[A-Za-z]+-[A-Za-z]+")


def typed_name() -> str:
    """What a person called this run when it was started; empty if nobody did."""
    name = flow_run.name or ""
    return "" if _GENERATED.fullmatch(name) else name


class Events:
    """Emits each notice once; the rows of a batch that one limit stands against are one."""

    def __init__(self) -> None:
        self._emitted: set[UUID] = set()

    def __call__(self, notice: Notice) -> None:
        if notice.id in self._emitted:
            return
        self._emitted.add(notice.id)
        emit_event(
            event=notice.EVENT,
            resource={"prefect.resource.id": notice.resource, "prefect.resource.name": notice.EVENT},
            payload=notice.model_dump(mode="json"),
            id=notice.id,
        )


def with_workspace(
    body: Callable[Concatenate[Workspace, P], Awaitable[R]], opened: Open | None = None
) -> Callable[P, Coroutine[Any, Any, R]]:
    """A flow's function as Prefect and its users see it: without the workspace, which it gets when it runs.

    Args:
        body: the function; its first argument is the workspace.
        opened: whose workspace it gets; unless given, one of its own, on the store that the settings name.
    """

    @functools.wraps(body)
    async def run(*args: P.args, **kwargs: P.kwargs) -> R:
        subject, events = RunSubject(job=_job_in(args, kwargs)), Events()
        try:
            with _expected_errors_told_once():
                async with _ready((opened or own_workspace)(), subject, events) as workspace:
                    return await body(workspace, *args, **kwargs)
        except AvatarError as error:
            emit_end(events, subject, error)
            # Called as a plain function; or `reconcile` starts it again, by what Prefect says of the error.
            if flow_run.id is None or isinstance(error, Transient):
                raise
            failed: Any = Failed(message=in_words(error), data=error)
            return cast("R", failed)
        except Exception as error:
            emit_end(events, subject, error)
            raise

    first, *others = inspect.signature(body, eval_str=True).parameters.values()
    run.__annotations__.pop(first.name, None)
    run.__signature__ = inspect.signature(body, eval_str=True).replace(parameters=others)  # type: ignore[attr-defined]
    return run


def in_words(error: AvatarError) -> str:
    """An error as the message of a state: what happened, what it cost, and the next step."""
    return at_form(f"{error} Next: {error.hint}" if error.hint else str(error))


@contextmanager
def _expected_errors_told_once() -> Iterator[None]:
    """While it lasts, Prefect logs an error of ours as the sentence that it is, without the lines of its code."""
    logger = logging.getLogger("prefect.task_runs")
    logger.addFilter(_without_code)
    try:
        yield
    finally:
        logger.removeFilter(_without_code)


def _without_code(record: logging.LogRecord) -> bool:
    if record.exc_info and isinstance(record.exc_info[1], AvatarError):
        record.exc_info = None
    return True


def in_workspace(flow: Flow[P, R], workspace: Workspace) -> Flow[P, R]:
    """The same flow for a caller in this process, with a workspace of the caller's, who closes it."""
    handed = flow.with_options()
    handed.fn = with_workspace(inspect.unwrap(flow.fn), lambda: nullcontext(workspace))  # type: ignore[assignment]
    return handed


def run_id() -> UUID | None:
    """This flow run's, by which the Prefect server knows who holds a turn."""
    return UUID(flow_run.id) if flow_run.id else None


def _job_in(args: tuple[Any, ...], kwargs: dict[str, Any]) -> AvatarJob | None:
    return next((each for each in (*args, *kwargs.values()) if isinstance(each, AvatarJob)), None)


@asynccontextmanager
async def _ready(
    opened: AbstractAsyncContextManager[Workspace], subject: RunSubject, events: Events
) -> AsyncIterator[Workspace]:
    """A workspace for one run: its store answers, its events go to the server, its turns are counted there."""
    async with opened as workspace:
        await check_resumes(workspace.settings.recovery)
        # A run that begins while the store is away waits as long as one that is at work.
        await patiently(lambda: ensure_bucket(workspace.store))
        async with get_client() as client:
            await _require_same_store(client, workspace)
            async with counted_turns(client, workspace.settings, get_run_logger(), run_id()) as turns:
                yield workspace.with_changes(deliver=events, turns=turns, subject=subject)


async def _require_same_store(client: PrefectClient, workspace: Workspace) -> None:
    """Refuse on another store than the Prefect server's runs are on: its journal knows nothing of what they bought.

    A call from Python on this machine's own server may use another: nobody else runs there.
    """
    own = StateDirectory(workspace.settings.state_dir).read().api
    if deployment.id is None and own is not None and own.api_url == PREFECT_API_URL.value():
        return
    known = await client.read_variable_by_name(STORE_VARIABLE)
    identity = str(known.value) if known else None
    await patiently(lambda: require_store(workspace.store, identity))


async def name_store(client: PrefectClient, workspace: Workspace) -> None:
    """Have the Prefect server know the store of this workspace as that of all its runs."""
    await workspace.store.ensure_bucket()
    known = await client.read_variable_by_name(STORE_VARIABLE)
    # A store that was paid from and has no id lost it; an empty one never had that of the server's runs.
    lost = str(known.value) if known and await workspace.budget.days() else None
    identity = await store_identity(workspace.store, lost=lost)
    if known is None:
        await client.create_variable(VariableCreate(name=STORE_VARIABLE, value=identity))
    elif known.value != identity:
        await client.update_variable(VariableUpdate(name=STORE_VARIABLE, value=identity))


@asynccontextmanager
async def own_workspace() -> AsyncIterator[Workspace]:
    """A workspace on the store of the settings; without AVATAR_STORE__ENDPOINT, on this machine's embedded one.

    A flow that is called from Python starts that store if need be. A run of a deployment does not: with an empty
    journal of its own it would buy what others have bought.

    Raises:
        NotConfigured: no store is named, and `avatar up` does not run on this machine.
    """
    settings = AvatarSettings()
    if settings.store.endpoint is not None:
        async with Workspace(settings) as workspace:
            yield workspace
    elif deployment.id is not None:
        running = await asyncio.to_thread(find, settings)
        if running.store is None:
            raise NotConfigured(
                "This worker has no store: AVATAR_STORE__ENDPOINT is not set, and `avatar up` does not run on its "
                "machine. Nothing was sent or spent.",
                hint="Start the worker with the AVATAR_STORE__… settings that the other workers have.",
            )
        async with Workspace(running.for_runs(settings)) as workspace:
            yield workspace
    else:
        local = services(settings, api=False, say=get_run_logger().info)
        running = await asyncio.to_thread(local.__enter__)
        try:
            async with Workspace(running.for_runs(settings)) as workspace:
                yield workspace
        finally:
            await asyncio.to_thread(local.__exit__, None, None, None)


def emit_again(workspace: Workspace, video: Video) -> None:
    """Tell of a video that was there already, if an earlier process of this very run may have died of telling."""
    if (flow_run.run_count or 1) > 1:
        workspace.notify(about_video(workspace.settings, video))


def emit_end(events: Events, subject: RunSubject, error: Exception) -> None:
    """Emit the error that ends a run of a job.

    Of a batch only a refusal by the budget is told here: its rows are told one by one.
    """
    job = subject.job
    notice = about_error(
        error,
        run=str(flow_run.id or uuid4()),
        job_id=subject.job_id or None,
        batch_id=subject.batch_id or None,
        portrait=job.portrait if job else "",
        voice=job.voice if job else "",
    )
    if notice is None or not (job or (subject.batch_id and isinstance(notice, BudgetRefusal))):
        return
    try:
        events(notice)
    except Exception:  # the run is more than its notice
        log.exception("The notice %s was not delivered.", notice.EVENT)

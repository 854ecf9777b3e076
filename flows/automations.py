"""What stands beside the deployments on a Prefect server: the store's identity, the limits, and the automations.

`avatar up` and `avatar deploy` run it as a process of its own, beside `prefect deploy`. Repeating it changes nothing.
"""

import asyncio
import json
import sys
from collections.abc import Sequence
from datetime import timedelta

from prefect.blocks.notifications import SlackWebhook
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState, SendNotification
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification

from avatar.events import NOTICES, VideoPublished
from avatar.local.prefect_client import TAG
from avatar.settings import AvatarSettings
from avatar.settings_sections import NotifySettings, RecoverySettings
from avatar.workspace import Workspace
from tasks.context import name_store
from tasks.flow_runs import RESUMED
from tasks.turns import ensure_limits

BLOCK = "avatar-notify"
#: A worker reports a process that was killed twice, some seconds apart (seen with Prefect 3.9.1): what is scheduled
#: in between becomes Crashed again.
RESUME_AFTER = timedelta(seconds=15)

#: What a worker says of a run that ended with code 1: it did not begin (its parameters are not the flow's, the server
#: did not answer, the package is missing). At once again it would end so again; `reconcile` looks at it first.
DID_NOT_BEGIN = "*status code*[: ]1.*"

_RUNS = ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]})
_OURS = ResourceSpecification({"prefect.resource.id": [f"prefect.tag.{TAG}"], "prefect.resource.role": "tag"})


def _events(*states: str) -> set[str]:
    return {f"prefect.flow-run.{state}" for state in states}


#: After any of these nothing runs, or something else is waited for: no heartbeat is due.
_AT_REST = _events(
    "Completed", "Failed", "TimedOut", "Cancelled", "Cancelling", "Crashed",
    "Suspended", "Paused", "Scheduled", "AwaitingRetry", "Late", "Pending",
)  # fmt: skip


def crash_zombies(recovery: RecoverySettings) -> AutomationCore:
    """A run that says Running and has sent no heartbeat for `stale_seconds` is Crashed.

    Longer than any restart of the server, during which heartbeats are not heard. A run that has ended cannot become
    Crashed: the server refuses that, whatever order the events came in.
    """
    return AutomationCore(
        name="avatar-crash-zombies",
        description=f"Runs tagged {TAG} whose process is gone become Crashed. AVATAR_RECOVERY__STALE_SECONDS.",
        trigger=EventTrigger(
            after=_events("heartbeat"),
            expect=_events("heartbeat") | _AT_REST,
            match=_RUNS,
            match_related=_OURS,
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=recovery.stale_seconds),
        ),
        actions=[ChangeFlowRunState(state=StateType.CRASHED, message="No heartbeat: its process is gone.")],
    )


def resume_crashed(after: timedelta = RESUME_AFTER) -> AutomationCore:
    """A crashed run of a deployment is started again, and continues by the journal.

    How often, the run itself counts (`tasks.flow_runs.check_resumes`), since an automation cannot; and `reconcile`
    gives up one that does not get so far.
    """
    return AutomationCore(
        name="avatar-resume-crashed",
        description=f"Crashed runs tagged {TAG} are started again. AVATAR_RECOVERY__MAX_RESUMES bounds how often.",
        trigger=EventTrigger(
            after=_events("Crashed"),
            expect=(_AT_REST - _events("Crashed")) | _events("Running", "Retrying", "Rerunning"),
            match=ResourceSpecification({**_RUNS.root, "prefect.state-message": [f"!{DID_NOT_BEGIN}"]}),
            match_related=_OURS,
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=after,
        ),
        actions=[ChangeFlowRunState(state=StateType.SCHEDULED, name="AwaitingRetry", message=RESUMED)],
    )


async def notify(settings: NotifySettings) -> AutomationCore | None:
    """A message on whatever needs a person. None unless AVATAR_NOTIFY__APPRISE_URL says where to."""
    if settings.apprise_url is None:
        return None
    # Prefect has no block for Apprise as such; this one hands an address that is not Slack's to Apprise as it is.
    block = SlackWebhook(url=settings.apprise_url)
    return AutomationCore(
        name="avatar-notify",
        description="Sends a message when a video was rejected or failed, or something else needs a person.",
        trigger=EventTrigger(
            expect={kind.EVENT for kind in NOTICES if kind is not VideoPublished},
            posture=Posture.Reactive,
            threshold=1,
            within=timedelta(0),
        ),
        actions=[
            SendNotification(
                block_document_id=await block.asave(BLOCK, overwrite=True),
                subject="{{ event.event }}",
                body="{{ event.payload.reason }}\n\n{{ event.payload.hint or '' }}\n\n{{ event.resource.id }}",
            )
        ],
    )


async def ensure_automation(client: PrefectClient, wanted: AutomationCore) -> None:
    """Create it, or bring the one of its name up to date. One that was switched off stays off."""
    found = await client.read_automations_by_name(wanted.name)
    if not found:
        await client.create_automation(wanted)
    for known in found[:1]:
        kept = wanted.model_copy(update={"enabled": known.enabled})
        if AutomationCore.model_validate(known.model_dump()) != kept:
            await client.update_automation(known.id, kept)


async def ensure_all(settings: AvatarSettings) -> Sequence[str]:
    """Limits and automations on the server of PREFECT_API_URL; returns their names."""
    wanted = [crash_zombies(settings.recovery), resume_crashed(), await notify(settings.notify)]
    async with get_client() as client:
        if settings.store.endpoint is not None:
            async with Workspace(settings) as workspace:
                await name_store(client, workspace)
        names = await ensure_limits(client, settings)
        for automation in wanted:
            if automation is not None:
                await ensure_automation(client, automation)
                names.append(automation.name)
    return names


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asyncio.run(ensure_all(AvatarSettings()))) + "\n")

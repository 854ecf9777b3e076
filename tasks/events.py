"""Notices as Prefect events, by which users start automations of their own.

Prefect sends events from a thread in the background, and drops what a server that is away does not take within
seconds: they are news, and nothing depends on them. Payloads: docs/events.md.
"""

import logging
from uuid import UUID, uuid4

from prefect.events import emit_event
from prefect.runtime import flow_run

from avatar.events import BudgetRefusal, Notice, about_error, about_video
from avatar.models import Video
from avatar.workspace import Subject, Workspace

log = logging.getLogger("avatar.notices")


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


def tell_again(workspace: Workspace, video: Video) -> None:
    """Tell of a video that was there already, if an earlier process of this very run may have died of telling."""
    if (flow_run.run_count or 1) > 1:
        workspace.post(about_video(workspace.settings, video))


def tell_end(events: Events, subject: Subject, error: Exception) -> None:
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

"""Notices as Prefect events, by which users start automations of their own.

Prefect sends events from a thread in the background, and drops what a server that is away does not take within
seconds: they are news, and nothing depends on them. Payloads: docs/events.md.
"""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from uuid import UUID, uuid4

from prefect.events import emit_event
from prefect.runtime import flow_run

from avatar.events import Notice, about_error, about_video, delivered_by, post
from avatar.models import AvatarJob, Video
from avatar.workspace import workspace


class _Announcer:
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


@contextmanager
def announced() -> Iterator[None]:
    """Emit what is posted in the block."""
    with delivered_by(_Announcer()):
        yield


@contextmanager
def unannounced() -> Iterator[None]:
    """Emit nothing of the block: what is made in it is of no interest outside."""
    with delivered_by(lambda _: None):
        yield


class Subject:
    """What a flow run is about, as far as it is known by now."""

    def __init__(self, job: AvatarJob | None = None) -> None:
        self.job, self.job_id, self.batch_id = job, "", ""

    def found(self, video: Video) -> None:
        """Tell of a video that was there already, if an earlier process of this very run may have died of telling."""
        if (flow_run.run_count or 1) > 1:
            post(about_video(workspace().settings, video))


@asynccontextmanager
async def announcing(job: AvatarJob | None = None) -> AsyncIterator[Subject]:
    """Emit what is posted in the block, and the error that ends it.

    Of a batch only a refusal by the budget is told here: its rows are told one by one.
    """
    subject = Subject(job)
    with announced():
        try:
            yield subject
        except Exception as error:
            _post_end(subject, error)
            raise


def _post_end(subject: Subject, error: Exception) -> None:
    job = subject.job
    notice = about_error(
        error,
        run=str(flow_run.id or uuid4()),
        job_id=subject.job_id or None,
        batch_id=subject.batch_id or None,
        portrait=job.portrait if job else "",
        voice=job.voice if job else "",
    )
    if notice is not None and (job is not None or notice.EVENT == "avatar.budget.refused"):
        post(notice)

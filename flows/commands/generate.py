"""`avatar generate`: one job, run here, against the Prefect API that answers."""

import argparse
import asyncio
import inspect
import json
import os
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

from flows.commands.display import Display
from tasks.models import AvatarJob, Video
from tasks.settings import AvatarSettings
from tasks.storage.journal import RenderState
from tasks.workspace import Workspace

LINK_LIFETIME = timedelta(days=7)


def run(arguments: argparse.Namespace) -> int:
    from flows.local import environment, services

    job = _job(arguments)
    with (
        Display(live=sys.stderr.isatty() and not arguments.json and not arguments.debug) as display,
        services(AvatarSettings(), say=display.say) as running,
    ):
        os.environ.update(environment(AvatarSettings(), running))
        quieten(debug=arguments.debug)
        from prefect.exceptions import TerminationSignal

        try:
            video, url, flow_run_id = asyncio.run(_generate(job, arguments, display))
        except (KeyboardInterrupt, TerminationSignal):  # Ctrl-C; SIGTERM, as Prefect raises it
            asyncio.run(_tell_what_goes_on(display.renders, cancel=arguments.cancel_on_stop))
            raise KeyboardInterrupt from None
    _print(video, arguments, url=url, flow_run_id=flow_run_id)
    return 0


def quieten(*, debug: bool) -> None:
    """Keep Prefect's log off the terminal: the display tells the story. It still reaches the server."""
    if not debug:
        os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")


def _job(arguments: argparse.Namespace) -> AvatarJob:
    return AvatarJob.model_validate(
        {
            "portrait": _absolute(arguments.portrait),
            "voice": _absolute(arguments.voice),
            "prompt": arguments.prompt,
            "provider": arguments.provider,
            "max_cost": arguments.max_cost,
            "continuity": arguments.continuity,
            "accept": arguments.accept,
        }
    )


def _absolute(source: str) -> str:
    """A path that means the same file to a worker started elsewhere."""
    return source if "://" in source else str(Path(source).expanduser().absolute())


async def _generate(
    job: AvatarJob, arguments: argparse.Namespace, display: Display
) -> tuple[Video, str, str]:
    from flows.generate import generate_avatar
    from tasks.progress import listening
    from tasks.workspace import close_workspace, workspace

    try:
        if arguments.force:
            job = await _next_take(job)
        with listening(display.step):
            state: Any = await generate_avatar(job, return_state=True)
        video: Video = await state.aresult()
        if arguments.out:
            await workspace().store.download(video.key, Path(arguments.out))
        url = await workspace().store.presign(video.key, expires=LINK_LIFETIME)
        return video, url, str(state.state_details.flow_run_id)
    finally:
        await _hand_over()
        await close_workspace()


async def _hand_over() -> None:
    """Let Prefect send its last logs and events while the server still runs; afterwards it would wait a minute."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    for worker in (APILogWorker, EventsWorker):
        drained = worker.drain_all(timeout=10)
        if inspect.isawaitable(drained):
            await drained


async def _next_take(job: AvatarJob) -> AvatarJob:
    """The lowest take that is not published: a forced take that was cut short is continued, not bought again."""
    from tasks.jobs.ingest import ingest
    from tasks.jobs.plan import identify
    from tasks.jobs.publish import find_video
    from tasks.workspace import workspace

    await workspace().store.ensure_bucket()
    portrait = await ingest(workspace(), job.portrait, what="portrait")
    voice = await ingest(workspace(), job.voice, what="voice")
    provider = workspace().provider(job.provider)
    while await find_video(workspace(), identify(job, portrait, voice, provider)):
        job = job.model_copy(update={"take": job.take + 1})
    return job


async def _tell_what_goes_on(renders: set[str], *, cancel: bool) -> None:
    """After Ctrl-C or SIGTERM: what was bought and goes on at the provider, or what cancelling it came to."""
    from tasks.renders.cancel import cancel_render

    workspace = Workspace(AvatarSettings())
    try:
        for render_id in renders:
            record = await workspace.journal.head(render_id)
            if record is None or record.state is not RenderState.SUBMITTED or record.entry.submission is None:
                continue
            if cancel:
                print((await cancel_render(workspace, render_id)).text, file=sys.stderr)
            else:
                submission = record.entry.submission
                print(
                    f"Render {render_id} goes on at {submission.provider} as request {submission.request_id}; "
                    "the same command fetches it, `avatar cancel` stops it.",
                    file=sys.stderr,
                )
    finally:
        await workspace.aclose()


def _print(video: Video, arguments: argparse.Namespace, *, url: str, flow_run_id: str) -> None:
    path = str(Path(arguments.out).absolute()) if arguments.out else None
    if arguments.json:
        print(json.dumps(as_result(video, url=url, path=path, flow_run_id=flow_run_id)))
        return
    print(
        f"{video.seconds:.2f} s of video, {video.width}×{video.height}, for ${video.cost.billed:.2f} by {video.provider}"
    )
    print(f"  store  {video.uri}")
    if path:
        print(f"  file   {path}")


def as_result(video: Video, *, url: str, path: str | None, flow_run_id: str) -> dict[str, Any]:
    """The JSON object of `--json`. `url` is a link for a quick look; it expires."""
    return {
        "job_id": video.job_id,
        "state": video.state,
        "provider": video.provider,
        "video": {
            "uri": video.uri,
            "url": url,
            "path": path,
            **video.model_dump(include={"seconds", "width", "height", "sha256"}),
        },
        "cost": video.cost.model_dump(mode="json"),
        "renders": [
            {"render_id": render.render_id, "request_id": render.request_id, "state": "collected"}
            for render in video.renders
        ],
        "checks": {check.name: check.model_dump(exclude={"name"}) for check in video.checks},
        "flow_run_id": flow_run_id,
    }

"""`avatar generate`: one job, run here, against the Prefect API that answers."""

import argparse
import asyncio
import inspect
import json
import os
import sys
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from avatar.errors import InvalidInput
from avatar.events import player_url
from avatar.models import AvatarJob, Video
from avatar.money.entries import RenderState
from avatar.settings import AvatarSettings
from avatar.workspace import STAGES, Step, Workspace

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from avatar.local import Services


# What a person sees while a job runs: a live line on a terminal, plain lines elsewhere. Always on stderr.
#: Share of the bar that is filled when a stage is entered; rendering is most of the time.
_SHARE = dict(zip(STAGES, (0.02, 0.05, 0.08, 0.1, 0.9, 0.95), strict=True))


class Display:
    """Shows steps. Plain lines are printed once per stage and per state, not per look."""

    def __init__(self, *, live: bool) -> None:
        self.live = live
        self._stack = ExitStack()
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._last = ""
        #: Renders that were seen at the provider: what goes on there if we stop.
        self.renders: set[str] = set()

    def __enter__(self) -> Self:
        if self.live:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

            columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
            self._bar = self._stack.enter_context(
                Progress(*columns, console=Console(stderr=True), transient=True)
            )
            self._task = self._bar.add_task("starting", total=1.0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        if self._bar is not None and self._task is not None and kind is None:
            self._bar.update(self._task, completed=1.0)
        self._stack.close()

    def say(self, text: str) -> None:
        """A remark about the surroundings: what is being started, what was found."""
        if self._bar is not None:
            self._bar.console.print(text, style="dim")
        else:
            sys.stderr.write(f"{text}\n")  # in one piece: two services start at once, in two threads
            sys.stderr.flush()

    def step(self, step: Step) -> None:
        text = _describe(step)
        if step.render_id:
            self.renders.add(step.render_id)
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, description=text, completed=_completed(step))
        elif _headline(step) != self._last:
            self._last = _headline(step)
            print(text, file=sys.stderr, flush=True)


def _headline(step: Step) -> str:
    return f"{step.stage} {step.snapshot.state if step.snapshot else step.text}"


def _describe(step: Step) -> str:
    from avatar.money.follow import describe_snapshot

    detail = describe_snapshot(step.snapshot, step.age or 0.0) if step.snapshot else step.text
    return f"{step.stage}: {detail}"


def _completed(step: Step) -> float:
    start = _SHARE[step.stage]
    if step.snapshot is None or step.snapshot.progress is None:
        return start
    return start + step.snapshot.progress * (_SHARE["collect"] - start)


LINK_LIFETIME = timedelta(days=7)


def run(arguments: argparse.Namespace) -> int:
    from avatar.local import prefect_variables, services
    from avatar.media.confined import start_early

    job, began = _job(arguments), datetime.now(UTC)
    start_early()
    with (
        Display(live=sys.stderr.isatty() and not arguments.json and not arguments.debug) as display,
        services(AvatarSettings(), say=display.say) as running,
    ):
        os.environ.update(prefect_variables(AvatarSettings(), running))  # before Prefect is imported
        silence_prefect(debug=arguments.debug)
        from prefect.exceptions import TerminationSignal

        settings = running.for_runs(AvatarSettings())
        try:
            video, url, flow_run_id = asyncio.run(_generate(settings, job, arguments, display))
        except (KeyboardInterrupt, TerminationSignal):  # Ctrl-C; SIGTERM, as Prefect raises it
            asyncio.run(_tell_what_goes_on(settings, display.renders, cancel=arguments.cancel_on_stop))
            raise KeyboardInterrupt from None
    _print(video, arguments, began, url=url, flow_run_id=flow_run_id)
    if not arguments.json:
        print_links(player=player_url(settings, video.job_id), run=run_url(running, flow_run_id))
    return 0


def silence_prefect(*, debug: bool) -> None:
    """Keep Prefect's log off the terminal: the display tells the story. It still reaches the server."""
    if not debug:
        os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")


def _job(arguments: argparse.Namespace) -> AvatarJob:
    return AvatarJob.model_validate(
        {
            "portrait": absolute_path(arguments.portrait),
            "voice": absolute_path(arguments.voice),
            "prompt": arguments.prompt,
            "provider": arguments.provider,
            "model": arguments.model,
            "max_cost": arguments.max_cost,
            "continuity": arguments.continuity,
            "trim": arguments.trim,
            "accept": arguments.accept,
            "captions": [absolute_path(source) for source in arguments.captions],
            "formats": arguments.format,
            **video_names(arguments),
        }
    )


def absolute_path(source: str) -> str:
    """A path that means the same file to a worker started elsewhere."""
    return source if "://" in source else str(Path(source).expanduser().absolute())


async def _generate(
    settings: AvatarSettings, job: AvatarJob, arguments: argparse.Namespace, display: Display
) -> tuple[Video, str, str]:
    from flows.generate import generate_avatar
    from tasks.context import in_workspace

    async with Workspace(settings, listener=display.step) as workspace:
        try:
            if arguments.force:
                job = await _next_take(workspace, job)
            state: Any = await in_workspace(generate_avatar, workspace)(job, return_state=True)
            video: Video = await state.aresult()
            if arguments.out:
                await workspace.store.download(video.key, Path(arguments.out))
            url = await workspace.store.presign(video.key, expires=LINK_LIFETIME)
            return video, url, str(state.state_details.flow_run_id)
        finally:
            await drain_prefect()


async def drain_prefect() -> None:
    """Let Prefect send its last logs and events while the server still runs; afterwards it would wait a minute."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    for worker in (APILogWorker, EventsWorker):
        drained = worker.drain_all(timeout=10)
        if inspect.isawaitable(drained):
            await drained


async def _next_take(workspace: Workspace, job: AvatarJob) -> AvatarJob:
    from avatar.job.inputs import ingest
    from avatar.job.produce import next_take

    await workspace.store.ensure_bucket()
    portrait = await ingest(workspace, job.portrait, what="portrait")
    voice = await ingest(workspace, job.voice, what="voice")
    return await next_take(workspace, job, portrait, voice)


async def _tell_what_goes_on(settings: AvatarSettings, renders: set[str], *, cancel: bool) -> None:
    """After Ctrl-C or SIGTERM: what was bought and goes on at the provider, or what cancelling it came to."""
    from avatar.money.settle import cancel_render

    async with Workspace(settings) as workspace:
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


def _print(
    video: Video, arguments: argparse.Namespace, began: datetime, *, url: str, flow_run_id: str
) -> None:
    path = str(Path(arguments.out).absolute()) if arguments.out else None
    if arguments.json:
        print(json.dumps(as_result(video, began, url=url, path=path, flow_run_id=flow_run_id)))
        return
    price = f"for ${video.cost.billed:.2f} by {video.provider}"
    if video.published_at < began:
        price = f"published before, nothing paid now (${video.cost.billed:.2f} by {video.provider} then)"
    print(f"{video.title}: {video.seconds:.2f} s of video, {video.width}×{video.height}, {price}")
    print(f"  job    {video.job_id}")
    print(f"  store  {video.uri}")
    if path:
        print(f"  file   {path}")


def run_url(running: "Services", flow_run_id: str) -> str | None:
    """The run's page in the Prefect UI, unless that ends with this command."""
    from avatar.web.pages import run_page

    lasts = running.gallery_url or not running.started_api
    ui = running.ui_url.rstrip("/") if lasts and running.ui_url else ""
    return run_page(f"{ui}/runs/flow-run/{flow_run_id}") if ui else None


def print_links(**links: str | None) -> None:
    """Where people look at what was made, by what each leads to."""
    for what, link in links.items():
        if link:
            print(f"  {what:6} {link}")


def as_result(
    video: Video, began: datetime, *, url: str, path: str | None, flow_run_id: str
) -> dict[str, Any]:
    """The JSON object of `--json`. `url` is a link for a quick look; it expires."""
    return {
        "job_id": video.job_id,
        **video.model_dump(include={"title", "language", "labels"}),
        "already": video.published_at < began,
        "paid_now": str(
            sum((render.billed for render in video.renders if render.submitted_at >= began), Decimal(0))
        ),
        "state": video.state,
        "provider": video.provider,
        "video": {
            "uri": video.uri,
            "url": url,
            "path": path,
            **video.model_dump(include={"seconds", "width", "height", "sha256"}),
        },
        "notes": [*video.portrait.notes, *video.voice.notes, *video.notes],
        "disclosure": video.disclosure,
        "consent": video.consent.model_dump(mode="json") if video.consent else None,
        "forms": {each.name: each.uri for each in video.forms},
        "captions": {each.language: each.key for each in video.captions},
        "warnings": [warning.model_dump(mode="json") for warning in video.warnings],
        "cost": video.cost.model_dump(mode="json"),
        "renders": [
            {"render_id": render.render_id, "request_id": render.request_id, "state": "collected"}
            for render in video.renders
        ],
        "checks": {check.name: check.model_dump(exclude={"name"}) for check in video.checks},
        "flow_run_id": flow_run_id,
    }


def video_names(arguments: argparse.Namespace) -> dict[str, object]:
    """Title, language and labels as a job takes them; only what was given."""
    labels = dict(_pair(text) for text in arguments.label)
    given = {"title": arguments.title, "language": arguments.language, "labels": labels or None}
    return {name: value for name, value in given.items() if value is not None}


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise InvalidInput(f"--label {text!r} is not KEY=VALUE, as in campaign=spring. Nothing was changed.")
    return key.strip(), value.strip()

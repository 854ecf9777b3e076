"""`avatar batch`: many jobs, run here, against the Prefect API that answers."""

import argparse
import asyncio
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from avatar.batch.models import SERVED, Batch, RowState, Summary
from avatar.batch.report import as_result
from avatar.commands.generate import absolute_path, drain_prefect, print_links, run_url, silence_prefect
from avatar.errors import AvatarError
from avatar.events import batch_url
from avatar.option_names import at_command
from avatar.settings import AvatarSettings
from avatar.workspace import Listener, Step, Workspace

if TYPE_CHECKING:
    from rich.status import Status


#: Shortest time between two lines on something that is no terminal, in seconds.
LINE_SECONDS = 2.0


def run(arguments: argparse.Namespace) -> int:
    from avatar.local import prefect_variables, services

    batch = _batch(arguments)
    live = sys.stderr.isatty() and not arguments.json and not arguments.debug
    with services(AvatarSettings(), say=_say) as running, _display(live=live) as listener:
        os.environ.update(prefect_variables(AvatarSettings(), running))  # before Prefect is imported
        silence_prefect(debug=arguments.debug)
        from prefect.exceptions import TerminationSignal

        try:
            ended, flow_run_id = asyncio.run(_generate(running.for_runs(AvatarSettings()), batch, listener))
        except TerminationSignal:  # SIGTERM, as Prefect raises it
            raise KeyboardInterrupt from None
    code = _tell(ended, arguments, flow_run_id)
    if not arguments.json:
        batch_id = getattr(getattr(ended, "summary", ended), "batch_id", "")
        page = batch_url(running.for_runs(AvatarSettings()), batch_id)
        print_links(videos=page, run=run_url(running, flow_run_id))
    return code


def _batch(arguments: argparse.Namespace) -> Batch:
    return Batch.model_validate(
        {
            "manifest": arguments.manifest and absolute_path(arguments.manifest),
            "portrait": arguments.portrait and absolute_path(arguments.portrait),
            "voices": [_voice(voice) for voice in arguments.voices],
            "prompt": arguments.prompt,
            "provider": arguments.provider,
            "model": arguments.model,
            "on_bad_rows": arguments.on_bad_rows,
            "at_once": arguments.at_once,
            "max_cost": arguments.max_cost,
            "name": arguments.name,
        }
    )


def _voice(voice: str) -> str:
    """Made absolute; the slash that makes it a folder is kept."""
    return absolute_path(voice) + ("/" if voice.endswith("/") and "://" not in voice else "")


async def _generate(
    settings: AvatarSettings, batch: Batch, listener: Listener
) -> tuple[Summary | AvatarError, str]:
    from flows.batch import generate_batch
    from tasks.context import in_workspace

    async with Workspace(settings, listener=listener) as workspace:
        try:
            state: Any = await in_workspace(generate_batch, workspace)(batch, return_state=True)
            ended = await state.aresult(raise_on_failure=False)
            if isinstance(ended, BaseException) and not isinstance(ended, AvatarError):
                raise ended
            return ended, str(state.state_details.flow_run_id)
        finally:
            await drain_prefect()


def _tell(ended: Summary | AvatarError, arguments: argparse.Namespace, flow_run_id: str) -> int:
    """The summary on stdout, also of a batch that has rows left; what is wrong with it on stderr."""
    summary = ended if isinstance(ended, Summary) else getattr(ended, "summary", None)
    if summary is None and isinstance(ended, AvatarError):
        raise ended
    assert isinstance(summary, Summary)  # noqa: S101 - one or the other
    error = ended if isinstance(ended, AvatarError) else None
    if arguments.json:
        failure = {"error": error.describe()} if error else {}
        print(json.dumps(as_result(summary) | failure | {"flow_run_id": flow_run_id}))
    else:
        _print(summary)
    if error is None:
        return 0
    print(f"avatar: {at_command(str(error))}", file=sys.stderr)
    print(f"Next: {at_command(error.hint or '')}", file=sys.stderr)
    return error.exit_code


def _print(summary: Summary) -> None:
    states = ", ".join(f"{summary.states[state]} {state}" for state in RowState if state in summary.states)
    print(
        f"{summary.count(*SERVED)} of {summary.rows} rows have a video, for ${summary.billed:.2f} ({states})"
    )
    print(f"  report {summary.report_key}")
    for row in summary.troubles:
        print(f"  line {row.line}: {row.state}: {row.reason}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@contextmanager
def _display(*, live: bool) -> Iterator[Listener]:
    """How far it is: one line that changes on a terminal, a line now and then elsewhere. Always on stderr."""
    if not live:
        yield _lines()
        return
    from rich.console import Console

    status: Status
    with Console(stderr=True).status("starting") as status:
        yield lambda step: status.update(step.text) if step.stage == "batch" else None


def _lines() -> Listener:
    last = 0.0

    def say(step: Step) -> None:
        nonlocal last
        if step.stage == "batch" and time.monotonic() - last >= LINE_SECONDS:
            last = time.monotonic()
            _say(step.text)

    return say

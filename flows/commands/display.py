"""What a person sees while a job runs: a live line on a terminal, plain lines elsewhere. Always on stderr."""

import sys
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Self

from tasks.progress import STAGES, Step

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

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
    from tasks.renders.describe import describe_snapshot

    detail = describe_snapshot(step.snapshot, step.age or 0.0) if step.snapshot else step.text
    return f"{step.stage}: {detail}"


def _completed(step: Step) -> float:
    start = _SHARE[step.stage]
    if step.snapshot is None or step.snapshot.progress is None:
        return start
    return start + step.snapshot.progress * (_SHARE["collect"] - start)

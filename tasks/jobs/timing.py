"""How long the stages of a job took, by the journal."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from tasks.models import Render
from tasks.storage.journal import Record, RenderState
from tasks.workspace import Workspace

#: Stage, and the states between which it lies.
_STAGES = (
    ("submit", RenderState.INTENT, RenderState.SUBMITTED),
    ("render", RenderState.SUBMITTED, RenderState.RENDERED),
    ("collect", RenderState.RENDERED, RenderState.COLLECTED),
)


async def time_stages(workspace: Workspace, renders: Sequence[Render]) -> dict[str, float]:
    """Seconds by stage, over all renders together: from the first that entered it to the last that left it."""
    histories = [await workspace.journal.history(render.render_id) for render in renders]
    timings = {name: _span(histories, start, end) for name, start, end in _STAGES}
    collected = max(render.collected_at for render in renders)
    timings["publish"] = _seconds(datetime.now(UTC) - collected)
    return {name: seconds for name, seconds in timings.items() if seconds is not None}


def _span(histories: Sequence[tuple[Record, ...]], start: RenderState, end: RenderState) -> float | None:
    began = [record.entry.at for history in histories for record in history if record.state is start]
    ended = [record.entry.at for history in histories for record in history if record.state is end]
    return _seconds(max(ended) - min(began)) if began and ended else None


def _seconds(span: timedelta) -> float:
    """Never negative: entries may come from machines whose clocks differ."""
    return round(max(0.0, span.total_seconds()), 3)

"""All batches, and one as a page of cards: its rows with their videos, as far as it is, and its report."""

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from pydantic import ValidationError

from avatar.batch.chunks import outcomes_key, read_rows
from avatar.batch.manifest import batch_prefix
from avatar.batch.models import SERVED, Outcome, Row, RowState, Summary
from avatar.batch.report import summary_key
from avatar.errors import AvatarError, InvalidInput, ObjectNotFound
from avatar.job.publish import find_video
from avatar.models import Video, VideoState
from avatar.waiting import in_turns
from avatar.workspace import Workspace

#: Largest object with the outcomes of a hundred rows, in bytes.
LARGEST = 16 * 1024 * 1024


@dataclass(frozen=True)
class BatchRow:
    """A row: how it stands, and its video if there is one."""

    outcome: Outcome
    video: Video | None = None
    asked_language: str = ""

    @property
    def language(self) -> str:
        """As in `de`; that of the video, which may have been given another since it was asked for."""
        return self.video.language if self.video else self.asked_language

    @property
    def state(self) -> str:
        if self.video is not None and self.outcome.state not in SERVED:
            return str(self.video.state)
        return str(self.outcome.state)

    @property
    def good(self) -> bool:
        return self.state in {*SERVED, VideoState.PUBLISHED}


@dataclass(frozen=True)
class BatchRows:
    """A hundred rows of a batch."""

    batch_id: str
    name: str
    chunk: int
    chunks: int
    cards: tuple[BatchRow, ...]

    @property
    def counts(self) -> Mapping[str, int]:
        return Counter(card.state for card in self.cards)

    @property
    def groups(self) -> Sequence[tuple[str, Sequence[BatchRow]]]:
        """The rows by language, in the order in which the languages come; one without a name if it is the same in all."""
        languages = dict.fromkeys(card.language for card in self.cards)
        if len(languages) <= 1:
            return [("", self.cards)]
        return [(name, [card for card in self.cards if card.language == name]) for name in languages]

    @property
    def billed(self) -> Decimal:
        return sum((card.video.cost.billed for card in self.cards if card.video), Decimal(0))

    @property
    def waits(self) -> bool:
        return any(card.state == RowState.WAITING for card in self.cards)


async def read_batch_rows(workspace: Workspace, batch_id: str, chunk: int) -> BatchRows:
    """Raises `ObjectNotFound` if there is no such batch, or no such hundred of it."""
    listed = await workspace.store.list(f"{batch_prefix(batch_id)}rows-")
    if not 0 <= chunk < len(listed):
        raise ObjectNotFound("There is no such batch.")
    rows = await read_rows(workspace, batch_id, chunk)
    ended = await _ended(workspace, batch_id, chunk)
    cards = await in_turns(
        lambda row: _card(workspace, ended.get(row.line, row.outcome), row), rows, abreast=16
    )
    return BatchRows(batch_id, _name(rows) or f"Batch {batch_id[:12]}", chunk, len(listed), tuple(cards))


#: Batches on a page.
PER_PAGE = 24


@dataclass(frozen=True)
class Listed:
    """A batch among others: what it is called, when it last changed, and what its last report said."""

    batch_id: str
    changed: datetime
    name: str = ""
    summary: Summary | None = None


async def list_batches(workspace: Workspace, number: int) -> tuple[Sequence[Listed], bool]:
    """A page of all batches, those that changed last first, and whether there are more. The first page is 1."""
    listed = await workspace.store.list("batches/")
    # Those that only had their price looked at have no report.
    changed = {stat.key.split("/")[1]: stat.modified for stat in listed if stat.key.endswith("/report.csv")}
    start = max(0, number - 1) * PER_PAGE
    newest = sorted(changed.items(), key=lambda pair: (pair[1], pair[0]), reverse=True)
    shown = newest[start : start + PER_PAGE]
    return await in_turns(lambda pair: _listed(workspace, *pair), shown, abreast=8), start + PER_PAGE < len(
        newest
    )


async def _listed(workspace: Workspace, batch_id: str, changed: datetime) -> Listed:
    summary = await _summary(workspace, batch_id)
    name = summary.name if summary else ""
    with suppress(AvatarError):
        name = name or _name(await read_rows(workspace, batch_id, 0))
    return Listed(batch_id, changed, name or f"Batch {batch_id[:12]}", summary)


async def _summary(workspace: Workspace, batch_id: str) -> Summary | None:
    """None for a batch that was reported before sums were kept."""
    try:
        return Summary.model_validate_json((await workspace.store.get(summary_key(batch_id))).data)
    except (ObjectNotFound, InvalidInput, ValidationError):
        return None


def _name(rows: list[Row]) -> str:
    """What people called it: a label of its videos."""
    return next((name for row in rows if row.job and (name := row.job.labels.get("batch"))), "")


async def _ended(workspace: Workspace, batch_id: str, chunk: int) -> Mapping[int, Outcome]:
    try:
        blob = await workspace.store.get(outcomes_key(batch_id, chunk), max_bytes=LARGEST)
    except ObjectNotFound:
        return {}
    outcomes = [Outcome.model_validate_json(line) for line in blob.data.splitlines()]
    return {outcome.line: outcome for outcome in outcomes}


async def _card(workspace: Workspace, outcome: Outcome, row: Row) -> BatchRow:
    asked = row.job.language if row.job else ""
    try:
        found = await find_video(workspace, outcome.job_id) if outcome.job_id else None
    except InvalidInput:
        found = None
    return BatchRow(outcome, found, asked)

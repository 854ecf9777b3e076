"""A batch as a page of cards: its rows with their videos, as far as it is, and its report."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

from avatar.batch.chunks import outcomes_key, read_rows
from avatar.batch.manifest import batch_prefix
from avatar.batch.models import SERVED, Outcome, Row, RowState
from avatar.errors import InvalidInput, ObjectNotFound
from avatar.job.index import in_turns
from avatar.job.publish import find_video
from avatar.models import Video, VideoState
from avatar.workspace import Workspace

#: Largest object with the outcomes of a hundred rows, in bytes.
LARGEST = 16 * 1024 * 1024


@dataclass(frozen=True)
class Card:
    """A row: how it stands, and its video if there is one."""

    outcome: Outcome
    video: Video | None = None

    @property
    def state(self) -> str:
        if self.video is not None and self.outcome.state not in SERVED:
            return str(self.video.state)
        return str(self.outcome.state)

    @property
    def good(self) -> bool:
        return self.state in {*SERVED, VideoState.PUBLISHED}


@dataclass(frozen=True)
class Cards:
    """A hundred rows of a batch."""

    batch_id: str
    name: str
    chunk: int
    chunks: int
    cards: tuple[Card, ...]

    @property
    def counts(self) -> Mapping[str, int]:
        return Counter(card.state for card in self.cards)

    @property
    def billed(self) -> Decimal:
        return sum((card.video.cost.billed for card in self.cards if card.video), Decimal(0))

    @property
    def waits(self) -> bool:
        return any(card.state == RowState.WAITING for card in self.cards)


async def read_cards(workspace: Workspace, batch_id: str, chunk: int) -> Cards:
    """Raises `ObjectNotFound` if there is no such batch, or no such hundred of it."""
    listed = await workspace.store.list(f"{batch_prefix(batch_id)}rows-")
    if not 0 <= chunk < len(listed):
        raise ObjectNotFound("There is no such batch.")
    rows = await read_rows(workspace, batch_id, chunk)
    ended = await _ended(workspace, batch_id, chunk)
    cards = await in_turns(lambda row: _card(workspace, ended.get(row.line, row.outcome)), rows, abreast=16)
    return Cards(batch_id, _name(rows) or f"Batch {batch_id[:12]}", chunk, len(listed), tuple(cards))


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


async def _card(workspace: Workspace, outcome: Outcome) -> Card:
    try:
        return Card(outcome, await find_video(workspace, outcome.job_id) if outcome.job_id else None)
    except InvalidInput:
        return Card(outcome)

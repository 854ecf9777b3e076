"""Rows and their outcomes in the store, a hundred to an object, so that no process holds them all."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from pydantic import ValidationError

from avatar.batch.manifest import batch_prefix
from avatar.batch.models import Checked, Outcome, Row
from avatar.errors import AvatarError, ObjectNotFound
from avatar.stored_models import Model
from avatar.workspace import Workspace

M = TypeVar("M", bound=Model)

#: Rows in one object. A row with its plan is some 2 KB, more for long voices.
CHUNK_ROWS = 100
#: Largest chunk read, in bytes: a hundred voices of hours.
LARGEST = 256 * 1024 * 1024
JSON_LINES = "application/x-ndjson"


@dataclass(frozen=True)
class Part:
    """Chunks `first` to `last` of a batch, how many rows they have, and how many of the batch's turns."""

    first: int
    last: int
    rows: int
    at_once: int


def split_rows(checked: Checked, at_once: int, *, parts: int) -> list[Part]:
    """Equal parts of the rows; together they have `at_once` turns."""
    edges = [checked.chunks * part // parts for part in range(parts + 1)]
    return [
        Part(
            first=start,
            last=end - 1,
            rows=min(end * CHUNK_ROWS, checked.rows) - start * CHUNK_ROWS,
            at_once=at_once // parts + (part < at_once % parts),
        )
        for part, (start, end) in enumerate(itertools.pairwise(edges))
    ]


def rows_key(batch_id: str, chunk: int) -> str:
    return f"{batch_prefix(batch_id)}rows-{chunk:05d}.jsonl"


def outcomes_key(batch_id: str, chunk: int) -> str:
    return f"{batch_prefix(batch_id)}outcomes-{chunk:05d}.jsonl"


async def write_rows(workspace: Workspace, batch_id: str, chunk: int, rows: Iterable[Row]) -> None:
    await workspace.store.put(rows_key(batch_id, chunk), _lines(rows), content_type=JSON_LINES)


async def read_rows(workspace: Workspace, batch_id: str, chunk: int) -> list[Row]:
    """The rows of a chunk. Raises `ObjectNotFound`, `StoreUnavailable`, and `AvatarError` if they make no sense."""
    blob = await workspace.store.get(rows_key(batch_id, chunk), max_bytes=LARGEST)
    return _parse(Row, blob.data, rows_key(batch_id, chunk))


async def earlier_rows(workspace: Workspace, batch_id: str, chunk: int) -> Mapping[int, Row]:
    """The rows of a chunk as an earlier run left them, by line; none if there was none."""
    try:
        return {row.line: row for row in await read_rows(workspace, batch_id, chunk)}
    except AvatarError:
        return {}  # they only save work: whatever is wrong with them, the rows are looked at anew


async def write_outcomes(
    workspace: Workspace, batch_id: str, chunk: int, run: str, outcomes: Iterable[Outcome]
) -> None:
    """Keep how the rows of a chunk ended in `run`, which is told from earlier runs by its name."""
    key = outcomes_key(batch_id, chunk)
    await workspace.store.put(key, _lines(outcomes), content_type=JSON_LINES, metadata={"run": run})


async def read_outcomes(
    workspace: Workspace, batch_id: str, chunk: int, run: str
) -> Sequence[Outcome] | None:
    """How the rows of a chunk ended in `run`; None if it has not come so far."""
    key = outcomes_key(batch_id, chunk)
    try:
        blob = await workspace.store.get(key, max_bytes=LARGEST)
    except ObjectNotFound:
        return None
    return _parse(Outcome, blob.data, key) if blob.stat.metadata.get("run") == run else None


def _lines(items: Iterable[Model]) -> bytes:
    return b"".join(item.model_dump_json().encode() + b"\n" for item in items)


def _parse(kind: type[M], data: bytes, key: str) -> list[M]:
    try:
        return [kind.model_validate_json(line) for line in data.splitlines()]
    except ValidationError as error:
        raise AvatarError(
            f"{key} cannot be read ({error.error_count()} faults): it was written by another version of avatar-flows, "
            "or damaged. Nothing was sent for its rows; run the batch again."
        ) from error

"""Rows of a manifest, read one at a time: what cannot be read is told by line, and the next row is read."""

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from pydantic import ValidationError

from tasks.batches.models import Batch
from tasks.errors import InvalidInput
from tasks.models import AvatarJob

COLUMNS = tuple(AvatarJob.model_fields)
NEEDED = tuple(name for name, info in AvatarJob.model_fields.items() if info.is_required())
#: Longest line, in bytes: a prompt and two addresses of the longest kind, every character escaped, and room.
LONGEST_LINE = 128 * 1024
EMPTY = "the row is empty"
#: What spreadsheets put between columns, by country.
DELIMITERS = ",;\t"


@dataclass(frozen=True)
class RawRow:
    """The values of a row as written, or why there are none."""

    line: int
    values: dict[str, Any] = field(default_factory=dict)
    fault: str = ""

    def text(self, column: str) -> str:
        """A value for display."""
        value = self.values.get(column)
        return "" if value is None else str(value)[:2048]


class BadLine(ValueError):
    """A line that cannot be read, and why."""


class Lines:
    """The lines of a file as text. Iterating goes on after a `BadLine`."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.number = 0  #: of the line read last, from 1

    def __iter__(self) -> "Lines":
        return self

    def __next__(self) -> str:
        data = self._file.readline(LONGEST_LINE + 1)
        if not data:
            raise StopIteration
        self.number += 1
        if len(data) > LONGEST_LINE:
            while data and not data.endswith(b"\n"):
                data = self._file.readline(LONGEST_LINE)
            raise BadLine(f"the line is longer than {LONGEST_LINE // 1024} KB")
        try:
            # Spreadsheets begin their UTF-8 with a byte order mark.
            return data.decode("utf-8-sig" if self.number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise BadLine(
                f"byte {error.start + 1} of the line (0x{data[error.start]:02x}) is not UTF-8; save it as UTF-8"
            ) from None


def read_rows(path: Path) -> Iterator[RawRow]:
    """Every row of a .jsonl or .csv file. Empty rows at the end are ignored, elsewhere they are faults.

    Raises:
        InvalidInput: the file as a whole cannot be read: not UTF-8, or columns that are unknown or missing.
    """
    with path.open("rb") as file:
        if file.read(2) in {b"\xff\xfe", b"\xfe\xff"}:
            raise InvalidInput(
                "The manifest is UTF-16. Nothing was sent or spent.",
                hint="Save it as UTF-8 (in Excel: CSV UTF-8).",
            )
        file.seek(0)
        read = _read_csv if path.suffix == ".csv" else _read_jsonl
        empty: list[RawRow] = []
        for row in read(Lines(file)):
            if row.fault == EMPTY:
                empty.append(row)
                continue
            yield from empty
            empty.clear()
            yield row


def _read_jsonl(lines: Lines) -> Iterator[RawRow]:
    while True:
        try:
            text = next(lines)
        except StopIteration:
            return
        except BadLine as error:
            yield RawRow(lines.number, fault=str(error))
            continue
        yield _parse_json(lines.number, text)


def _parse_json(line: int, text: str) -> RawRow:
    if not text.strip():
        return RawRow(line, fault=EMPTY)
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        return RawRow(line, fault=f"it is not JSON: {error.msg} at character {error.colno}")
    except (ValueError, RecursionError) as error:
        return RawRow(line, fault=f"it is not JSON that can be read: {error}")
    if not isinstance(values, dict):
        return RawRow(line, fault='it is not a JSON object such as {"portrait": "…", "voice": "…"}')
    return RawRow(line, {name: value for name, value in values.items() if value is not None})


def _read_csv(lines: Lines) -> Iterator[RawRow]:
    try:
        head = next(lines, "")
    except BadLine as error:
        raise InvalidInput(f"Line 1 of the manifest: {error}. Nothing was sent or spent.") from None
    delimiter = max(DELIMITERS, key=head.count)
    columns = _check_columns(next(csv.reader([head], delimiter=delimiter), []))
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        line = lines.number + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except (BadLine, csv.Error) as error:
            yield RawRow(line, fault=str(error))
            continue
        yield _by_column(line, cells, columns)


def _by_column(line: int, cells: list[str], columns: list[str]) -> RawRow:
    if not any(cell.strip() for cell in cells):
        return RawRow(line, fault=EMPTY)
    values = dict(zip(columns, cells, strict=False))
    fault = "" if len(cells) == len(columns) else f"it has {len(cells)} cells, the first line {len(columns)}"
    return RawRow(line, {name: cell.strip() for name, cell in values.items() if cell.strip()}, fault)


def _check_columns(cells: list[str]) -> list[str]:
    columns = [cell.strip().lower() for cell in cells]
    faults = [f"there is no column {name!r}" for name in NEEDED if name not in columns]
    faults += [f"{name!r} is not a column" for name in columns if name not in COLUMNS]
    faults += [f"{name!r} is there twice" for name in sorted(set(columns)) if columns.count(name) > 1]
    if faults:
        raise InvalidInput(
            f"The first line of the manifest does not name the columns: {'; '.join(faults)}. Nothing was sent or spent.",
            hint=f"The columns are {', '.join(COLUMNS)}; {' and '.join(NEEDED)} must be there.",
        )
    return columns


def as_job(raw: RawRow, batch: Batch, base: str) -> AvatarJob | str:
    """The row's job with the batch's defaults, its paths made absolute; or why there is none."""
    if raw.fault:
        return raw.fault
    unknown = [name for name in raw.values if name not in COLUMNS]
    if unknown:
        return f"unknown column {unknown[0]!r}; the columns are {', '.join(COLUMNS)}"
    values: dict[str, Any] = {"prompt": batch.prompt, "provider": batch.provider} | raw.values
    for name in NEEDED:
        if isinstance(values.get(name), str):
            values[name] = locate(values[name], base)
    try:
        return AvatarJob.model_validate(values)
    except ValidationError as error:
        return "; ".join(_in_words(fault) for fault in error.errors(include_url=False))


def _in_words(fault: Any) -> str:
    name = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "missing":
        return f"{name} is missing"
    return f"{name}: {fault['msg']} (it is {str(fault['input'])[:60]!r})"


def locate(source: str, base: str) -> str:
    """An address as it is, a relative path beside the manifest (a folder, or s3://bucket/folder/)."""
    if "://" in source or source.startswith(("/", "~")):
        return source
    return base + source if "://" in base else str(Path(base) / source)

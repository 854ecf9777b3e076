"""Rows of a manifest, read one at a time: what cannot be read is told by line, and the next row is read."""

import csv
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from pydantic import ValidationError

from avatar.batch.models import Batch
from avatar.errors import InvalidInput
from avatar.models import LONGEST_ADDRESS, AvatarJob, is_link, parted, shown

COLUMNS = tuple(AvatarJob.model_fields)
#: Columns of a table that begin so are labels: `label:campaign`.
LABEL = "label:"
NEEDED = tuple(name for name, info in AvatarJob.model_fields.items() if info.is_required())
#: Longest line, in bytes: a prompt and two addresses of the longest kind, every character escaped, and room.
LONGEST_LINE = 128 * 1024
#: Most rows in one manifest, the empty ones included: as many as a spreadsheet has.
MOST_ROWS = 1_048_576
#: Digits of the longest number that means anything here.
LONGEST_NUMBER = 30
#: Faults of the first line that are told.
FAULTS_TOLD = 5
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
        """A value for display: a link without its query."""
        value = self.values.get(column)
        return "" if value is None else shown(str(value))[:LONGEST_ADDRESS]


class BadLine(ValueError):
    """A line that cannot be read, and why."""


class Lines:
    """The lines of a file as text. Iterating goes on after a `BadLine`."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._taken = 0  # bytes since the row began
        self.number = 0  #: of the line read last, from 1

    def begin_row(self) -> int:
        """The number of the line that comes next. A row of several lines is held to the length of one."""
        self._taken = 0
        return self.number + 1

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
        self._taken += len(data)
        if self._taken > LONGEST_LINE:
            raise BadLine(f"a quote is opened and, for {LONGEST_LINE // 1024} KB, not closed")
        try:
            # Spreadsheets begin their UTF-8 with a byte order mark.
            return data.decode("utf-8-sig" if self.number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise BadLine(
                f"byte {error.start + 1} of the line (0x{data[error.start]:02x}) is not UTF-8; save it as UTF-8"
            ) from None


def read_rows(path: Path, batch: Batch | None = None) -> Iterator[RawRow]:
    """Every row of a .jsonl or .csv file. Empty rows at the end are ignored, elsewhere they are faults.

    Args:
        path: the file.
        batch: has a portrait for rows that name none: then its column need not be there.

    Raises:
        InvalidInput: the file as a whole cannot be read: not UTF-8, columns that are unknown or missing, more rows
            than `MOST_ROWS`.
    """
    with path.open("rb") as file:
        _check_kind(file.read(64))
        file.seek(0)
        needed = tuple(name for name in NEEDED if name != "portrait" or batch is None or not batch.portrait)
        is_table = path.suffix.lower() == ".csv"
        rows = _read_csv(Lines(file), needed) if is_table else _read_jsonl(Lines(file))
        empty: list[int] = []
        for count, row in enumerate(rows, start=1):
            if count > MOST_ROWS:
                raise InvalidInput(
                    f"The manifest has more than {MOST_ROWS:,} rows. Nothing was sent or spent.",
                    hint="Split it into several.",
                )
            if row.fault == EMPTY:
                empty.append(row.line)
                continue
            yield from (RawRow(line, fault=EMPTY) for line in empty)
            empty.clear()
            yield row


#: How files begin that are taken for a manifest by mistake.
_OTHER_KINDS = (
    (b"\xff\xfe", "UTF-16", "Save it as UTF-8 (in Excel: CSV UTF-8)."),
    (b"\xfe\xff", "UTF-16", "Save it as UTF-8 (in Excel: CSV UTF-8)."),
    (b"PK\x03\x04", "a workbook or a ZIP archive", "Save it as CSV UTF-8."),
    (b"\xd0\xcf\x11\xe0", "a workbook", "Save it as CSV UTF-8."),
    (b"\x1f\x8b", "compressed (gzip)", "Unpack it."),
    (b"(\xb5/\xfd", "compressed (zstd)", "Unpack it."),
    (b"BZh", "compressed (bzip2)", "Unpack it."),
    (b"<", "a web page (HTML or XML)", "Download the file itself; perhaps a login page came instead of it."),
    (b"%PDF", "a PDF", "Save it as CSV UTF-8."),
)


def _check_kind(head: bytes) -> None:
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    kinds = [(kind, hint) for magic, kind, hint in _OTHER_KINDS if start.startswith(magic)]
    if not kinds and b"\0" in head.partition(b"\n")[0]:
        kinds = [("not text, or UTF-16 or UTF-32", "Save it as UTF-8 (in Excel: CSV UTF-8).")]
    if kinds:
        raise InvalidInput(f"The manifest is {kinds[0][0]}. Nothing was sent or spent.", hint=kinds[0][1])


def _read_jsonl(lines: Lines) -> Iterator[RawRow]:
    while True:
        lines.begin_row()
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
        values = json.loads(text, object_pairs_hook=_without_doubles, parse_int=_whole)
    except json.JSONDecodeError as error:
        return RawRow(line, fault=f"it is not JSON: {error.msg} at character {error.colno}")
    except RecursionError:
        return RawRow(line, fault="it is not JSON that can be read: too deeply nested")
    except BadLine as error:
        return RawRow(line, fault=str(error))
    if not isinstance(values, dict):
        return RawRow(line, fault='it is not a JSON object such as {"portrait": "…", "voice": "…"}')
    return RawRow(line, {name: value for name, value in values.items() if value is not None})


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        ((name, _),) = Counter(name for name, _ in pairs).most_common(1)
        raise BadLine(f"{name[:60]!r} is there twice")
    return values


def _whole(digits: str) -> int:
    if len(digits) > LONGEST_NUMBER:
        raise BadLine(f"it holds a number of {len(digits)} digits")
    return int(digits)


def _read_csv(lines: Lines, needed: Sequence[str]) -> Iterator[RawRow]:
    try:
        head = next(lines, "")
        delimiter = max(DELIMITERS, key=head.count)
        named = next(csv.reader([head], delimiter=delimiter), [])
    except (BadLine, csv.Error) as error:
        raise InvalidInput(f"Line 1 of the manifest: {error}. Nothing was sent or spent.") from None
    columns = _check_columns(named, needed)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        line = lines.begin_row()
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


def _check_columns(cells: list[str], needed: Sequence[str]) -> list[str]:
    columns = [cell.strip().lower() for cell in cells]
    counts = Counter(columns)
    faults = [f"there is no column {name!r}" for name in needed if name not in counts]
    faults += [
        f"{name[:60]!r} is not a column"
        for name in counts
        if name not in COLUMNS and not (name.startswith(LABEL) and name != LABEL)
    ]
    faults += [f"{name[:60]!r} is there twice" for name, count in sorted(counts.items()) if count > 1]
    if faults:
        told = "; ".join(faults[:FAULTS_TOLD]) + ("; …" if len(faults) > FAULTS_TOLD else "")
        raise InvalidInput(
            f"The first line of the manifest does not name the columns: {told}. Nothing was sent or spent.",
            hint=f"The columns are {', '.join(COLUMNS)}; {' and '.join(needed)} must be there.",
        )
    return columns


def as_job(raw: RawRow, batch: Batch, base: str) -> AvatarJob | str:
    """The row's job with the batch's defaults, its paths made absolute; or why there is none."""
    if raw.fault:
        return raw.fault
    raw_values, fault = _with_labels(raw.values, batch.labels)
    if fault:
        return fault
    unknown = [name for name in raw_values if name not in COLUMNS]
    if unknown:
        return f"unknown column {unknown[0][:60]!r}; the columns are {', '.join(COLUMNS)}"
    captions = parted(raw_values.get("captions"))
    named = [(name, raw_values.get(name)) for name in NEEDED]
    named += [("captions", each) for each in captions] if isinstance(captions, list) else []
    if "://" in base and (local := [name for name, value in named if _is_local(value)]):
        where = "from the web" if is_link(base) else "in the bucket"
        return f"{local[0]}: a manifest {where} cannot name files of this machine"
    defaults = {
        "prompt": batch.prompt,
        "provider": batch.provider,
        "model": batch.model,
        "language": batch.language,
    }
    values: dict[str, Any] = defaults | raw_values
    for name in NEEDED:
        if isinstance(values.get(name), str):
            values[name] = locate(values[name], base)
    if batch.portrait is not None:
        values.setdefault("portrait", batch.portrait)
    if isinstance(captions, list):
        values["captions"] = [locate(each, base) if isinstance(each, str) else each for each in captions]
    try:
        return AvatarJob.model_validate(values)
    except ValidationError as error:
        return "; ".join(_in_words(fault) for fault in error.errors(include_url=False))


def _with_labels(values: dict[str, Any], defaults: Mapping[str, str]) -> tuple[dict[str, Any], str]:
    """The values with their labels as one object: those of the batch, of `labels`, and of columns `label:<name>`.

    Returns:
        With why they cannot be read, if they cannot.
    """
    rest = {name: value for name, value in values.items() if not name.startswith(LABEL)}
    own = rest.pop("labels", {})
    if isinstance(own, str):
        pairs = [pair.partition("=") for pair in re.split(r"[;\n]", own) if pair.strip()]
        if not all(equals and name.strip() for name, equals, _ in pairs):
            return rest, f"labels: {own[:60]!r} is not written as name=value; name=value"
        own = {name.strip(): value.strip() for name, _, value in pairs}
    if not isinstance(own, dict):
        return rest, "labels: give an object of names and values, or name=value; name=value"
    columns = {name.removeprefix(LABEL): value for name, value in values.items() if name.startswith(LABEL)}
    return rest | {"labels": {**defaults, **own, **columns}}, ""


def _in_words(fault: Any) -> str:
    name = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "missing":
        return f"{name} is missing"
    return f"{name}: {fault['msg']} (it is {shown(str(fault['input'])[:LONGEST_ADDRESS])[:60]!r})"


def locate(source: str, base: str) -> str:
    """An address as it is, a relative path beside the manifest (a folder, or s3://bucket/folder/)."""
    if "://" in source or _is_local(source):
        return source
    return base + source if "://" in base else str(Path(base) / source)


def _is_local(source: Any) -> bool:
    return isinstance(source, str) and source.startswith(("/", "~"))

"""An order: what was brought and asked for, as a form gives it, as it is kept, and as the manifest of a batch."""

import csv
import hashlib
import io
import json
import re
import tempfile
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from http import HTTPStatus
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import Field, ValidationError
from starlette.exceptions import HTTPException

from avatar.batch.manifest import CONTENT_TYPES
from avatar.batch.models import Batch, OnBadRows
from avatar.batch.rows import NEEDED, RawRow, read_rows
from avatar.errors import InvalidInput, ObjectNotFound
from avatar.job.inputs import BROUGHT, ORDERS
from avatar.models import AvatarJob
from avatar.stored_models import Asset, ProviderName, Stored
from avatar.web.uploads import asset_key
from avatar.workspace import Workspace

#: Files of one order.
MOST_FILES = 1000
_ONCE = re.compile(r"[A-Za-z0-9_-]{16,64}")
_ID = re.compile(r"[0-9a-f]{32}")


class Draft(Stored):
    """Files that were brought, by their keys, and what is to be made of them."""

    portraits: tuple[str, ...] = ()
    voices: tuple[str, ...] = ()
    manifest: str = ""
    names: dict[str, str] = Field(default_factory=dict, description="what the files are called, by key")
    prompt: str = "."
    title: str = ""
    language: str = ""
    labels: dict[str, str] = Field(default_factory=dict)
    trim: bool = False

    @classmethod
    def of(cls, pairs: Sequence[tuple[str, str]]) -> "Draft":
        """The order of a form. Raises `InvalidInput` for what no page of ours asks for."""
        given = dict(pairs)
        files = {name: _all(pairs, name) for name in ("portrait", "voice", "manifest")}
        keys = [key for each in files.values() for key in each]
        if len(keys) > MOST_FILES or len(files["manifest"]) > 1:
            raise InvalidInput(f"An order is one manifest at most, and up to {MOST_FILES} files.")
        for key in keys:
            asset_key(key)
        names = {value.partition("=")[0]: value.partition("=")[2] for name, value in pairs if name == "name"}
        order = cls(
            portraits=files["portrait"],
            voices=files["voice"],
            manifest=next(iter(files["manifest"]), ""),
            names={key: names[key][:200] for key in keys if names.get(key)},
            prompt=given.get("prompt", "").strip()[:2500] or ".",
            title=" ".join(given.get("title", "").split())[:200],
            language=given.get("language", "").strip(),
            labels=read_labels(given.get("labels", "")),
            trim="trim" in given,
        )
        order.job("-", "-")  # a language that is none, labels that are too long
        return order

    @property
    def is_batch(self) -> bool:
        return bool(self.manifest) or len(self.voices) > 1

    @property
    def missing(self) -> str:
        """What is still to be brought, in words; empty if nothing is."""
        if self.manifest:
            return ""
        if not self.portraits or not self.voices:
            return "Bring a portrait and a voice, or a manifest with its files."
        if len(self.portraits) > 1:
            return "There are several portraits: keep one, or bring a manifest that says which goes with which voice."
        return ""

    def named(self, key: str) -> str:
        return self.names.get(key, key.rpartition("/")[2])

    def asset(self, key: str) -> str:
        """Where the content of a file lies, which the gallery may show."""
        return asset_key(key)

    def titled(self, voice: str) -> str:
        """What the video of a voice is called: the title that was given, else the name of the voice's file."""
        own = PurePosixPath(self.named(voice)).stem
        return own if self.is_batch or not self.title else self.title

    def job(self, portrait: str, voice: str, **facts: Any) -> AvatarJob:
        """Raises `InvalidInput` in words for a form's reader."""
        given = self.model_dump(include={"prompt", "language", "labels", "trim"})
        try:
            return AvatarJob.model_validate({"portrait": portrait, "voice": voice, **given, **facts})
        except ValidationError as error:
            fault = error.errors(include_url=False)[0]
            raise InvalidInput(
                f"{'.'.join(map(str, fault['loc'])).capitalize()}: {fault['msg']}. Nothing was started."
            ) from None


def _all(pairs: Sequence[tuple[str, str]], name: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(value for given, value in pairs if given == name and value))


def read_labels(text: str) -> dict[str, str]:
    """`name=value`, with commas, semicolons or new lines between. Raises `InvalidInput`."""
    parts = [part.partition("=") for part in re.split(r"[,;\n]", text) if part.strip()]
    if not all(equals and name.strip() and value.strip() for name, equals, value in parts):
        raise InvalidInput("Labels are written as name=value, with commas between. Nothing was changed.")
    return {name.strip()[:100]: value.strip()[:200] for name, _, value in parts}


async def keep_draft(workspace: Workspace, order: Draft) -> str:
    """Its id: the same order, the same id."""
    data = order.model_dump_json().encode()
    order_id = hashlib.sha256(data).hexdigest()[:32]
    await workspace.store.put(f"{ORDERS}{order_id}.json", data, content_type="application/json")
    return order_id


async def read_draft(workspace: Workspace, order_id: str) -> Draft:
    """Raises `ObjectNotFound`."""
    if not _ID.fullmatch(order_id):
        raise ObjectNotFound("There is no such order.")
    return Draft.model_validate_json((await workspace.store.get(f"{ORDERS}{order_id}.json")).data)


def address(workspace: Workspace, key: str) -> str:
    return f"s3://{workspace.store.bucket}/{key}"


async def asset_of(workspace: Workspace, key: str) -> Asset:
    """The content of a file that was brought."""
    stat = await workspace.store.stat(asset_key(key))
    return Asset(key=stat.key, sha256=stat.sha256 or "", size=stat.size, content_type=stat.content_type)


# The manifest of a batch, its files found among those that were brought.
@dataclass(frozen=True)
class ManifestRows:
    """The manifest that a run is given, and the rows that were left out of it, by line, with why."""

    address: str
    good: int
    bad: tuple[tuple[int, str], ...]


async def write_manifest(workspace: Workspace, order: Draft) -> ManifestRows:
    """Put the rows of an order into the store, each with the addresses of its files and a title.

    Raises:
        InvalidInput: the manifest as a whole cannot be read.
    """
    if order.manifest:
        raws, kind = await _read_manifest(workspace, order), order.manifest.rpartition(".")[2]
    else:
        portrait = order.portraits[0]
        raws = [
            RawRow(line, {"portrait": order.named(portrait), "voice": order.named(voice)})
            for line, voice in enumerate(order.voices, start=1)
        ]
        kind = "jsonl"
    finder = _Finder(workspace, order)
    found = [(raw, finder.row(raw)) for raw in raws]
    bad = tuple((raw.line, values) for raw, values in found if isinstance(values, str))
    good = [values for _, values in found if not isinstance(values, str)]
    data = _as_csv(good) if kind == "csv" else _as_jsonl(good)
    name = PurePosixPath(order.manifest).name if order.manifest else "voices.jsonl"
    key = f"{BROUGHT}{hashlib.sha256(data).hexdigest()}/{name}"
    if good:
        await workspace.store.put(key, data, content_type=CONTENT_TYPES[kind])
    return ManifestRows(address(workspace, key), len(good), bad)


async def _read_manifest(workspace: Workspace, order: Draft) -> list[RawRow]:
    with tempfile.TemporaryDirectory(dir=workspace.scratch) as folder:
        path = Path(folder) / PurePosixPath(order.manifest).name
        await workspace.store.download(order.manifest, path)
        return list(read_rows(path))


class _Finder:
    """Finds what rows name among the files that were brought: by the file's name, whatever folder was before it."""

    def __init__(self, workspace: Workspace, order: Draft) -> None:
        self.workspace, self.order = workspace, order
        self._by_name = {_folded(order.named(key)): key for key in (*order.portraits, *order.voices)}

    def row(self, raw: RawRow) -> dict[str, Any] | str:
        """The row's values; or why it cannot be rendered."""
        if raw.fault:
            return raw.fault
        values = dict(raw.values)
        for name in NEEDED:
            given = str(values.get(name, ""))
            if "://" in given or not given:
                continue
            key = self._by_name.get(_folded(given))
            if key is None:
                return f"{name} {given!r} is not among the files that were brought"
            values[name] = address(self.workspace, key)
            if name == "voice":
                values.setdefault("title", PurePosixPath(self.order.named(key)).stem)
        return values


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", PurePosixPath(name.replace("\\", "/")).name).casefold()


def _as_jsonl(rows: Sequence[Mapping[str, Any]]) -> bytes:
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


def _as_csv(rows: Sequence[Mapping[str, Any]]) -> bytes:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode()


def batch_of(order: Draft, rows: ManifestRows, provider: ProviderName, model: str | None) -> Batch:
    """What a run of the order is given; its name and highest price come on top."""
    return Batch(
        manifest=rows.address,
        prompt=order.prompt,
        provider=provider,
        model=model,
        language=order.language,
        labels=order.labels,
        on_bad_rows=OnBadRows.SKIP,
        name=order.title[:100],
    )


# What the forms that start something carry.
def check_price(fields: Mapping[str, str], price: Decimal) -> None:
    """Raise 409 unless the price that was shown is still the price."""
    try:
        shown = Decimal(fields.get("price", ""))
    except InvalidOperation:
        shown = Decimal(-1)
    if shown != price:
        text = f"The price is ${price:.2f} now, and is not what was shown. Nothing was started; look at it again."
        raise HTTPException(HTTPStatus.CONFLICT, text)


def once_key(fields: Mapping[str, str]) -> str:
    """What makes a form that is sent twice the same run."""
    once = fields.get("once", "")
    if not _ONCE.fullmatch(once):
        raise InvalidInput("This form is not complete. Nothing was started.")
    return once


def as_parameters(job: AvatarJob) -> dict[str, Any]:
    """The job as the run's form takes it: there, an amount is a number."""
    plain = job.model_dump(mode="json", exclude_unset=True)
    return plain | ({} if job.max_cost is None else {"max_cost": float(job.max_cost)})

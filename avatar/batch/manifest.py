"""Where the rows of a batch come from: a manifest on this machine or in the store, or a template."""

import asyncio
import hashlib
import json
import re
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from avatar.batch.models import Batch
from avatar.batch.rows import LONGEST_LINE
from avatar.errors import InvalidInput
from avatar.job.inputs import local_path, open_input
from avatar.models import shown
from avatar.settings import start_directory
from avatar.store.by_day import BATCHES, note_day
from avatar.store.objects import hash_file
from avatar.workspace import Workspace

#: Raise when the same manifest comes to mean other jobs.
BATCH_VERSION = 1
#: Ends of names that say how a manifest is written.
KINDS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv"}
#: Largest manifest read, in bytes.
LARGEST = 2 * 1024**3
#: What is in quotes, whatever is in it; without them a run up to what parts columns.
_CELL = re.compile(rb'"[^"]*|[^\s",;]+')
_LINK = re.compile(rb"(?i)https?:\\?/\\?/")
_QUERY = re.compile(rb"[?#]")
CONTENT_TYPES = {"jsonl": "application/x-ndjson", "csv": "text/csv"}


@dataclass(frozen=True)
class Manifest:
    """A manifest at hand.

    Attributes:
        batch_id: names the batch by the manifest's content, where it lies, and the defaults for its rows.
        path: a copy on this machine.
        base: what relative paths in it are beside.
    """

    batch_id: str
    path: Path
    base: str


def batch_prefix(batch_id: str) -> str:
    return f"batches/{batch_id}/"


@asynccontextmanager
async def open_manifest(workspace: Workspace, batch: Batch) -> AsyncIterator[Manifest]:
    """The manifest as a file for as long as the block runs.

    A copy is kept as `batches/<id>/manifest.<kind>`, its links without their queries, which may be signatures.

    Raises:
        InvalidInput: it is not there, too large, or of no kind that is read.
        SourceUnavailable: the server of an https:// address did not answer.
        StoreUnavailable: the store failed.
    """
    with tempfile.TemporaryDirectory(dir=workspace.scratch) as folder:
        if batch.manifest is None:
            path, base = Path(folder) / "manifest.jsonl", str(start_directory())
            await _write_template(workspace, batch, path)
        else:
            path, base = (
                Path(folder) / f"manifest.{_kind(batch.manifest)}",
                _beside(workspace, batch.manifest),
            )
            async with open_input(workspace, batch.manifest, what="manifest") as source:
                await asyncio.to_thread(_copy, source, path)
        sha256 = await asyncio.to_thread(hash_file, path)
        manifest = Manifest(_identify(sha256, base, batch), path, base)
        await _keep_copy(workspace, manifest, Path(folder) / "copy")
        yield manifest


async def _keep_copy(workspace: Workspace, manifest: Manifest, copy: Path) -> None:
    await asyncio.to_thread(_copy_without_queries, manifest.path, copy)
    await note_day(workspace.store, BATCHES, batch_prefix(manifest.batch_id).removesuffix("/"))
    await workspace.store.put_file(
        batch_prefix(manifest.batch_id) + manifest.path.name,
        copy,
        content_type=CONTENT_TYPES[manifest.path.suffix[1:]],
        sha256=await asyncio.to_thread(hash_file, copy),
    )


def _kind(address: str) -> str:
    kind = KINDS.get(Path(shown(address)).suffix.lower())
    if kind is None:
        raise InvalidInput(
            f"The manifest {shown(address)!r} is neither .jsonl nor .csv. Nothing was sent or spent.",
            hint="Name it by how it is written: one JSON object a line, or a table with a line of column names.",
        )
    return kind


def _beside(workspace: Workspace, address: str) -> str:
    if "://" in address:
        return shown(address).rpartition("/")[0] + "/"
    return str(local_path(workspace, address, what="manifest").parent)


def _copy(source: Path, target: Path) -> None:
    """In pieces: a manifest may be large."""
    size = source.stat().st_size
    if size > LARGEST:
        raise InvalidInput(
            f"The manifest has {size:,} bytes; no more than {LARGEST:,} are read. Nothing was sent or spent.",
            hint="Split it into several.",
        )
    with source.open("rb") as given, target.open("wb") as kept:
        while piece := given.read(1024 * 1024):
            kept.write(piece)


def _copy_without_queries(source: Path, target: Path) -> None:
    with source.open("rb") as given, target.open("wb") as kept:
        begun = False
        while line := given.readline(LONGEST_LINE):
            rest, begun = begun, not line.endswith(b"\n") and len(line) == LONGEST_LINE
            if rest or begun:  # of a line too long for a row; a link may be cut in two here
                continue
            kept.write(_CELL.sub(_without_query, line) if _LINK.search(line) else line)


def _without_query(cell: re.Match[bytes]) -> bytes:
    link = _LINK.search(cell[0])
    query = _QUERY.search(cell[0], link.end()) if link else None
    return cell[0][: query.start()] if query else cell[0]


def _identify(sha256: str, base: str, batch: Batch) -> str:
    # A batch that names no model keeps the name that it had before there were several.
    parts: list[object] = [
        BATCH_VERSION,
        sha256,
        base,
        batch.prompt,
        batch.provider,
        *filter(None, [batch.model]),
    ]
    if batch.manifest is not None and batch.portrait is not None:
        parts.append({"portrait": shown(batch.portrait)})
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


async def _write_template(workspace: Workspace, batch: Batch, path: Path) -> None:
    with path.open("w", encoding="utf-8") as file:
        for given in batch.voices:
            for voice in await _expand(workspace, given):
                file.write(json.dumps({"portrait": batch.portrait, "voice": voice}) + "\n")


async def _expand(workspace: Workspace, voice: str) -> list[str]:
    """The files of a folder in the order of their names; a file is itself."""
    if not voice.endswith("/"):
        return [voice]
    root = f"s3://{workspace.store.bucket}/"
    if voice.startswith(root):
        stats = await workspace.store.list(voice.removeprefix(root), recursive=False)
        found = [root + stat.key for stat in stats if not stat.key.endswith("/")]
    else:
        folder = local_path(workspace, voice, what="folder of voices")
        listed = await asyncio.to_thread(lambda: sorted(folder.iterdir()) if folder.is_dir() else [])
        found = [str(path) for path in listed if path.is_file() and not path.name.startswith(".")]
    if not found:
        raise InvalidInput(f"There is no file in the folder of voices {voice!r}. Nothing was sent or spent.")
    return found

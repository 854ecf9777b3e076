"""Files from a browser, part by part into the store: what was cut off goes on where it stopped, also after a restart.

`desk/uploads/<id>/` has the parts until the file is whole; then it lies, named as its owner named it, at
`desk/files/<sha256>/<name>`.
"""

import asyncio
import hashlib
import re
import secrets
import tempfile
import unicodedata
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from pathlib import Path, PurePosixPath

from pydantic import BaseModel, Field, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from avatar.batch.manifest import CONTENT_TYPES, KINDS
from avatar.errors import InvalidInput, ObjectNotFound
from avatar.job.inputs import BROUGHT, store_file
from avatar.media.kinds import sniff
from avatar.store.objects import Stat, hash_file
from avatar.web.users import COOKIE, FormTokens, RateLimit
from avatar.workspace import Workspace

UPLOADS = "desk/uploads/"
#: Largest part, in bytes, and how many are held in memory at a time.
LARGEST_PART, PARTS_AT_ONCE = 8 * 1024 * 1024, 4
#: New files and parts a minute, over all visitors.
FILES_A_MINUTE, PARTS_A_MINUTE = 300, 1200
#: Largest manifest that is taken here, in bytes.
LARGEST_MANIFEST = 1024 * 1024
#: Parts of files that nobody went on with are removed after this.
ABANDONED = timedelta(days=1)
_ID = re.compile(r"[0-9a-f]{32}")
_WHAT = {"image": "portrait", "audio": "voice", "video": "voice"}
_NO_STORE = {"cache-control": "no-store"}


class AnnouncedFile(BaseModel):
    """What a browser says of a file before it sends it."""

    name: str = Field(min_length=1, max_length=300)
    size: int = Field(ge=1)


class PartialUpload(AnnouncedFile):
    """A file on its way. `owner` is a digest of the session that began it; `key` and `what` once it is whole."""

    owner: str
    key: str = ""
    what: str = ""

    @property
    def is_manifest(self) -> bool:
        return PurePosixPath(self.name).suffix.lower() in KINDS


@dataclass
class Uploads:
    """The files that visitors bring."""

    workspace: Workspace
    visitors: FormTokens
    files: RateLimit = field(default_factory=lambda: RateLimit(FILES_A_MINUTE))
    parts: RateLimit = field(default_factory=lambda: RateLimit(PARTS_A_MINUTE))
    _memory: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(PARTS_AT_ONCE))
    _cleaned: datetime | None = None

    def routes(self) -> list[Route]:
        return [
            Route("/uploads", self.begin, methods=["POST"]),
            Route("/uploads/{id}", self.look),
            Route("/uploads/{id}", self.add, methods=["PATCH"]),
        ]

    async def begin(self, request: Request) -> Response:
        """Announce a file: its name and size. The answer is its id."""
        self.visitors.check(request, request.headers.get("x-csrf-token", ""))
        self.files.spend()
        try:
            announced = AnnouncedFile.model_validate_json(await _read(request, 4096))
        except ValidationError:
            raise HTTPException(HTTPStatus.BAD_REQUEST, "Give the file's name and size.") from None
        most = self.workspace.settings.download.max_input_bytes
        upload = PartialUpload(**announced.model_dump(), owner=_owner(request))
        most = min(most, LARGEST_MANIFEST) if upload.is_manifest else most
        if upload.size > most:
            raise HTTPException(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"{upload.name} has {upload.size:,} bytes; up to {most:,} are taken.",
            )
        await self._clean()
        name = secrets.token_hex(16)
        await self._keep(name, upload)
        return JSONResponse(
            {"id": name, "offset": 0, "part": LARGEST_PART // 2}, HTTPStatus.CREATED, _NO_STORE
        )

    async def look(self, request: Request) -> Response:
        """How many bytes are there, so that the rest can follow."""
        name, upload = await self._find(request)
        return JSONResponse(await self._told(name, upload), headers=_NO_STORE)

    async def add(self, request: Request) -> Response:
        """The bytes from `Upload-Offset` on. A part counts once all of it arrived; the last makes the file whole."""
        self.visitors.check(request, request.headers.get("x-csrf-token", ""))
        self.parts.spend()
        name, upload = await self._find(request)
        told = await self._told(name, upload)
        given = request.headers.get("upload-offset", "")
        if upload.key or not given.isdecimal() or int(given) != told["offset"]:
            return JSONResponse(told, HTTPStatus.OK if upload.key else HTTPStatus.CONFLICT, _NO_STORE)
        async with self._memory:
            body = await _read(request, min(LARGEST_PART, upload.size - int(given)))
            if int(given) == 0:
                _require_kind(upload, body)
            if body:
                key = f"{UPLOADS}{name}/part-{int(given):012}"
                await self.workspace.store.put(key, body, content_type="application/octet-stream")
        if int(given) + len(body) == upload.size:
            upload = await self._finish(name, upload)
        return JSONResponse(await self._told(name, upload), headers=_NO_STORE)

    async def _find(self, request: Request) -> tuple[str, PartialUpload]:
        """An upload of this session. Raises 404 for any other."""
        name = request.path_params["id"]
        try:
            blob = (
                await self.workspace.store.get(f"{UPLOADS}{name}/upload.json")
                if _ID.fullmatch(name)
                else None
            )
        except ObjectNotFound:
            blob = None
        upload = PartialUpload.model_validate_json(blob.data) if blob else None
        if upload is None or not secrets.compare_digest(upload.owner, _owner(request)):
            raise HTTPException(HTTPStatus.NOT_FOUND)
        return name, upload

    async def _told(self, name: str, upload: PartialUpload) -> dict[str, str | int]:
        if upload.key:
            return {"offset": upload.size, "key": upload.key, "what": upload.what, "name": upload.name}
        return {"offset": sum(stat.size for stat in await self._parts(name))}

    async def _parts(self, name: str) -> list[Stat]:
        """Those that follow one another from the beginning."""
        found, end = [], 0
        for stat in await self.workspace.store.list(f"{UPLOADS}{name}/part-"):
            if int(stat.key.rpartition("-")[2]) == end:
                found.append(stat)
                end += stat.size
        return found

    async def _keep(self, name: str, upload: PartialUpload) -> None:
        data = upload.model_dump_json().encode()
        key = f"{UPLOADS}{name}/upload.json"
        await self.workspace.store.put(key, data, content_type="application/json")

    async def _finish(self, name: str, upload: PartialUpload) -> PartialUpload:
        parts = await self._parts(name)
        with tempfile.TemporaryDirectory(dir=self.workspace.scratch) as folder:
            path = Path(folder) / "file"
            with path.open("wb") as file:
                for stat in parts:
                    async for chunk in self.workspace.store.stream(stat.key):
                        await asyncio.to_thread(file.write, chunk)
            key, what = await (self._keep_manifest if upload.is_manifest else self._keep_media)(upload, path)
        whole = upload.model_copy(update={"key": key, "what": what})
        await self._keep(name, whole)
        for stat in parts:
            await self.workspace.store.remove(stat.key)
        return whole

    async def _keep_media(self, upload: PartialUpload, path: Path) -> tuple[str, str]:
        asset = await store_file(self.workspace, path)
        key = f"{BROUGHT}{asset.sha256}/{plain_file_name(upload.name)}.{asset.key.rpartition('.')[2]}"
        await self.workspace.store.copy(asset.key, key)  # over an older one, too: its days begin anew
        return key, _WHAT[asset.content_type.partition("/")[0]]

    async def _keep_manifest(self, upload: PartialUpload, path: Path) -> tuple[str, str]:
        kind = KINDS[PurePosixPath(upload.name).suffix.lower()]
        sha256 = await asyncio.to_thread(hash_file, path)
        key = f"{BROUGHT}{sha256}/{plain_file_name(upload.name)}.{kind}"
        await self.workspace.store.put_file(key, path, content_type=CONTENT_TYPES[kind], sha256=sha256)
        return key, "manifest"

    async def _clean(self) -> None:
        """Once an hour: remove the parts of files that were left."""
        now = datetime.now(UTC)
        if self._cleaned and now - self._cleaned < timedelta(hours=1):
            return
        self._cleaned = now
        for stat in await self.workspace.store.list(UPLOADS):
            if now - stat.modified > ABANDONED:
                await self.workspace.store.remove(stat.key)


def _owner(request: Request) -> str:
    return hashlib.sha256(f"uploads of {request.cookies.get(COOKIE, '')}".encode()).hexdigest()


async def _read(request: Request, most: int) -> bytes:
    """The body. Raises 413 beyond `most` bytes."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > most:
            raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "More was sent than was announced.")
    return bytes(body)


def _require_kind(upload: PartialUpload, start: bytes) -> None:
    """Raise 415 unless the first bytes are those of a picture, a sound, or a manifest's text."""
    if upload.is_manifest:
        return
    if sniff(start[:64])[1].partition("/")[0] not in _WHAT:
        raise HTTPException(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            f"{upload.name} is neither a picture, a sound nor a manifest (.csv, .jsonl).",
        )


def plain_file_name(name: str) -> str:
    """A file's name without its ending, as every store takes it."""
    stem = PurePosixPath(name.replace("\\", "/")).stem
    ascii_only = unicodedata.normalize("NFKD", stem).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9._=-]+", "-", ascii_only).strip("-.")[:80] or "file"


def asset_key(key: str) -> str:
    """Where a brought file lies by its content. Raises `InvalidInput` for what was not brought here."""
    found = re.fullmatch(rf"{BROUGHT}([0-9a-f]{{64}})/[A-Za-z0-9._=-]+\.([a-z0-9]+)", key)
    if found is None:
        raise InvalidInput("Only files that were brought to this page can be used.")
    return f"assets/{found[1]}.{found[2]}"

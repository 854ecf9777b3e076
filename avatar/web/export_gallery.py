"""The gallery as a folder that opens from disk: the same pages, with the videos beside them."""

import asyncio
import base64
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from avatar.errors import InvalidInput, ObjectNotFound
from avatar.job.index import (
    UNREADABLE,
    Summary,
    list_manifests,
    newest_first,
    read_summary,
    read_video,
    summarise_manifest,
)
from avatar.models import Video
from avatar.money.journal import is_indexed
from avatar.store.objects import check_key
from avatar.waiting import in_turns
from avatar.web.gallery import STATIC, STATIC_FILES, read_histories
from avatar.web.media import served_key
from avatar.web.pages import Links, Pages, page_file
from avatar.web.video_list import PER_PAGE, Page, Query
from avatar.workspace import Workspace

#: Videos copied at a time.
COPIES = 3
#: What tells a folder of ours: its pages are overwritten, nobody else's are.
MARKER = ".avatar-gallery"


@dataclass
class Exported:
    """What an export did. `copied` and `unchanged` count files; `missing` are keys the store no longer has."""

    videos: int = 0
    copied: int = 0
    unchanged: int = 0
    missing: list[str] = field(default_factory=list)


async def export_gallery(workspace: Workspace, folder: Path) -> Exported:
    """Write every video and its page into `folder`. Repeated, it fetches only what is new.

    What the store no longer has stays in the folder: it may be the last copy.

    Raises:
        InvalidInput: the folder holds something else.
        StoreUnavailable: the store failed. What was written stays, and is not fetched again.
    """
    await asyncio.to_thread(_claim, folder)
    return await _Export(workspace, folder).run()


class _Export:
    def __init__(self, workspace: Workspace, folder: Path) -> None:
        self.workspace, self.folder, self.pages = workspace, folder, Pages()
        self.done, self.kept = Exported(), set[str]()

    async def run(self) -> Exported:
        summaries = list({each.job_id: each for each in await self._listed()}.values())
        readable = [each.job_id for each in summaries if each.state != UNREADABLE]
        videos = [video for video in await in_turns(self._read, readable) if video]
        gone = set(readable) - {video.job_id for video in videos}
        summaries = [each for each in summaries if each.job_id not in gone]
        # A portrait or a voice may belong to many videos, and is copied once.
        await in_turns(self._copy, {key for video in videos for key in exported_keys(video)}, abreast=COPIES)
        for name in STATIC_FILES:
            await self._write(Path("static") / name, (STATIC / name).read_bytes())
        await in_turns(self._player, videos)
        await self._index(summaries)
        self.done.videos = len(summaries)
        self.done.missing.sort()
        return self.done

    async def _listed(self) -> list[Summary]:
        """Newest first. From the manifests themselves where they are not all indexed: an export writes no object."""
        store = self.workspace.store
        if await is_indexed(store):
            keys = [stat.key async for day in newest_first(store) for stat in day]
            read = await in_turns(lambda key: read_summary(store, key), keys)
            return [each for each in read if each is not None]
        read = await in_turns(lambda stat: summarise_manifest(store, stat), await list_manifests(store))
        return sorted((each for each in read if each is not None), key=lambda each: each.key, reverse=True)

    async def _read(self, job_id: str) -> Video | None:
        """None if it was removed since it was listed, or damaged."""
        try:
            return await read_video(self.workspace.store, job_id)
        except (ObjectNotFound, InvalidInput):
            return None

    async def _player(self, video: Video) -> None:
        histories = await read_histories(self.workspace.journal, video.renders)
        texts = {
            each.key: _as_data(self.folder / "media" / each.key)
            for each in video.captions
            if each.key in self.kept
        }
        html = self.pages.player(video, histories, replace(self._links("../"), texts=texts))
        await self._write(Path("videos") / f"{video.job_id}.html", html.encode())

    async def _index(self, summaries: Sequence[Summary]) -> None:
        pages = max(1, -(-len(summaries) // PER_PAGE))
        for number in range(1, pages + 1):
            shown = summaries[(number - 1) * PER_PAGE : number * PER_PAGE]
            page = Page(Query(), shown, older=page_file(number + 1) if number < pages else "")
            await self._write(Path(page_file(number)), self.pages.index(page, self._links("")).encode())

    def _links(self, root: str) -> Links:
        return Links(root, folder=True, kept=frozenset(self.kept))

    async def _copy(self, key: str) -> None:
        try:
            await self._fetch(check_key(served_key(key)))
        except (InvalidInput, ObjectNotFound):
            self.done.missing.append(key)
        else:
            self.kept.add(key)

    async def _fetch(self, key: str) -> None:
        """Bring an object unless the folder has it: same size, same time."""
        stat = await self.workspace.store.stat(key)
        path, at = self.folder / "media" / key, stat.modified.timestamp()
        if _matches(path, stat.size, at):
            self.done.unchanged += 1
            return
        await self.workspace.store.download(key, path)
        os.utime(path, (at, at))
        self.done.copied += 1

    async def _write(self, name: Path, data: bytes) -> None:
        await asyncio.to_thread(_write_changed, self.folder / name, data)


def exported_keys(video: Video) -> Iterable[str]:
    """What a player's page shows. The renders as the provider made them stay in the store."""
    keys = [video.key, video.poster_key, video.portrait.asset.key, video.voice.source.key]
    keys += [caption.key for caption in video.captions]
    keys += [form.key for form in video.forms]
    return [*keys, video.contact_key] if video.contact_key else keys


def _as_data(path: Path) -> str:
    return f"data:text/vtt;base64,{base64.b64encode(path.read_bytes()).decode()}"


def _claim(folder: Path) -> None:
    mark = folder / MARKER
    if folder.exists() and not mark.is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise InvalidInput(
            f"{folder} is there already and holds no exported gallery. Nothing was written.",
            hint="Name a new folder, or one that was exported to before.",
        )
    folder.mkdir(parents=True, exist_ok=True)
    if not mark.exists():
        mark.touch()


def _matches(path: Path, size: int, at: float) -> bool:
    try:
        found = path.stat()
    except FileNotFoundError:
        return False
    return (found.st_size, int(found.st_mtime)) == (size, int(at))


def _write_changed(path: Path, data: bytes) -> None:
    if path.is_file() and path.read_bytes() == data:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.draft")
    draft.write_bytes(data)
    draft.replace(path)

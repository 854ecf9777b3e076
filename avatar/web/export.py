"""The gallery as a folder that opens from disk: the same pages, with the videos beside them."""

import asyncio
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from avatar.errors import InvalidInput, ObjectNotFound
from avatar.models import Video
from avatar.store.objects import check_key
from avatar.web.catalogue import UNREADABLE, Card, Catalogue, Wanted, read_video, shelve, together
from avatar.web.gallery import STATIC, STATIC_FILES, tell_stories
from avatar.web.media import served_key
from avatar.web.pages import Links, Pages, page_file
from avatar.workspace import Workspace

#: Videos copied at a time.
COPIES = 3
#: What tells a folder of ours: its pages are overwritten, nobody else's are.
MARK = ".avatar-gallery"


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
        self.done, self.kept, self.gate = Exported(), set[str](), asyncio.Semaphore(COPIES)
        self.videos: list[Video] = []

    async def run(self) -> Exported:
        cards = await Catalogue(self.workspace.store).cards()
        await together(self._read(card) for card in cards if card.state != UNREADABLE)
        # A portrait or a voice may belong to many videos, and is copied once.
        await together(
            self._copy(key) for key in {key for video in self.videos for key in exported_keys(video)}
        )
        for name in STATIC_FILES:
            await self._write(Path("static") / name, (STATIC / name).read_bytes())
        await together(self._player(video) for video in self.videos)
        await self._index(cards)
        self.done.videos = len(cards)
        self.done.missing.sort()
        return self.done

    async def _read(self, card: Card) -> None:
        async with self.gate:
            self.videos.append(await read_video(self.workspace.store, card.job_id))

    async def _player(self, video: Video) -> None:
        async with self.gate:
            stories = await tell_stories(self.workspace.journal, video.renders)
        html = self.pages.player(video, stories, self._links("../"))
        await self._write(Path("videos") / f"{video.job_id}.html", html.encode())

    async def _index(self, cards: Sequence[Card]) -> None:
        for number in range(1, shelve(cards, Wanted()).pages + 1):
            html = self.pages.index(shelve(cards, Wanted(page=number)), self._links(""))
            await self._write(Path(page_file(number)), html.encode())

    def _links(self, root: str) -> Links:
        return Links(root, folder=True, kept=frozenset(self.kept))

    async def _copy(self, key: str) -> None:
        try:
            async with self.gate:
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
    return [*keys, video.contact_key] if video.contact_key else keys


def _claim(folder: Path) -> None:
    mark = folder / MARK
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

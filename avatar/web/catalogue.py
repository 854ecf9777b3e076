"""One page of the list: what was searched for, and what of it is shown."""

import asyncio
import time
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import Any
from urllib.parse import urlencode

from pydantic import ValidationError

from avatar.errors import InvalidInput, ObjectNotFound, StoreUnavailable
from avatar.models import Video
from avatar.store.objects import Stat
from avatar.store.store import Store


# Many calls at once, of which the first to fail ends the rest.
async def together(calls: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Run all; a failure is raised as it is, once the others have been ended: a dead store is not asked on."""
    tasks = [asyncio.create_task(call) for call in calls]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


# The catalogue: one card for each video in the store, kept in memory and brought up to date by one listing.
#: Seconds for which a listing counts as the present.
FRESH = 3.0
#: A listing older than this many seconds is not shown: a page waits for the next one, however long it takes.
STALE = 60.0
#: Between the two, a page waits this long, in seconds, and then shows what is known.
PATIENCE = 0.1
#: Manifests read at a time; the store has twice as many threads, and videos are to play meanwhile.
READERS = 8

_MANIFEST = "manifest.json"
UNREADABLE = "unreadable"


@dataclass(frozen=True)
class Card:
    """What a list shows of one video. `fault` is why its manifest cannot be read, empty if it can."""

    job_id: str
    etag: str
    at: datetime
    state: str
    provider: str = ""
    title: str = ""
    seconds: float = 0.0
    billed: Decimal = Decimal(0)
    poster_key: str = ""
    fault: str = ""
    text: str = ""


class Catalogue:
    """Cards, newest first. A store that fails is an error here, never an empty list."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._cards: tuple[Card, ...] = ()
        self._looked: float | None = None
        self._failure: StoreUnavailable | None = None
        self._look: asyncio.Task[None] | None = None

    async def cards(self) -> tuple[Card, ...]:
        """Every card, at most `STALE` seconds old, and as new as it gets where listing takes `PATIENCE` or less.

        Raises:
            StoreUnavailable: the last look at the store failed.
        """
        age = float("inf") if self._looked is None else time.monotonic() - self._looked
        if age > FRESH:
            look = self.begin()
            await asyncio.wait({look}, timeout=PATIENCE if age <= STALE else None)
            if look.done():
                look.result()
        if self._failure is not None:
            raise StoreUnavailable(self._failure.message, hint=self._failure.hint)
        return self._cards

    def begin(self) -> "asyncio.Task[None]":
        """Start looking at the store, unless a look is under way."""
        if self._look is None or self._look.done():
            self._look = asyncio.create_task(self._refresh())
        return self._look

    async def aclose(self) -> None:
        """Give up a look under way."""
        if self._look is not None:
            self._look.cancel()
            await asyncio.wait({self._look})

    async def _refresh(self) -> None:
        began = time.monotonic()
        try:
            self._cards = await self._read_changed()
        except StoreUnavailable as failure:
            self._failure = failure
        else:
            self._failure, self._looked = None, began

    async def _read_changed(self) -> tuple[Card, ...]:
        known = {(card.job_id, card.etag): card for card in self._cards}
        listed = [stat for stat in await self._store.list("videos/") if _is_manifest(stat.key)]
        marks = {(_job_id(stat), stat.etag): stat for stat in listed}
        found = [card for mark, card in known.items() if mark in marks]
        gate = asyncio.Semaphore(READERS)

        async def read(stat: Stat) -> None:
            async with gate:
                with suppress(ObjectNotFound):  # removed since it was listed
                    found.append(await read_card(self._store, stat))

        await together(read(stat) for mark, stat in marks.items() if mark not in known)
        return tuple(sorted(found, key=lambda card: (card.at, card.job_id), reverse=True))


def _is_manifest(key: str) -> bool:
    parts = key.split("/")
    return len(parts) == len(("videos", "job", _MANIFEST)) and parts[-1] == _MANIFEST


def _job_id(stat: Stat) -> str:
    return stat.key.split("/")[1]


async def read_card(store: Store, stat: Stat) -> Card:
    """The card of one manifest. Raises `ObjectNotFound`, `StoreUnavailable`."""
    job_id = _job_id(stat)
    try:
        video = await read_video(store, job_id)
    except InvalidInput as error:
        return Card(job_id, stat.etag, stat.modified, UNREADABLE, fault=error.message, text=job_id.casefold())
    return Card(
        job_id=job_id,
        etag=stat.etag,
        at=video.published_at,
        state=video.state,
        provider=video.provider,
        title=title_of(video),
        seconds=video.seconds,
        billed=video.cost.billed,
        poster_key=video.poster_key,
        text=_searchable(video),
    )


async def read_video(store: Store, job_id: str) -> Video:
    """A job's manifest.

    Raises:
        InvalidInput: it is damaged, or was written by another version.
        ObjectNotFound: there is none.
        StoreUnavailable: the store failed.
    """
    blob = await store.get(f"videos/{job_id}/{_MANIFEST}")
    try:
        video = Video.model_validate_json(blob.data)
    except ValidationError as error:
        raise InvalidInput(
            f"This manifest cannot be read ({error.error_count()} faults). It was written by another version of "
            "avatar-flows, or damaged; the files beside it are untouched."
        ) from error
    if video.job_id != job_id:
        raise InvalidInput(f"This manifest names another job, {video.job_id}. The files are untouched.")
    return video


def title_of(video: Video) -> str:
    """What people recognise a video by: its prompt, or its job."""
    prompt = " ".join(video.prompt.split())
    return prompt if prompt.strip(".") else f"Job {video.job_id[:12]}"


def _searchable(video: Video) -> str:
    assets = (video.portrait.source, video.portrait.asset, video.voice.source)
    words = [video.job_id, video.prompt, video.provider, video.model, video.state]
    words += [asset.key.rpartition("/")[2] for asset in assets]
    words += [word for render in video.renders for word in (render.render_id, render.request_id)]
    return "\n".join(words).casefold()


PER_PAGE = 24
#: Pages named on either side of the one that is shown.
NEIGHBOURS = 2


@dataclass(frozen=True)
class Wanted:
    """A search, as it stands in the page's address."""

    words: str = ""
    state: str = ""
    provider: str = ""
    page: int = 1

    @classmethod
    def of(cls, query: Mapping[str, str]) -> "Wanted":
        """What an address asks for; a page that is no number is the first."""
        number = query.get("page", "")
        page = int(number) if number.isascii() and number.isdigit() and len(number) < len("1000000") else 1
        words = " ".join(query.get("q", "").split())[:200]
        return cls(words, query.get("state", ""), query.get("provider", ""), max(page, 1))

    def at(self, page: int) -> "Wanted":
        return replace(self, page=page)

    def query(self) -> str:
        """The address's query, without what is at its default."""
        page = str(self.page) if self.page > 1 else ""
        pairs = {"q": self.words, "state": self.state, "provider": self.provider, "page": page}
        return urlencode({name: value for name, value in pairs.items() if value})

    @property
    def narrows(self) -> bool:
        return bool(self.words or self.state or self.provider)

    def takes(self, card: Card) -> bool:
        """Whether a card is of the state and provider, and has every word somewhere."""
        return (
            self.state in {"", card.state}
            and self.provider in {"", card.provider}
            and all(word in card.text for word in self.words.casefold().split())
        )


@dataclass(frozen=True)
class Shelf:
    """One page of cards.

    Attributes:
        found: how many cards the search takes, on all pages.
        stored: how many there are without it.
        pages: how many pages the search has; at least one.
        numbers: the pages to offer, 0 for a gap.
    """

    wanted: Wanted
    cards: Sequence[Card]
    found: int
    stored: int
    pages: int
    numbers: tuple[int, ...]
    states: tuple[str, ...]
    providers: tuple[str, ...]


def shelve(cards: Sequence[Card], wanted: Wanted) -> Shelf:
    """The page of `cards` that is wanted; past the end, the last."""
    found = [card for card in cards if wanted.takes(card)] if wanted.narrows else cards
    pages = max(1, -(-len(found) // PER_PAGE))
    page = min(wanted.page, pages)
    return Shelf(
        wanted=wanted.at(page),
        cards=found[(page - 1) * PER_PAGE : page * PER_PAGE],
        found=len(found),
        stored=len(cards),
        pages=pages,
        numbers=_numbers(page, pages),
        states=tuple(sorted({card.state for card in cards} | {wanted.state} - {""})),
        providers=tuple(sorted({card.provider for card in cards} | {wanted.provider} - {""})),
    )


def _numbers(page: int, pages: int) -> tuple[int, ...]:
    near = {1, pages} | set(range(max(1, page - NEIGHBOURS), min(pages, page + NEIGHBOURS) + 1))
    numbers: list[int] = []
    for number in sorted(near):
        if numbers and number - numbers[-1] > 1:
            numbers.append(0)
        numbers.append(number)
    return tuple(numbers)

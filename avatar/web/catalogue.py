"""One page of the list of videos: what was asked for, and what of the index is shown. Only what a page needs is read."""

import re
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from urllib.parse import urlencode

from avatar.job.index import VIDEOS, Summary, in_turns, newest_first, read_summary
from avatar.models import ProviderName, VideoState
from avatar.store.objects import Stat
from avatar.store.store import Store

PER_PAGE = 24
#: Entries read together; as many as a page shows, so that a page without a search reads no more.
ABREAST = 24
#: Entries that one search looks at; a link goes on from there.
MOST_SEARCHED = 2400
#: Summaries kept in memory; one is some 1 kB.
MOST_KEPT = 10_000
STATES = tuple(VideoState)
PROVIDERS = tuple(ProviderName)
_ENTRY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}(/[0-9]{12}-[A-Za-z0-9._=-]{1,64}\.json)?")


@dataclass(frozen=True)
class Query:
    """A search, as it stands in the page's address.

    Attributes:
        words: all of them must occur.
        label: `key=value`, or empty.
        before: the entry of the index after which the page begins; empty for the newest.
    """

    words: str = ""
    state: str = ""
    provider: str = ""
    label: str = ""
    before: str = ""

    @classmethod
    def of(cls, query: Mapping[str, str]) -> "Query":
        """What an address asks for; a place that is none is the beginning."""
        before = query.get("before", "")
        words = " ".join(query.get("q", "").split())[:200]
        return cls(
            words=words,
            state=query.get("state", "")[:40],
            provider=query.get("provider", "")[:40],
            label=query.get("label", "")[:200],
            before=before if _ENTRY.fullmatch(before) else "",
        )

    def at(self, before: str) -> "Query":
        return replace(self, before=before)

    def text(self) -> str:
        """The address's query, without what is at its default."""
        pairs = {
            "q": self.words,
            "state": self.state,
            "provider": self.provider,
            "label": self.label,
            "before": self.before,
        }
        return urlencode({name: value for name, value in pairs.items() if value})

    @property
    def narrows(self) -> bool:
        return bool(self.words or self.state or self.provider or self.label)

    def takes(self, summary: Summary) -> bool:
        """Whether a video is of the state, provider and label, and has every word somewhere."""
        return (
            self.state in {"", summary.state}
            and self.provider in {"", summary.provider}
            and (not self.label or self.label in {f"{k}={v}" for k, v in summary.labels.items()})
            and all(word in summary.text for word in self.words.casefold().split())
        )


@dataclass(frozen=True)
class Page:
    """Videos to be shown, newest first.

    Attributes:
        older: where the next page begins; empty if this is the last.
        searched_to: the day down to which was searched, if there is more behind it than one search looks at.
    """

    query: Query
    videos: Sequence[Summary]
    older: str = ""
    searched_to: str = ""


class Catalogue:
    """Pages of the index. A store that fails is an error here, never an empty list."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._kept: OrderedDict[str, tuple[str, Summary]] = OrderedDict()

    async def page(self, query: Query) -> Page:
        """Raises `StoreUnavailable`."""
        found: dict[str, tuple[Stat, Summary]] = {}
        looked_at = 0
        async for stats in self._chunks(query.before):
            for stat, summary in await self._matching(stats, query):
                if len(found) == PER_PAGE and summary.job_id not in found:
                    last = [each for each, _ in found.values()][-1]
                    return _page(query, found, older=_place(last))
                found.setdefault(summary.job_id, (stat, summary))
            looked_at += len(stats)
            if looked_at >= MOST_SEARCHED:
                place = _place(stats[-1])
                return _page(query, found, older=place, searched_to=place.partition("/")[0])
        return _page(query, found)

    async def _chunks(self, before: str) -> AsyncIterator[list[Stat]]:
        async for day in newest_first(self._store, VIDEOS + before if before else ""):
            for start in range(0, len(day), ABREAST):
                yield day[start : start + ABREAST]

    async def _matching(self, stats: list[Stat], query: Query) -> list[tuple[Stat, Summary]]:
        read = await in_turns(self._read, stats, abreast=ABREAST)
        pairs = zip(stats, read, strict=True)
        return [(stat, summary) for stat, summary in pairs if summary and query.takes(summary)]

    async def _read(self, stat: Stat) -> Summary | None:
        kept = self._kept.get(stat.key)
        if kept and kept[0] == stat.etag:
            self._kept.move_to_end(stat.key)
            return kept[1]
        summary = await read_summary(self._store, stat.key)
        if summary is not None:
            self._kept[stat.key] = stat.etag, summary
            if len(self._kept) > MOST_KEPT:
                self._kept.popitem(last=False)
        return summary


def _page(query: Query, found: Mapping[str, tuple[Stat, Summary]], **facts: str) -> Page:
    return Page(query, tuple(summary for _, summary in found.values()), **facts)


def _place(stat: Stat) -> str:
    """Where the page after this entry begins."""
    return stat.key.removeprefix(VIDEOS)

"""One page of the list of videos: what was asked for, and what of the index is shown. Only what a page needs is read."""

import asyncio
import json
import re
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import groupby
from urllib.parse import urlencode

from avatar.job.index import Summary, newest_first, of_day, parse_summary, read_summary
from avatar.job.month_index import VIDEOS, WORTH, Bundle, list_bundles, list_changes, list_days, read_bundle
from avatar.models import VideoState
from avatar.store.objects import Stat
from avatar.store.store import Store
from avatar.stored_models import ProviderName
from avatar.waiting import in_turns

PER_PAGE = 24
#: Entries read together: as many as a page shows, and the one that tells whether there are older ones.
ABREAST = PER_PAGE + 1
#: Entries that one search reads one by one; a link goes on from there.
MOST_SEARCHED = 600
#: Summaries kept in memory; one is some 1 kB.
MOST_KEPT = 10_000
#: Entries of bundles kept in memory, the newest months': some 1.5 kB each.
MOST_BUNDLED = 50_000
STATES = tuple(VideoState)
PROVIDERS = tuple(ProviderName)
_json = partial(json.dumps, ensure_ascii=False)
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

    @cached_property
    def _bytes(self) -> tuple[bytes, ...]:
        """What the JSON of every entry that this takes has in it."""
        facts = [("state", self.state), ("provider", self.provider), self.label.partition("=")[::2]]
        pairs = [f"{_json(name)}:{_json(value)}" for name, value in facts if value]
        words = [_json(word)[1:-1] for word in self.words.casefold().split()]
        return tuple(each.encode(errors="surrogatepass") for each in (*pairs, *words))

    def may_take(self, body: bytes) -> bool:
        """Whether an entry need be looked at: faster than to read it."""
        return all(each in body for each in self._bytes)

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


@dataclass(frozen=True)
class Candidate:
    """An entry that may belong on a page: read from a bundle, or still to be read, as of `etag`."""

    place: str
    etag: str
    body: bytes | None = None


class VideoList:
    """Pages of the index. A store that fails is an error here, never an empty list.

    Attributes:
        behind: set when a search had to read many entries one by one: they are worth being bundled.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._kept: OrderedDict[str, tuple[str, Summary]] = OrderedDict()
        self._bundles: dict[str, tuple[str, Bundle]] = {}
        self.behind = asyncio.Event()

    async def page(self, query: Query) -> Page:
        """Raises `StoreUnavailable`."""
        found: dict[str, tuple[Candidate, Summary]] = {}
        looked_at = 0
        async for candidates in self._chunks(query):
            for candidate, summary in await self._matching(candidates, query):
                if len(found) == PER_PAGE and summary.job_id not in found:
                    last = [each for each, _ in found.values()][-1]
                    return _page(query, found, older=last.place)
                found.setdefault(summary.job_id, (candidate, summary))
            looked_at += sum(each.body is None for each in candidates)
            if looked_at >= WORTH and query.narrows:
                self.behind.set()
            if looked_at >= MOST_SEARCHED:
                place = candidates[-1].place
                return _page(query, found, older=place, searched_to=place.partition("/")[0])
        return _page(query, found)

    async def _chunks(self, query: Query) -> AsyncIterator[list[Candidate]]:
        source = self._searched(query) if query.narrows else self._listed(query.before)
        async for part in source:
            for start in range(0, len(part), ABREAST):
                yield part[start : start + ABREAST]

    async def _listed(self, before: str) -> AsyncIterator[list[Candidate]]:
        async for part in newest_first(self._store, VIDEOS + before if before else ""):
            yield [_candidate(stat) for stat in part]

    async def _searched(self, query: Query) -> AsyncIterator[list[Candidate]]:
        """Those that may match, month by month: of days gone by from the month's bundle, of the others as listed."""
        kept, changes = await list_bundles(self._store), await list_changes(self._store)
        days = [
            day for day in await list_days(self._store) if not query.before or day <= query.before[: len(day)]
        ]
        for month, of_month in groupby(days, key=lambda day: day[:7]):
            bundle = await self._bundle(kept[month]) if month in kept else Bundle()
            for day in of_month:
                if day > bundle.through:
                    async for part in of_day(self._store, day, VIDEOS + query.before if query.before else ""):
                        yield _may_match(bundle, [_candidate(stat) for stat in part], query)
            changed = {place: notes for place, notes in changes.items() if place.startswith(month)}
            yield await asyncio.to_thread(_in_bundle, bundle, changed, query)

    async def _bundle(self, stat: Stat) -> Bundle:
        known = self._bundles.get(stat.key)
        if known is None or known[0] != stat.etag:
            month = stat.key.rpartition("/")[0]
            known = stat.etag, await read_bundle(self._store, stat)
            self._bundles = {key: each for key, each in self._bundles.items() if not key.startswith(month)}
            if sum(len(each.entries) for _, each in self._bundles.values()) < MOST_BUNDLED:
                self._bundles[stat.key] = known
        return known[1]

    async def _matching(self, candidates: list[Candidate], query: Query) -> list[tuple[Candidate, Summary]]:
        read = await in_turns(self._read, candidates, abreast=ABREAST)
        pairs = zip(candidates, read, strict=True)
        return [(candidate, summary) for candidate, summary in pairs if summary and query.takes(summary)]

    async def _read(self, candidate: Candidate) -> Summary | None:
        if candidate.body is not None:
            return parse_summary(candidate.body)
        kept = self._kept.get(candidate.place)
        if kept and kept[0] == candidate.etag:
            self._kept.move_to_end(candidate.place)
            return kept[1]
        summary = await read_summary(self._store, VIDEOS + candidate.place)
        if summary is not None:
            self._kept[candidate.place] = candidate.etag, summary
            if len(self._kept) > MOST_KEPT:
                self._kept.popitem(last=False)
        return summary


def _candidate(stat: Stat) -> Candidate:
    return Candidate(stat.key.removeprefix(VIDEOS), stat.etag)


def _may_match(bundle: Bundle, listed: list[Candidate], query: Query) -> list[Candidate]:
    """Those listed that are still to be read, or that the bundle has as they are and that may match."""
    known = [
        replace(each, body=entry.body)
        if (entry := bundle.entries.get(each.place)) and entry.etag == each.etag
        else each
        for each in listed
    ]
    return [each for each in known if each.body is None or query.may_take(each.body)]


def _in_bundle(bundle: Bundle, changed: Mapping[str, Sequence[str]], query: Query) -> list[Candidate]:
    """What a bundle has of days gone by, the newest first; what was changed since is to be read, each change once."""
    wanted = [
        Candidate(each.place, each.etag, each.body)
        for each in bundle.entries.values()
        if each.place not in changed and query.may_take(each.body)
    ]
    wanted += [Candidate(place, " ".join(sorted(notes))) for place, notes in changed.items()]
    within = [
        each
        for each in wanted
        if each.place[:10] <= bundle.through and (not query.before or each.place < query.before)
    ]
    return sorted(within, key=lambda each: each.place, reverse=True)


def _page(query: Query, found: Mapping[str, tuple[Candidate, Summary]], **facts: str) -> Page:
    return Page(query, tuple(summary for _, summary in found.values()), **facts)

"""One page of the list: what was searched for, and what of it is shown."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from urllib.parse import urlencode

from flows.gallery.catalogue import Card

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

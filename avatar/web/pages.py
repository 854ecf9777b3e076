"""The pages as HTML: the same templates for the site and for the exported folder."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from urllib.parse import quote, urlsplit

from jinja2 import Environment, PackageLoader, StrictUndefined

from avatar.errors import AvatarError, InvalidInput
from avatar.models import Render, Video, VideoState
from avatar.money.journal import Record
from avatar.web.catalogue import UNREADABLE, Shelf, Wanted, title_of
from avatar.web.media import served_key


@dataclass(frozen=True)
class Links:
    """Addresses on a page, all relative: the gallery works below any path, and from a folder.

    Attributes:
        root: the way from the page to the gallery's root: nothing, or `../` once or more.
        folder: whether the pages are files.
        kept: the keys that are in the folder; None on the site, which has them all.
    """

    root: str = ""
    folder: bool = False
    kept: frozenset[str] | None = None

    def home(self, wanted: Wanted | None = None) -> str:
        wanted = wanted or Wanted()
        if self.folder:
            return self.root + page_file(wanted.page)
        query = wanted.query()
        return f"{self.root or './'}{'?' if query else ''}{query}"

    def player(self, job_id: str) -> str:
        return f"{self.root}videos/{quote(job_id, safe='')}{'.html' if self.folder else ''}"

    def media(self, key: str | None, *, download: bool = False) -> str | None:
        """Where an object is, or None if it cannot be had."""
        try:
            known = key is not None and (self.kept is None or key in self.kept) and served_key(key)
        except InvalidInput:
            return None
        if not known:
            return None
        return f"{self.root}media/{quote(known)}{'?download' if download and not self.folder else ''}"

    def static(self, name: str) -> str:
        return f"{self.root}static/{name}"


def page_file(number: int) -> str:
    return "index.html" if number == 1 else f"page-{number}.html"


@dataclass(frozen=True)
class Story:
    """A render, and what the journal tells about it; `fault` if that cannot be read."""

    render: Render
    records: tuple[Record, ...] = ()
    fault: str = ""


class Pages:
    """Renders the templates. Everything that comes from a manifest is escaped."""

    def __init__(self) -> None:
        self._templates = Environment(
            loader=PackageLoader("avatar.web"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters |= {"length": length, "money": money, "size": size, "moment": moment}

    def index(self, shelf: Shelf, links: Links) -> str:
        return self._render("index.html", shelf=shelf, links=links, unreadable=UNREADABLE)

    def player(self, video: Video, stories: Sequence[Story], links: Links) -> str:
        return self._render(
            "player.html",
            video=video,
            title=title_of(video),
            stories=stories,
            failed=[check for check in video.checks if not check.passed],
            rejected=video.state == VideoState.REJECTED,
            run_url=_web_address(getattr(video, "flow_run_url", None)),
            links=links,
        )

    def fault(self, title: str, error: AvatarError, links: Links) -> str:
        return self._render("fault.html", title=title, message=error.message, hint=error.hint, links=links)

    def _render(self, template: str, **facts: Any) -> str:
        return self._templates.get_template(template).render(**facts)


def length(seconds: float) -> str:
    """8.15 s; from a minute on 2:05, as players show it."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{seconds:.2f} s" if seconds < 60 else f"{minutes}:{rest:02}"  # noqa: PLR2004


def money(amount: Decimal) -> str:
    return f"${amount:.2f}"


def size(count: int) -> str:
    """Bytes as people say it, in powers of ten."""
    if count < 1_000_000:  # noqa: PLR2004
        return f"{count / 1000:.0f} kB"
    return f"{count / 1_000_000:.1f} MB"


def moment(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _web_address(text: str | None) -> str | None:
    """An address a person may be sent to: manifests are data, and `javascript:` is an address too."""
    return text if text and urlsplit(text).scheme in {"http", "https"} else None

"""The pages as HTML: the same templates for the site and for the exported folder."""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from urllib.parse import quote, urlsplit

from jinja2 import Environment, PackageLoader, StrictUndefined

from avatar.errors import AvatarError, InvalidInput
from avatar.job.index import UNREADABLE, title_of
from avatar.models import Video, VideoState
from avatar.money.entries import Record
from avatar.option_names import at_form
from avatar.stored_models import Render
from avatar.web.media import served_key
from avatar.web.video_list import PROVIDERS, STATES, Page, Query


@dataclass(frozen=True)
class Links:
    """Addresses on a page, all relative: the gallery works below any path, and from a folder.

    Attributes:
        root: the way from the page to the gallery's root: nothing, or `../` once or more.
        folder: whether the pages are files.
        kept: the keys that are in the folder; None on the site, which has them all.
        texts: small files that are in the page itself, as `data:` addresses by key.
    """

    root: str = ""
    folder: bool = False
    kept: frozenset[str] | None = None
    texts: Mapping[str, str] | None = None

    def home(self, wanted: Query | None = None) -> str:
        wanted = wanted or Query()
        if self.folder:
            return self.root + (wanted.before or page_file(1))
        query = wanted.text()
        return f"{self.root or './'}{'?' if query else ''}{query}"

    def player(self, job_id: str) -> str:
        return f"{self.root}videos/{quote(job_id, safe='')}{'.html' if self.folder else ''}"

    def media(self, key: str | None) -> str | None:
        """Where an object is, or None if it cannot be had."""
        try:
            known = key is not None and (self.kept is None or key in self.kept) and served_key(key)
        except InvalidInput:
            return None
        if not known:
            return None
        return f"{self.root}media/{quote(known)}"

    def captions(self, key: str) -> str | None:
        """Where a track of captions is. On a page that is opened from disk, browsers take only one that is in it."""
        return (self.texts or {}).get(key) or self.media(key)

    def download(self, key: str, name: str) -> str:
        """Where an object is saved from, under a name."""
        return f"{self.media(key)}{'' if self.folder else f'?download={quote(name)}'}"

    def page(self, path: str) -> str:
        """Any other page of the site."""
        return f"{self.root}{quote(path)}"

    def labelled(self, name: str, value: str) -> str:
        """The videos that have a label."""
        return self.home(Query(label=f"{name}={value}"))

    def static(self, name: str) -> str:
        return f"{self.root}static/{name}"


def page_file(number: int) -> str:
    return "index.html" if number == 1 else f"page-{number}.html"


@dataclass(frozen=True)
class History:
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
        self._templates.filters |= {
            "length": length,
            "length_of": len,
            "money": money,
            "size": size,
            "moment": moment,
            "money4": price,
            "wave": wave,
            "as_labels": as_labels,
            "download_name": download_name,
            "at_form": at_form,
        }

    def index(self, page: Page, links: Links, *, indexing: str = "", **facts: Any) -> str:
        shown = {"states": STATES, "providers": PROVIDERS, "indexing": indexing}
        return self.render("index.html", page=page, links=links, **(shown | facts))

    def player(self, video: Video, histories: Sequence[History], links: Links, **facts: Any) -> str:
        """`facts`: `takes`, pairs of a number and a job that have a video, this one among them."""
        shown = {
            "title": title_of(video),
            "name": download_name(video),
            "language": getattr(video, "language", None),
            "label_pairs": getattr(video, "labels", None) or {},
            "failed": [check for check in video.checks if not check.passed],
            "rejected": video.state == VideoState.REJECTED,
            "run_url": run_page(video.flow_run_url),
            "takes": (),
            "preview": "",
        }
        return self.render("player.html", video=video, histories=histories, links=links, **(shown | facts))

    def fault(self, title: str, error: AvatarError, links: Links, **facts: Any) -> str:
        return self.render(
            "fault.html",
            title=title,
            message=at_form(error.message),
            hint=at_form(error.hint or ""),
            links=links,
            **facts,
        )

    def render(self, template: str, **facts: Any) -> str:
        """A page. `visitor` is what its forms carry; without it a page only shows."""
        return self._templates.get_template(template).render(
            {"visitor": "", "may_spend": False, "unreadable": UNREADABLE} | facts
        )


def as_labels(labels: Mapping[str, str]) -> str:
    """Labels as a form's field has them."""
    return ", ".join(f"{name}={value}" for name, value in sorted(labels.items()))


#: Height of a waveform that is drawn, in its own units; a bar is one wide.
WAVE_HEIGHT = 48


def wave(bars: Sequence[float]) -> str:
    """A waveform as the path of an SVG, mirrored about its middle."""
    loudest = max([*bars, 0.05])
    halves = [max(0.5, bar / loudest * (WAVE_HEIGHT / 2 - 2)) for bar in bars]
    middle = WAVE_HEIGHT / 2
    return "".join(f"M{at + 0.5} {middle - half:.1f}v{2 * half:.1f}" for at, half in enumerate(halves))


def download_name(video: Video) -> str:
    """What a video is called when it is saved: by its title, language and take, else by its job."""
    title = title_of(video)
    words = re.findall(r"[\w-]+", unicodedata.normalize("NFC", title))
    name = "_".join(words)[:80].strip("_") if not title.startswith("Job ") else video.job_id
    language = getattr(video, "language", None) or ""
    if language and not name.casefold().endswith(f"_{language.casefold()}"):
        name += f"_{language}"
    return f"{name or video.job_id}{f'_take{video.take}' if video.take else ''}.mp4"


def length(seconds: float) -> str:
    """8.15 s; from a minute on 2:05, as players show it."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{seconds:.2f} s" if seconds < 60 else f"{minutes}:{rest:02}"  # noqa: PLR2004


def money(amount: Decimal) -> str:
    return f"${amount:.2f}"


def price(amount: Decimal) -> str:
    """A price per second, which has parts of a cent."""
    return f"${amount:.2f}" if amount == round(amount, 2) else f"${amount:.4f}".rstrip("0")


def size(count: int) -> str:
    """Bytes as people say it, in powers of ten."""
    if count < 1_000_000:  # noqa: PLR2004
        return f"{count / 1000:.0f} kB"
    return f"{count / 1_000_000:.1f} MB"


def moment(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def run_page(text: str | None) -> str | None:
    """A run's address in the Prefect UI that opens by default: Prefect 3.9 tells a run that of its older UI, at /.

    None if it is no web address: records are data, and `javascript:` is an address too.
    """
    address = urlsplit(text or "")
    if text is None or address.scheme not in {"http", "https"}:
        return None
    if (address.hostname or "").endswith("prefect.cloud"):
        return text
    return re.sub(r"(?<!/v2)/(?:flow-runs|runs)/flow-run/", "/v2/runs/flow-run/", text)

"""Indexes, so that no question is answered by reading every video or every journal.

`index/videos/<UTC day>/<time>-<job>.json` has what a list shows of a video, and is written with the video's manifest.
`index/bundles/` has them by month (avatar/job/month_index.py).
`index/requests/<provider>.<digest>.json` (avatar/money/journal.py) has the render that a provider's request belongs to.
`index/complete.json` says that what was stored before these indexes were kept is in them: `rebuild` puts it there.
"""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from avatar.errors import InvalidInput, ObjectNotFound
from avatar.job.month_index import VIDEOS, bundle_months, list_days, note_change
from avatar.models import Video
from avatar.money.journal import INDEXED, Journal
from avatar.store.by_day import KINDS, set_whole
from avatar.store.objects import Stat
from avatar.store.store import Store
from avatar.waiting import in_turns

UNREADABLE = "unreadable"
#: Keys that a store lists in one answer.
LISTED = 1000
DAY_SECONDS = 86_400
#: An entry without a video is removed by `rebuild` only if it is older: its video may be on its way.
STALE = timedelta(hours=1)


class Summary(BaseModel):
    """What a list shows of one video. `fault` is why its manifest cannot be read, empty if it can."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    format: int = 1
    job_id: str
    at: datetime
    state: str
    title: str = ""
    language: str = ""
    labels: dict[str, str] = {}
    provider: str = ""
    seconds: float = 0.0
    billed: Annotated[Decimal, BeforeValidator(str)] = Decimal(0)
    take: int = 0
    poster_key: str = ""
    #: Of each render, from its submit to its video in the store.
    render_seconds: tuple[float, ...] = ()
    fault: str = ""
    text: str = ""

    @property
    def key(self) -> str:
        """Sorts by time within its day."""
        at = self.at.astimezone(UTC)
        return f"{VIDEOS}{at:%Y-%m-%d}/{at:%H%M%S%f}-{self.job_id}.json"


def job_of(key: str) -> str:
    """The job that an entry of the index is about."""
    return key.rpartition("-")[2].removesuffix(".json")


def summarise(video: Video) -> Summary:
    return Summary(
        job_id=video.job_id,
        at=video.published_at,
        state=video.state,
        title=title_of(video),
        language=video.language,
        labels=video.labels,
        provider=video.provider,
        seconds=video.seconds,
        billed=video.cost.billed,
        take=video.take,
        poster_key=video.poster_key,
        render_seconds=tuple(
            round((render.collected_at - render.submitted_at).total_seconds(), 1) for render in video.renders
        ),
        text=_searchable(video),
    )


def title_of(video: Video) -> str:
    """What people recognise a video by: its title, else its prompt, else its job."""
    if video.title:
        return video.title
    prompt = " ".join(video.prompt.split())
    return prompt if prompt.strip(".") else f"Job {video.job_id[:12]}"


def _searchable(video: Video) -> str:
    assets = (video.portrait.source, video.portrait.asset, video.voice.source)
    words = [title_of(video), video.job_id, video.prompt, video.provider, video.model, video.state]
    words += [video.language]
    words += [f"{name}={value}" for name, value in video.labels.items()]
    words += list(video.files.values())
    words += [asset.key.rpartition("/")[2] for asset in assets]
    words += [word for render in video.renders for word in (render.render_id, render.request_id)]
    return "\n".join(filter(None, words)).casefold()


async def add_video(store: Store, video: Video) -> None:
    """Index a video, before its manifest is written: a crash between the two leaves an entry, never a hidden video."""
    summary = summarise(video)
    await store.put(summary.key, summary.model_dump_json().encode(), content_type="application/json")
    await note_change(store, summary.key)


async def newest_first(store: Store, before: str = "") -> AsyncIterator[list[Stat]]:
    """The entries of each day, the newest first, and of those only what is older than the entry `before`.

    One listing for the days, one for each day that is asked for; of a day with more than `LISTED` a few for each part
    of it. Raises `StoreUnavailable`.
    """
    for day in await list_days(store):
        if not before or f"{VIDEOS}{day}" <= before:
            async for part in of_day(store, day, before):
                yield part


async def of_day(store: Store, day: str, before: str = "") -> AsyncIterator[list[Stat]]:
    """The entries of a day in parts, the newest first; a listing goes the other way, so its end is looked for."""
    end = step = DAY_SECONDS
    if before.startswith(f"{VIDEOS}{day}/"):
        end = min(end, _second(before) + 1)
    while end > 0:
        begin = max(0, end - step)
        part = await _between(store, f"{VIDEOS}{day}/", begin, end)
        if part is None:
            step = max(1, step // 4)
            continue
        yield [stat for stat in reversed(part) if not before or stat.key < before]
        end, step = begin, step * 2 if len(part) < LISTED // 4 else step


async def _between(store: Store, folder: str, begin: int, end: int) -> list[Stat] | None:
    """The entries of these seconds of a day; None if there are more than one answer lists. A second is not parted."""
    if end - begin == 1:
        return await store.list(f"{folder}{_clock(begin)}")
    listed = await store.list(folder, after=f"{folder}{_clock(begin)}", most=LISTED)
    part = [stat for stat in listed if stat.key < f"{folder}{_clock(end)}"]
    return None if len(part) == LISTED else part


def _clock(second: int) -> str:
    """A second of a day as keys of entries begin; the one after the last sorts behind them all."""
    return f"{second // 3600:02}{second // 60 % 60:02}{second % 60:02}"


def _second(key: str) -> int:
    hours, minutes, seconds = (int(key.rpartition("/")[2][at : at + 2]) for at in (0, 2, 4))
    return hours * 3600 + minutes * 60 + seconds


async def read_summary(store: Store, key: str) -> Summary | None:
    """One entry; None if it was removed meanwhile, or cannot be read. Raises `StoreUnavailable`."""
    try:
        return parse_summary((await store.get(key)).data)
    except (ObjectNotFound, InvalidInput):
        return None


def parse_summary(data: bytes) -> Summary | None:
    """None if it cannot be read."""
    try:
        return Summary.model_validate_json(data)
    except ValidationError:
        return None


async def read_video(store: Store, job_id: str) -> Video:
    """A job's manifest.

    Raises:
        InvalidInput: it is damaged, or was written by another version.
        ObjectNotFound: there is none.
        StoreUnavailable: the store failed.
    """
    blob = await store.get(f"videos/{job_id}/manifest.json")
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


# `avatar repair`: the indexes made anew from what they index.
@dataclass
class Rebuilt:
    """What a rebuild did: videos and requests that are indexed now, entries removed, what cannot be read."""

    videos: int = 0
    requests: int = 0
    removed: int = 0
    unreadable: list[str] = field(default_factory=list)


async def rebuild(store: Store, journal: Journal, *, say: Callable[[str], None] = lambda _: None) -> Rebuilt:
    """Index every video and every request. May run beside everything else, and again. Raises `StoreUnavailable`."""
    done = Rebuilt()
    before = {stat.key: stat for stat in await store.list(VIDEOS)}
    manifests = await list_manifests(store)
    say(f"{len(manifests)} videos to index.")
    right = await in_turns(lambda stat: _index_manifest(store, stat, done), manifests)
    for stat in before.keys() - set(right):
        if datetime.now(UTC) - before[stat].modified > STALE:
            await store.remove(stat)
            done.removed += 1
    renders = sorted({stat.key.split("/")[1] for stat in await store.list("journal/")})
    say(f"{len(renders)} renders to index.")
    kept = await in_turns(lambda render_id: _index_requests(journal, render_id), renders)
    done.videos, done.requests = len(manifests), sum(kept)
    for kind in KINDS:  # the next `expire` looks at all of it once more
        await set_whole(store, kind, whole=False)
    await bundle_months(store, afresh=True)
    await store.put(INDEXED, b'{"format": 1}', content_type="application/json")
    return done


async def list_manifests(store: Store) -> list[Stat]:
    """All of them: only for what reads every video anyway."""
    return [stat for stat in await store.list("videos/") if _is_manifest(stat.key)]


async def summarise_manifest(store: Store, stat: Stat) -> Summary | None:
    """What the index should say of it; None if it was removed meanwhile. Raises `StoreUnavailable`."""
    job_id = stat.key.split("/")[1]
    try:
        return summarise(await read_video(store, job_id))
    except ObjectNotFound:
        return None
    except InvalidInput as error:
        facts = {"fault": error.message, "text": job_id.casefold()}
        return Summary(job_id=job_id, at=stat.modified, state=UNREADABLE, **facts)


async def _index_manifest(store: Store, stat: Stat, done: Rebuilt) -> str:
    """Returns the key of its entry."""
    summary = await summarise_manifest(store, stat)
    if summary is None:
        return ""
    if summary.state == UNREADABLE:
        done.unreadable.append(summary.job_id)
    await store.put(summary.key, summary.model_dump_json().encode(), content_type="application/json")
    return summary.key


async def _index_requests(journal: Journal, render_id: str) -> int:
    """Returns how many requests it had."""
    history = await journal.history(render_id)
    submissions = {
        each.entry.submission.request_id: each.entry.submission for each in history if each.entry.submission
    }
    for submission in submissions.values():
        await journal.keep_request(submission)
    return len(submissions)


def _is_manifest(key: str) -> bool:
    parts = key.split("/")
    return len(parts) == len(("videos", "job", "manifest.json")) and parts[-1] == "manifest.json"

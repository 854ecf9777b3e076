"""The index by month: a search finds what is there, whatever was changed since, and asks the store little."""

from datetime import UTC, datetime, timedelta

import pytest

from avatar.job.index import LISTED, Summary, add_video, newest_first, rebuild, summarise
from avatar.job.month_index import (
    BUNDLES,
    CHANGES,
    VIDEOS,
    bundle_months,
    list_bundles,
    note_change,
    read_bundle,
)
from avatar.money.journal import Journal
from avatar.web.video_list import Query, VideoList
from tests.store.memory import MemoryServer, MemoryStore
from tests.web.gallery.manifests import make_video, put_manifest

NOW = datetime.now(UTC)
OLD = (NOW - timedelta(days=40)).replace(hour=12)


@pytest.fixture
async def store() -> MemoryStore:
    made = MemoryStore(MemoryServer())
    await made.ensure_bucket()
    return made


async def published(store: MemoryStore, number: int, at: datetime = OLD, **facts: object) -> Summary:
    """A video put in place on a day of its own choosing."""
    video = make_video(number, published_at=at + timedelta(seconds=number), **facts)
    await add_video(store, video)
    return summarise(video)


async def found(store: MemoryStore, query: str = "", **facts: str) -> list[str]:
    page = await VideoList(store).page(Query.of({"q": query} | facts))
    return [video.title for video in page.videos]


class TestASearch:
    async def test_finds_by_title_label_state_and_provider(self, store):
        await published(store, 1, title='Grüße "Mai"', labels={"client": "Acme & Söhne"})
        await published(store, 2, title="Evening", provider="preview")
        await published(store, 3, NOW - timedelta(minutes=5), title="New evening")
        await bundle_months(store)
        assert await found(store, 'grüße "mai"') == ['Grüße "Mai"']
        assert await found(store, label="client=Acme & Söhne") == ['Grüße "Mai"']
        assert await found(store, "evening") == ["New evening", "Evening"]
        assert await found(store, "evening", provider="preview") == ["Evening"]
        assert await found(store, "evening", state="rejected") == []

    async def test_finds_what_was_changed_since(self, store):
        """A new title, a video that was removed, and one that came late: before and after the next bundle."""
        first, second = await published(store, 1, title="First"), await published(store, 2, title="Second")
        await bundle_months(store)
        assert not [stat.key for stat in await store.list(CHANGES)]
        await published(store, 1, title="Renamed")
        await store.remove(second.key)
        await note_change(store, second.key)
        await published(store, 3, title="Late")
        for _ in range(2):
            assert await found(store, provider="fal") == ["Late", "Renamed"]
            assert await found(store, "first", label=f"x={first.title}") == []
            await bundle_months(store)
        assert not [stat.key for stat in await store.list(CHANGES)]

    async def test_leads_through_everything_once(self, store):
        numbers = range(1, 80)
        for number in numbers:
            await published(store, number, title=f"Hello {number}")
        await published(store, 99, NOW, title="Hello 99")
        await bundle_months(store)
        catalogue, query, seen = VideoList(store), Query.of({"q": "hello"}), []
        while True:
            page = await catalogue.page(query)
            seen += [video.title for video in page.videos]
            if not page.older:
                break
            query = query.at(page.older)
        assert seen == [f"Hello {number}" for number in (99, *reversed(numbers))]

    async def test_asks_as_often_however_many_videos_there_are(self, store):
        asked = []
        for number in range(1, 400):
            await published(store, number)
            if number in {40, 399}:
                await bundle_months(store)
                store.server.calls.clear()
                assert await found(store, "nothing-has-this") == []
                asked.append(len(store.server.calls))
        assert asked[0] == asked[1] <= 4

    async def test_goes_on_without_what_cannot_be_read(self, store):
        """A bundle of another version, or damaged, is read past; the next one is whole."""
        await published(store, 1, title="Hello")
        await bundle_months(store)
        (stat,) = (await list_bundles(store)).values()
        store.keep(stat.key, b"not gzip")
        assert await found(store, "hello") == ["Hello"]
        await bundle_months(store)
        (stat,) = (await list_bundles(store)).values()
        assert len((await read_bundle(store, stat)).entries) == 1


class TestABundle:
    async def test_of_two_makers_the_later_changes_nothing(self, store):
        """One that read before a change was written keeps neither its bundle nor its hands on the note."""
        await published(store, 1, title="First")
        await bundle_months(store)
        await published(store, 1, title="Renamed")
        slow = MemoryStore(store.server)
        before = slow.create

        async def overtaken(key: str, data: bytes, **facts: str) -> bool:
            slow.create = before
            await published(store, 1, title="Renamed again")
            assert await bundle_months(store) == 1
            return await before(key, data, **facts)

        slow.create = overtaken
        assert await bundle_months(slow) == 0
        assert await found(store, "renamed") == ["Renamed again"]

    async def test_reads_only_what_is_new(self, store):
        for number in range(1, 60):
            await published(store, number)
        await bundle_months(store)
        await published(store, 60)
        store.server.calls.clear()
        await bundle_months(store)
        assert [key for method, key in store.server.calls if method == "get" and key.startswith(VIDEOS)] == [
            (await summary_key(store, 60))
        ]

    async def test_is_not_written_for_nothing(self, store):
        await published(store, 1)
        assert await bundle_months(store) == 1
        await published(store, 2, NOW)
        assert await bundle_months(store) == 0

    async def test_before_the_last_one_is_kept_for_who_reads_it(self, store):
        for number in range(1, 5):
            await published(store, number)
            await bundle_months(store)
        assert [stat.key[-5:] for stat in await store.list(BUNDLES)] == ["03.gz", "04.gz"]

    async def test_is_made_anew_by_repair(self, store):
        """Also where an entry was changed and nobody noted it, as by a worker of an earlier version."""
        video = make_video(1, published_at=OLD, title="First")
        await put_manifest(store, video)
        await bundle_months(store)
        await put_manifest(store, renamed := video.model_copy(update={"title": "Renamed"}))
        for stat in await store.list(CHANGES):
            await store.remove(stat.key)
        assert await found(store, "renamed") == []
        await rebuild(store, Journal(store, lease_seconds=60))
        assert await found(store, "renamed") == [renamed.title]


async def summary_key(store: MemoryStore, number: int) -> str:
    return next(stat.key for stat in await store.list(VIDEOS) if stat.key.endswith(f"{number:032x}.json"))


class TestADay:
    @pytest.mark.parametrize("seconds", [30.0, 0.001])
    async def test_with_many_videos_is_listed_from_its_end(self, store, seconds):
        """Each once, the newest first, and the first part in a few requests."""
        day = OLD.replace(hour=0, minute=0, second=0, microsecond=0)
        kept = [
            Summary(job_id=f"{n:032x}", at=day + timedelta(seconds=n * seconds), state="published")
            for n in range(2 * LISTED + 500)
        ]
        for each in kept:
            store.keep(each.key, each.model_dump_json().encode())
        store.server.calls.clear()
        parts = [part async for part in newest_first(store)]
        assert [stat.key for part in parts for stat in part] == [each.key for each in reversed(kept)]
        before = kept[1700].key
        rest = [stat.key async for part in newest_first(store, before) for stat in part]
        assert rest == [each.key for each in reversed(kept[:1700])]

    async def test_costs_the_first_page_as_much_with_ten_times_the_videos(self, store):
        """A listing begins at the other end: its requests grow by a few at most."""
        day, asked = OLD.replace(hour=0, minute=0, second=0, microsecond=0), []
        for step in (60, 6):
            for at in range(0, 86_400, step):
                each = Summary(job_id=f"{at:032x}", at=day + timedelta(seconds=at), state="published")
                store.keep(each.key, each.model_dump_json().encode())
            store.server.calls.clear()
            assert len((await VideoList(store).page(Query())).videos) == 24
            asked.append(len(store.server.calls))
        assert asked[1] - asked[0] <= 3

"""Retention on a real store: what the rules delete, what stays whatever they say, and that nothing is bought again."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from avatar.batch.models import Batch, RowState, Summary
from avatar.job import retention as module
from avatar.job.retention import Expired, expire
from avatar.money.commit import close_job, open_job, open_key
from avatar.settings_sections import RetentionSettings
from avatar.store import by_day
from avatar.store.store import Store
from tests.batch.conftest import Works, make_works, manifest, media, rows, works  # noqa: F401 - fixtures
from tests.sandbox.running import Sandbox

ALL = dict.fromkeys(RetentionSettings.model_fields, 30)


class Shop:
    """Batches over one store, and rules that are applied to it days later by the store's clock."""

    def __init__(self, works: Works, manifest: Callable[..., Batch], rows: Callable[..., Any]) -> None:  # noqa: F811
        self.works, self.batch, self.rows = works, manifest, rows
        self.workspace, self.store = works.workspace, works.workspace.store

    async def render(self, count: int, *, run: str = "run-1", **more: Any) -> Summary:
        """Rows of different jobs, as a batch; keywords are columns of each."""
        return await self.works.run(self.batch(self.rows(count, **more)), run=run)

    async def later(self, *, days: float, dry_run: bool = False, **rules: int) -> Expired:
        real = module.store_clock

        async def then(store: Store) -> Any:
            return await real(store) + timedelta(days=days)

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(module, "store_clock", then)
            settings = self.workspace.settings.model_copy(update={"retention": RetentionSettings(**rules)})
            patched.setattr(self.workspace, "settings", settings)
            return await expire(self.workspace, dry_run=dry_run)

    async def keys(self, *prefixes: str) -> list[str]:
        return [stat.key for prefix in prefixes for stat in await self.store.list(prefix)]


@pytest.fixture
def shop(works: Works, manifest: Callable[..., Batch], rows: Callable[..., Any]) -> Shop:  # noqa: F811
    return Shop(works, manifest, rows)


def names(found: Expired, kind: str) -> set[str]:
    return {thing.name for thing in found.deleted if thing.kind == kind}


async def test_nothing_is_deleted_without_a_rule_or_before_its_day(shop: Shop) -> None:
    """No rule, or 29 of 30 days: every object is where it was. A dry run tells, and deletes nothing either."""
    await shop.render(2)
    before = await shop.keys("")
    assert (await shop.later(days=10_000)).deleted == []
    assert (await shop.later(days=29, **ALL)).deleted == []
    would = await shop.later(days=31, dry_run=True, **ALL)
    assert len(names(would, "videos")) == len(names(would, "renders")) == 2
    there = set(await shop.keys(""))
    assert set(before) <= there
    assert {key for key in there - set(before) if not key.startswith("index/")} <= {"probe/clock"}


async def test_an_expired_video_is_put_together_again_for_nothing(shop: Shop, sandbox: Sandbox) -> None:
    """Its renders are kept: the same job asked for again is published from them, and nothing is paid."""
    await shop.render(1)
    found = await shop.later(days=31, videos_days=30)
    assert len(names(found, "videos")) == 1
    assert await shop.keys("videos/") == []
    assert len(await shop.keys("renders/", "expired/videos/")) == 2
    assert (await shop.render(1, run="run-2")).states == {RowState.PUBLISHED: 1}
    assert sandbox.state()["posts"] == 1


async def test_what_was_deleted_is_not_bought_again_by_itself(shop: Shop, sandbox: Sandbox) -> None:
    """Video and render are gone, the journal is whole: refused with the reason; another take is bought."""
    await shop.render(1)
    journal = await shop.keys("journal/", "budget/", "jobs/", "assets/")
    await shop.later(days=31, **ALL)
    assert await shop.keys("videos/", "renders/") == []
    assert await shop.keys("journal/", "budget/", "jobs/", "assets/") == journal
    again = await shop.render(1, run="run-2")
    assert again.states == {RowState.REFUSED: 1}
    assert "AVATAR_RETENTION__RENDERS_DAYS" in again.troubles[0].reason
    assert "take" in again.troubles[0].hint
    assert sandbox.state()["posts"] == 1
    anew = await shop.render(1, take=1, run="run-3")
    assert (anew.states, sandbox.state()["posts"]) == ({RowState.PUBLISHED: 1}, 2)


async def test_what_is_not_published_stays(shop: Shop, sandbox: Sandbox) -> None:
    """The render of a rejected video, and of one that was never put in place, stay whatever their age."""
    sandbox.behave("submit", "defective", defect="black")
    await shop.render(1)
    await shop.works.run(shop.batch(shop.rows(2)[1:], name="two.jsonl"), run="run-2")
    (published,) = [key for key in await shop.keys("videos/") if key.endswith("manifest.json") and b'"published"' in (await shop.store.get(key)).data]  # fmt: skip
    await shop.store.remove(published)  # as if it had died just before it published
    kept = await shop.keys("renders/")
    found = await shop.later(days=31, renders_days=30)
    assert (found.deleted, len(found.kept)) == ([], 2)
    assert await shop.keys("renders/") == kept


async def test_a_render_that_another_job_still_needs_stays(shop: Shop) -> None:
    """A job without a video that has the same segment may be made of it, and would have to buy it again."""
    await shop.render(1)
    (plan,) = await shop.keys("jobs/")
    await shop.store.put(
        f"jobs/{'e' * 32}.json", (await shop.store.get(plan)).data, content_type="application/json"
    )
    await open_job(shop.workspace, "e" * 32)
    assert (await shop.later(days=31, renders_days=30)).deleted == []
    await close_job(shop.workspace, "e" * 32)
    assert len(names(await shop.later(days=31, renders_days=30), "renders")) == 1


async def test_a_render_under_way_stays(shop: Shop) -> None:
    """While a run follows it, neither its file nor its video is touched."""
    await shop.render(1)
    (key,) = await shop.keys("renders/")
    await shop.workspace.journal.keep_open(key.split("/")[1])
    found = await shop.later(days=31, renders_days=30, videos_days=30)
    assert (found.deleted, len(found.kept)) == ([], 2)


async def test_uploads_batches_and_results_go_by_their_own_rules(shop: Shop) -> None:
    """Consumed uploads by folder, batches by id, results one by one; what waits in the inbox stays."""
    for key in (
        "inbox/anna/voice.mp3", "inbox/.done/anna/voice.mp3", "inbox/.done/anna/portrait.png",
        "inbox/.failed/bert/reason.txt", "batches/b1/report.csv", "results/polls/a", "results/plans/b",
    ):  # fmt: skip
        await shop.store.put(key, b"{}", content_type="application/json")
    found = await shop.later(days=8, uploads_days=7, batches_days=7, results_days=9)
    assert names(found, "uploads") == {"anna", "bert"}
    assert (names(found, "batches"), names(found, "results")) == ({"b1"}, set())
    left = await shop.keys("inbox/", "batches/", "results/")
    assert left == ["inbox/anna/voice.mp3", "results/plans/b", "results/polls/a"]


async def test_what_is_old_is_found_by_its_day(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the first look at everything only days are listed; what was written to again waits for its own day."""
    await shop.render(1)
    await shop.store.put("results/before", b"{}", content_type="application/json")
    await shop.later(days=0, **ALL)
    await shop.render(2, run="run-2")
    (batch, _) = sorted({key.split("/")[1] for key in await shop.keys("batches/")})
    await by_day.note_day(shop.store, "batches", f"batches/{batch}", "2020-01-01")  # of a run long ago
    listed = list[str]()
    real = shop.store.list

    async def listing(prefix: str, *, recursive: bool = True) -> Any:
        listed.append(prefix)
        return await real(prefix, recursive=recursive)

    monkeypatch.setattr(shop.store, "list", listing)
    assert (await shop.later(days=1, **ALL)).deleted == []
    monkeypatch.undo()
    assert not {"videos/", "renders/", "batches/", "results/", "jobs/"} & set(listed)
    assert not [key for key in await shop.keys("index/days/") if "2020-01-01" in key]
    found = await shop.later(days=31, **ALL)
    assert [len(names(found, kind)) for kind in ("videos", "renders", "batches", "results")] == [2, 2, 2, 1]
    assert [key for key in await shop.keys("index/days/", "index/videos/") if key.count("/") > 2] == []


async def test_what_was_brought_goes_with_its_last_order(shop: Shop) -> None:
    """Files and orders a day after the rule's, as a run may wait for approval; not what a paid job still waits for."""
    await shop.render(1)
    (video,) = {key.split("/")[1] for key in await shop.keys("videos/")}
    await shop.store.put(
        open_key(video), b"{}", content_type="application/json"
    )  # bought, and without a video yet
    voice = next(each for each in await shop.keys("assets/") if each.endswith(".wav"))
    sha256 = voice.removeprefix("assets/").partition(".")[0]
    files = [f"desk/files/{name}/x.wav" for name in ("used", "idle", sha256)]
    for key in files:
        await shop.store.put(key, b"1", content_type="audio/wav")
    order = b'{"portraits": [], "voices": ["desk/files/used/x.wav"], "manifest": ""}'
    await shop.store.put("desk/orders/one.json", order, content_type="application/json")
    assert (await shop.later(days=7.5, uploads_days=7)).deleted == []
    would = await shop.later(days=9, dry_run=True, uploads_days=7)
    assert sorted(key for thing in would.deleted for key in thing.keys) == [
        *sorted(files[:2]),
        "desk/orders/one.json",
    ]
    await shop.later(days=9, uploads_days=7)
    assert await shop.keys("desk/") == [files[2]]

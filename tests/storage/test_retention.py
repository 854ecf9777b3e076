"""Retention on a real store: what the rules delete, what stays whatever they say, and that nothing is bought again."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from tasks.batches.models import Batch, RowState
from tasks.retention import expire as module
from tasks.retention.expire import Expired, expire
from tasks.settings import RetentionSettings
from tasks.storage.store import Store
from tasks.workspace import Workspace
from tests.batches.conftest import Works, make_works, manifest, media, rows, works  # noqa: F401 - fixtures
from tests.sandbox.running import Sandbox

Later = Callable[..., Any]
ALL = dict.fromkeys(RetentionSettings.model_fields, 30)


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Later:
    """Applies rules as if some days had passed by the store's clock."""

    async def run(workspace: Workspace, *, days: float, dry_run: bool = False, **rules: int) -> Expired:
        real = module.store_clock

        async def then(store: Store) -> Any:
            return await real(store) + timedelta(days=days)

        with monkeypatch.context() as patched:
            patched.setattr(module, "store_clock", then)
            settings = workspace.settings.model_copy(update={"retention": RetentionSettings(**rules)})
            patched.setattr(workspace, "settings", settings)
            return await expire(workspace, dry_run=dry_run)

    return run


async def keys(store: Store, *prefixes: str) -> list[str]:
    return [stat.key for prefix in prefixes for stat in await store.list(prefix)]


def names(found: Expired, kind: str) -> set[str]:
    return {thing.name for thing in found.deleted if thing.kind == kind}


async def test_nothing_is_deleted_without_a_rule_or_before_its_day(
    works: Works,  # noqa: F811
    manifest: Callable[..., Batch],  # noqa: F811
    rows: Callable[..., Any],  # noqa: F811
    later: Later,
) -> None:
    """No rule, or 29 of 30 days: every object is where it was. A dry run tells, and deletes nothing either."""
    await works.run(manifest(rows(2)))
    before = await keys(works.workspace.store, "")
    assert (await later(works.workspace, days=10_000)).deleted == []
    assert (await later(works.workspace, days=29, **ALL)).deleted == []
    would = await later(works.workspace, days=31, dry_run=True, **ALL)
    assert len(names(would, "videos")) == len(names(would, "renders")) == 2
    assert set(await keys(works.workspace.store, "")) - set(before) <= {"probe/clock"}


async def test_an_expired_video_is_put_together_again_for_nothing(
    works: Works,  # noqa: F811
    manifest: Callable[..., Batch],  # noqa: F811
    rows: Callable[..., Any],  # noqa: F811
    later: Later,
    sandbox: Sandbox,
) -> None:
    """Its renders are kept: the same job asked for again is published from them, and nothing is paid."""
    batch = manifest(rows(1))
    await works.run(batch)
    found = await later(works.workspace, days=31, videos_days=30)
    assert len(names(found, "videos")) == 1
    assert await keys(works.workspace.store, "videos/") == []
    assert len(await keys(works.workspace.store, "renders/", "expired/videos/")) == 2
    assert (await works.run(batch, run="run-2")).states == {RowState.PUBLISHED: 1}
    assert sandbox.state()["posts"] == 1


async def test_what_was_deleted_is_not_bought_again_by_itself(
    works: Works,  # noqa: F811
    manifest: Callable[..., Batch],  # noqa: F811
    rows: Callable[..., Any],  # noqa: F811
    later: Later,
    sandbox: Sandbox,
) -> None:
    """Video and render are gone, the journal is whole: refused with the reason; another take is bought."""
    await works.run(manifest(rows(1)))
    journal = await keys(works.workspace.store, "journal/", "budget/", "jobs/", "assets/")
    await later(works.workspace, days=31, **ALL)
    assert await keys(works.workspace.store, "videos/", "renders/") == []
    assert await keys(works.workspace.store, "journal/", "budget/", "jobs/", "assets/") == journal
    again = await works.run(manifest(rows(1)), run="run-2")
    assert again.states == {RowState.REFUSED: 1}
    assert "AVATAR_RETENTION__RENDERS_DAYS" in again.troubles[0].reason
    assert "take" in again.troubles[0].hint
    assert sandbox.state()["posts"] == 1
    anew = await works.run(manifest(rows(1, take=1)), run="run-3")
    assert (anew.states, sandbox.state()["posts"]) == ({RowState.PUBLISHED: 1}, 2)


async def test_what_is_not_published_stays(
    works: Works,  # noqa: F811
    manifest: Callable[..., Batch],  # noqa: F811
    rows: Callable[..., Any],  # noqa: F811
    later: Later,
    sandbox: Sandbox,
) -> None:
    """The render of a rejected video, and of one that was never put in place, stay whatever their age."""
    sandbox.behave("submit", "defective", defect="black")
    await works.run(manifest(rows(1)))
    await works.run(manifest(rows(2)[1:], name="two.jsonl"), run="run-2")
    store = works.workspace.store
    (published,) = [key for key in await keys(store, "videos/") if key.endswith("manifest.json") and b'"published"' in (await store.get(key)).data]  # fmt: skip
    await store.remove(published)  # as if it had died just before it published
    kept = await keys(store, "renders/")
    found = await later(works.workspace, days=31, renders_days=30)
    assert (found.deleted, len(found.kept)) == ([], 2)
    assert await keys(store, "renders/") == kept


async def test_a_render_that_another_job_still_needs_stays(
    works: Works,  # noqa: F811
    manifest: Callable[..., Batch],  # noqa: F811
    rows: Callable[..., Any],  # noqa: F811
    later: Later,
) -> None:
    """A job without a video that has the same segment may be made of it, and would have to buy it again."""
    await works.run(manifest(rows(1)))
    store = works.workspace.store
    (plan,) = await keys(store, "jobs/")
    await store.put(f"jobs/{'e' * 32}.json", (await store.get(plan)).data, content_type="application/json")
    assert (await later(works.workspace, days=31, renders_days=30)).deleted == []
    await store.remove(f"jobs/{'e' * 32}.json")
    assert len(names(await later(works.workspace, days=31, renders_days=30), "renders")) == 1


async def test_a_render_under_way_stays(
    works: Works,  # noqa: F811
    manifest: Callable[..., Batch],  # noqa: F811
    rows: Callable[..., Any],  # noqa: F811
    later: Later,
) -> None:
    """While a run follows it, neither its file nor its video is touched."""
    await works.run(manifest(rows(1)))
    (key,) = await keys(works.workspace.store, "renders/")
    await works.workspace.journal.keep_open(key.split("/")[1])
    found = await later(works.workspace, days=31, renders_days=30, videos_days=30)
    assert (found.deleted, len(found.kept)) == ([], 2)


async def test_uploads_batches_and_results_go_by_their_own_rules(works: Works, later: Later) -> None:  # noqa: F811
    """Consumed uploads by folder, batches by id, results one by one; what waits in the inbox stays."""
    store = works.workspace.store
    for key in (
        "inbox/anna/voice.mp3", "inbox/.done/anna/voice.mp3", "inbox/.done/anna/portrait.png",
        "inbox/.failed/bert/reason.txt", "batches/b1/report.csv", "results/polls/a", "results/plans/b",
    ):  # fmt: skip
        await store.put(key, b"{}", content_type="application/json")
    found = await later(works.workspace, days=8, uploads_days=7, batches_days=7, results_days=9)
    assert names(found, "uploads") == {"anna", "bert"}
    assert (names(found, "batches"), names(found, "results")) == ({"b1"}, set())
    left = await keys(store, "inbox/", "batches/", "results/")
    assert left == ["inbox/anna/voice.mp3", "results/plans/b", "results/polls/a"]

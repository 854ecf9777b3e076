"""`/metrics`: what is told, to whom, at what cost; and that the dashboard and the alerts ask for what there is."""

import json
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr

from avatar.settings_sections import GallerySettings
from avatar.web.metrics import Metrics
from avatar.workspace import Workspace
from tests.web.gallery.manifests import put_video, render
from tests.web.gallery.test_access import basic

MONITORING = Path(__file__).parents[3] / "deploy" / "monitoring"


@pytest.fixture
async def workspace(make_settings):
    opened = Workspace(make_settings(budget={"per_day": Decimal(10)}))
    await opened.store.ensure_bucket()
    yield opened
    await opened.aclose()


async def told(workspace):
    """Samples by name and labels."""
    text = (await Metrics(workspace).answer(None)).body.decode()
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_money_work_and_the_store_are_told(workspace):
    """A video of today, a claim that is open, one that is billed, an upload; the budget counts both claims."""
    now = datetime.now(UTC)
    took = render(1, submitted_at=now - timedelta(seconds=42), collected_at=now)
    await put_video(workspace.store, 1, published_at=now, renders=(took,))
    await workspace.budget.claim({"a" * 32: Decimal("1.50")})
    await workspace.budget.settle(f"{now:%Y-%m-%d}", "b" * 32, Decimal("2.25"))
    await workspace.store.put("inbox/anna/portrait.png", b"x", content_type="image/png")
    found = await told(workspace)
    assert found[("avatar_billed_dollars",)] == 2.25
    assert found[("avatar_set_aside_dollars",)] == 1.5
    assert found[("avatar_budget_left_dollars",)] == 6.25
    assert found[("avatar_at_risk_dollars",)] == 0
    assert found[("avatar_inbox_uploads",)] == 1
    assert found[("avatar_render_seconds_sum", "fal")] == 42
    assert found[("avatar_store_up",)] == 1
    assert found[("avatar_store_call_seconds_count",)] > 0


async def cost_of_a_look(workspace):
    """Calls to the store that a fresh look takes, and those of one right after it."""
    metrics, before = Metrics(workspace), workspace.store.calls.count
    await metrics.answer(None)
    first = workspace.store.calls.count - before
    await metrics.answer(None)
    return first, workspace.store.calls.count - before - first


async def test_a_look_costs_the_same_however_many_ask_and_however_much_is_kept(workspace):
    """It is good for some seconds, and asks nothing about videos of other days."""
    await cost_of_a_look(workspace)
    few = await cost_of_a_look(workspace)
    for number in range(5):
        await put_video(workspace.store, number)
    assert await cost_of_a_look(workspace) == few
    assert few[1] == 0


async def test_without_the_store_nothing_is_made_up(make_settings, store_settings):
    """It says that the store is away, and no sum; nothing is zero that is not known."""
    away = store_settings.model_copy(update={"endpoint": "127.0.0.1:9", "secure": False})
    opened = Workspace(make_settings(store=away))
    found = await told(opened)
    await opened.aclose()
    assert found[("avatar_store_up",)] == 0
    assert found[("avatar_store_errors_total",)] > 0
    assert not [name for name, *_ in found if "dollars" in name]


async def test_the_gallery_tells_those_it_lets_in(open_gallery):
    """Sums are for those who know the password."""
    guarded = await open_gallery(gallery=GallerySettings(user="anna", password=SecretStr("word")))
    assert (await guarded.get("/metrics")).status_code == 401
    answer = await guarded.get("/metrics", headers=basic("anna:word"))
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")


async def test_dashboard_and_alerts_ask_for_what_there_is(workspace):
    """Every name in them is told, with a budget set and a video published today."""
    await put_video(workspace.store, 1, published_at=datetime.now(UTC))
    names = {name for name, *_ in await told(workspace)} | {"avatar_open_renders"}
    dashboard = json.loads((MONITORING / "dashboard.json").read_text())
    alerts = yaml.safe_load((MONITORING / "alerts.yaml").read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    asked += [rule["expr"] for group in alerts["groups"] for rule in group["rules"]]
    wanted = set(re.findall(r"avatar_[a-z_]+", " ".join(asked)))
    assert wanted - names == set()

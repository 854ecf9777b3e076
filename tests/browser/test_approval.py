"""A dear job and a batch from the Prefect UI: what is asked, what a person answers, and what they see meanwhile."""

import contextlib
import re
from collections.abc import Iterator

import httpx
import pytest
from playwright.sync_api import Browser, Locator, Page, expect
from playwright.sync_api import TimeoutError as NotThere

from avatar.local import find
from avatar.settings import AvatarSettings
from tests.browser.conftest import Up, screenshot, send
from tests.sandbox.running import Sandbox

expect.set_options(timeout=30_000)

pytestmark = [pytest.mark.browser, pytest.mark.server]

#: Milliseconds, as in the other UI tests.
RUN_TIMEOUT = 180_000
JOB = {"Portrait": "examples/portrait.png", "Voice track": "examples/speech.mp3"}


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory, sandbox_process: Sandbox) -> Iterator[Up]:
    """Everything on one machine, with the sandbox as fal; above 95 cents a person is asked."""
    limits = {"AVATAR_BUDGET__APPROVE_ABOVE": "0.95", "AVATAR_BUDGET__PREVIEW_FIRST": "true"}
    running = Up(tmp_path_factory.mktemp("up"), **sandbox_process.fal_env(), **limits)
    yield running
    running.stop()


@pytest.fixture
def page(browser: Browser, up: Up) -> Iterator[Page]:
    """A new window on the deployments."""
    opened = browser.new_page(viewport={"width": 1280, "height": 1270})
    opened.goto(up.ui_url)
    opened.get_by_role("link", name="Deployments").first.click()
    yield opened
    opened.close()


def start(page: Page, deployment: str, **fields: str) -> None:
    """Fill the form of a deployment, submit it, and go to the run's page."""
    page.get_by_role("link", name=deployment, exact=True).first.click()
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Custom run").click()
    for label, text in fields.items():
        page.get_by_label(label).first.fill(text)
    screenshot(page, f"form-{deployment}")
    send(page.get_by_role("button", name="Submit"), "**/create_flow_run")
    page.get_by_role("link", name="View run").click()
    page.wait_for_url("**/flow-run/**")


def ends_as(page: Page, state: str) -> None:
    expect(page.get_by_role("main").get_by_text(state, exact=True).first).to_be_visible(timeout=RUN_TIMEOUT)


def question(page: Page) -> Locator:
    """The form of a suspended run."""
    page.get_by_role("button", name="Open menu").click()
    page.get_by_role("menuitem", name="Resume").click()
    return page.get_by_role("dialog")


def answer(form: Locator, *, approved: bool) -> None:
    """Resume the run with what a person says. Nothing is preset: without a choice the form stays, and says why."""
    choice = form.get_by_role("button", name="Select Answer")
    expect(choice).to_have_text("Select")
    form.get_by_role("button", name="Resume").click()
    expect(form.page.get_by_text("'answer' is a required property")).to_be_visible()
    choice.click()
    options = form.page.get_by_role("option")
    expect(options).to_have_text(["Approve", "Refuse"])
    screenshot(form.page, "approval-choices")
    options.filter(has_text="Approve" if approved else "Refuse").click()
    form.get_by_role("textbox").fill("Anna")
    screenshot(form.page, "approval")
    send(form.get_by_role("button", name="Resume"), "**/resume")
    expect(form).to_be_hidden()


def watch_progress(page: Page, run: str, text: str) -> None:
    """Look at the run's progress again and again until it says so; the page is not brought up to date by itself."""
    progress = page.get_by_role("link", name=re.compile(r"PROGRESS\s+batch-progress-"))
    for _ in range(60):
        page.goto(run)
        page.get_by_role("tab", name="Artifacts").click()
        with contextlib.suppress(AssertionError, NotThere):
            progress.click(timeout=2000)
            return expect(page.get_by_text(re.compile(re.escape(text))).first).to_be_visible(timeout=2000)
    raise AssertionError(f"the progress never said: {text}")


def test_a_person_sees_the_preview_approves_the_price_and_gets_the_video(
    page: Page, up: Up, sandbox: Sandbox
) -> None:
    """Suspended before anything is sent; the form shows price and preview; approved, the job is paid once."""
    start(page, "generate-avatar", **JOB)
    ends_as(page, "Suspended")
    screenshot(page, "suspended")
    assert sandbox.state()["posts"] == 0
    form = question(page)
    expect(form.get_by_role("heading", name="Pay $1.04 to fal?")).to_be_visible()
    link = form.get_by_role("link", name="Watch the free preview").get_attribute("href")
    assert link
    assert "<video" in page.request.get(link).text()
    answer(form, approved=True)
    ends_as(page, "Completed")
    assert sandbox.state()["accepts"] == 1
    assert kinds_of_artifacts(up, page.url) == [
        "approval", "checks", "cost", "preview", "preview-render", "render", "video",
    ]  # fmt: skip


def kinds_of_artifacts(up: Up, run: str) -> list[str]:
    """What each artifact of the run on this page is; those of its preview are apart."""
    run_id = run.partition("?")[0].rstrip("/").rpartition("/")[2]
    api = find(AvatarSettings(_env_file=None, state_dir=up.state_dir)).api_url
    wanted = {"artifacts": {"flow_run_id": {"any_": [run_id]}}}
    found = httpx.post(f"{api}/artifacts/filter", json=wanted, timeout=30).json()
    return sorted(row["key"].rpartition("-")[0] for row in found)


def test_a_refused_job_costs_nothing(page: Page, sandbox: Sandbox) -> None:
    """Refused, the run ends as Failed, with the name of who said no, and nothing was sent."""
    start(page, "generate-avatar", **JOB, Prompt="smiling")
    ends_as(page, "Suspended")
    answer(question(page), approved=False)
    ends_as(page, "Failed")
    page.get_by_role("tab", name="Logs").click()
    page.get_by_role("combobox", name="log sort order").click()
    page.get_by_role("option", name="Newest to oldest").click()
    said = page.get_by_text(re.compile("Anna refused the .1.04 of this job. Nothing was sent or spent"))
    expect(said.first).to_be_visible()
    expect(page.get_by_text("Traceback")).to_have_count(0)
    assert sandbox.state()["posts"] == 0


def test_a_batch_from_the_form_shows_how_far_it_is(page: Page, sandbox: Sandbox) -> None:
    """Approved as a whole, a manifest's rows are rendered; progress and report are artifacts of the run."""
    sandbox.reset(render_seconds=20)
    start(page, "generate-batch", Manifest="examples/jobs.csv")
    ends_as(page, "Suspended")
    form = question(page)
    expect(form.get_by_role("heading", name="Pay up to $2.07 for 2 of 2 rows?")).to_be_visible()
    answer(form, approved=True)
    run = page.url
    watch_progress(page, run, "0 of 2 rows: 0 published; 2 rendering")
    screenshot(page, "batch-progress")
    page.goto(run)
    ends_as(page, "Completed")
    watch_progress(page, run, "2 of 2 rows: 2 published")
    expect(page.get_by_text("Progress: 100%")).to_be_visible()
    page.goto(run)
    page.get_by_role("tab", name="Artifacts").click()
    page.get_by_role("link", name=re.compile(r"MARKDOWN\s+batch-")).click()
    expect(page.get_by_text("2 of 2 rows have a video")).to_be_visible()
    expect(page.get_by_role("row", name="published 2")).to_be_visible()
    expect(page.get_by_role("row", name="billed by this run $1.88")).to_be_visible()
    screenshot(page, "batch-report")
    assert sandbox.state()["accepts"] == 2

"""A job from the Prefect UI, as a person does it: fill the form, watch the run, look at the result."""

import re
import signal

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from avatar.models import AvatarJob
from tests.browser.conftest import Up, screenshot, send

#: Milliseconds the page may take to show what it should, on a busy machine.
expect.set_options(timeout=30_000)

pytestmark = [pytest.mark.browser, pytest.mark.server]

#: Milliseconds: a worker's look for runs, a new Python process and a preview on a busy machine.
RUN_TIMEOUT = 180_000
JOB = {"Portrait": "examples/portrait.png", "Voice track": "examples/speech.mp3"}


def open_form(page: Page) -> None:
    """From the start page to the run form of generate-avatar."""
    page.get_by_role("link", name="Deployments").first.click()
    page.get_by_role("link", name="generate-avatar").first.click()
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Custom run").click()
    expect(page.get_by_role("heading", name="Parameters")).to_be_visible()


@pytest.fixture(scope="module")
def run_url(browser: Browser, up: Up) -> str:
    """Address of the page of a run that was submitted by the form."""
    page = browser.new_page(viewport={"width": 1280, "height": 1270})
    page.goto(up.ui_url)
    open_form(page)
    for label, path in JOB.items():
        page.get_by_label(label).fill(path)
    screenshot(page, "form")
    send(page.get_by_role("button", name="Submit"), "**/create_flow_run")
    page.get_by_role("link", name="View run").click()
    page.wait_for_url("**/flow-run/**")
    url = page.url
    page.close()
    return url


@pytest.fixture
def run_page(page: Page, run_url: str) -> Page:
    """The run's page, once it shows that the run is over."""
    page.goto(run_url)
    over = re.compile("^(Completed|Failed|Crashed)$")
    expect(page.get_by_role("main").get_by_text(over).first).to_be_visible(timeout=RUN_TIMEOUT)
    return page


def open_artifact(page: Page, kind: str, key: str) -> Locator:
    """From the run's page to one artifact; the panel that shows it."""
    page.get_by_role("tab", name="Artifacts").click()
    page.get_by_role("link", name=re.compile(rf"{kind}\s+{key}-")).click()
    panel = page.get_by_role("tabpanel", name="Artifact")
    expect(panel).to_be_visible()
    return panel


def test_the_form_explains_every_field(page: Page) -> None:
    """The run form shows title and description of each field of a job."""
    open_form(page)
    for field in AvatarJob.model_fields.values():
        expect(page.get_by_text(field.description or "", exact=True)).to_be_visible()
        expect(page.get_by_text(re.compile(f"^{field.title}")).first).to_be_visible()


def test_an_empty_form_is_not_submitted(page: Page) -> None:
    """Without portrait and voice there is no run: the form says what is missing."""
    open_form(page)
    page.get_by_role("button", name="Submit").click()
    expect(page.get_by_text(re.compile("required", re.IGNORECASE)).first).to_be_visible()
    expect(page).to_have_url(re.compile(r"/run\?"))


def test_a_job_from_the_form_is_completed(run_page: Page) -> None:
    """The run ends as Completed, under a name that says what was rendered, in at most six task runs."""
    main = run_page.get_by_role("main")
    expect(main.get_by_text("Completed", exact=True)).to_be_visible()
    expect(main.get_by_text("portrait says speech", exact=True)).to_be_visible()
    run_page.reload()  # the server records task runs with a delay
    expect(main.get_by_text(re.compile("^[1-6] Task runs?$"))).to_be_visible()
    expect(run_page.get_by_role("tabpanel", name="Logs").get_by_text("INFO").first).to_be_visible()
    screenshot(run_page, "run")


def test_the_log_tells_the_story(run_page: Page) -> None:
    """The Logs tab says how the render went and where the video is, and shows no traceback."""
    run_page.get_by_role("tab", name="Logs").click()
    log = run_page.get_by_role("tabpanel", name="Logs")
    expect(log.get_by_text(re.compile(r"Published 8\.15 s of video as s3://avatar/videos/"))).to_be_visible()
    expect(log.get_by_text(re.compile(r"Render \w{8}: done, 100%"))).to_be_visible()
    assert not re.search("Traceback|ERROR|WARNING", log.inner_text())
    screenshot(run_page, "logs")


def test_the_page_of_the_video_shows_its_poster(run_page: Page) -> None:
    """The markdown artifact shows the poster, length and price, and links to the video itself."""
    panel = open_artifact(run_page, "MARKDOWN", "video")
    poster = panel.get_by_role("img", name="The video's poster")
    expect(poster).to_be_visible()
    for image in (poster, panel.get_by_role("img", name="Frames over time")):
        assert image.evaluate("image => image.decode().then(() => image.naturalWidth)") > 0
    expect(panel.get_by_role("row", name="Length 8.15 s, 720×720")).to_be_visible()
    expect(panel.get_by_role("row", name="Cost $0.00 (quoted $0.00)")).to_be_visible()
    screenshot(run_page, "artifact")
    link = panel.get_by_role("link", name="Play the video").get_attribute("href")
    assert link
    answer = run_page.request.get(link)
    assert (answer.status, answer.headers["content-type"].split(";")[0]) == (200, "text/html")
    assert "<video" in answer.text()


def test_the_cost_is_a_table(run_page: Page) -> None:
    """The cost artifact has a row for the render with what was quoted and billed, in view."""
    panel = open_artifact(run_page, "TABLE", "cost")
    for heading in ("quoted", "billed"):
        expect(panel.get_by_role("columnheader", name=heading)).to_be_in_viewport()
    expect(panel.get_by_role("row", name=re.compile(r"^preview \$0\.0000 \$0\.0000 pv-"))).to_be_visible()


def test_the_checks_are_a_table(run_page: Page) -> None:
    """The checks artifact has a row for each check, all passed."""
    panel = open_artifact(run_page, "TABLE", "checks")
    expect(panel.get_by_role("row", name=re.compile("^picture length .* ok$"))).to_be_visible()
    rows = panel.get_by_role("row").filter(has=run_page.get_by_role("cell"))
    for row in rows.all():
        expect(row).to_have_text(re.compile(r"ok\s*$"))
    screenshot(run_page, "checks")


def test_the_progress_ends_at_100_per_cent(run_page: Page) -> None:
    """The progress artifact of the render stands at 100 %."""
    panel = open_artifact(run_page, "PROGRESS", "render")
    expect(panel.get_by_text("Progress: 100%")).to_be_visible()


def test_names_fit_their_cards(run_page: Page) -> None:
    """No artifact's name runs out of its card."""
    run_page.get_by_role("tab", name="Artifacts").click()
    names = run_page.get_by_role("tabpanel", name="Artifacts").get_by_role("heading")
    expect(names).to_have_count(4)
    screenshot(run_page, "artifacts")
    assert names.evaluate_all("all => all.filter(name => name.scrollWidth > name.clientWidth).length") == 0


def test_stopping_up_leaves_nothing_behind(up: Up) -> None:
    """SIGTERM ends `avatar up` with exit 0, and with it every process it started."""
    assert len(up.processes()) > 3
    up.process.send_signal(signal.SIGTERM)
    up.process.communicate(timeout=90)
    assert up.process.returncode == 0
    assert up.processes() == []

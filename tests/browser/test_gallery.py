"""The gallery as a person uses it: headless Chromium plays what `avatar up` and `avatar generate` made."""

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Locator, Page, Response, expect

from avatar.job.index import add_video
from avatar.local import find
from avatar.models import Video, VideoState
from avatar.settings import AvatarSettings
from avatar.store.store import Store
from avatar.stored_models import Check
from tests.browser.conftest import ROOT, SCREENSHOTS, Up, screenshot, window

pytestmark = [pytest.mark.browser, pytest.mark.server]

#: Long enough that Chromium does not fetch all of it ahead.
VOICE = "examples/speech-95s.mp3"
#: What a video without a title of its own is called: the name of its voice.
TITLE = "speech-95s"
PROMPT = "speaks calmly to a large audience, with the occasional nod"
SILENT = Check(name="sound", value="silent from 3.1 s on", bound="as loud as the voice", passed=False)
NARROW = {"width": 360, "height": 740}


def avatar(up: Up, *arguments: str) -> str:
    environment = os.environ | {"AVATAR_STATE_DIR": str(up.state_dir), "AVATAR_PREVIEW__FRAME_RATE": "12"}
    command = [sys.executable, "-m", "avatar", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def job_id(up: Up) -> str:
    """A job that was rendered and published; beside it, one that was rejected."""
    told = json.loads(
        avatar(
            up,
            "generate",
            "examples/portrait.png",
            VOICE,
            "--prompt",
            PROMPT,
            "--provider",
            "preview",
            "--json",
        )
    )
    with ThreadPoolExecutor(1) as thread:  # Playwright has its own event loop in this one
        thread.submit(asyncio.run, put_rejected(up, told["job_id"])).result()
    return str(told["job_id"])


async def put_rejected(up: Up, job_id: str) -> None:
    running = find(AvatarSettings(_env_file=None, state_dir=up.state_dir))
    assert running.store
    store = Store(running.store)
    video = Video.model_validate_json((await store.get(f"videos/{job_id}/manifest.json")).data)
    rejected = video.model_copy(
        update={
            "job_id": "rejected",
            "state": VideoState.REJECTED,
            "title": "",
            "prompt": "shouts at the moon",
            "checks": (SILENT, *video.checks),
        }
    )
    await add_video(store, rejected)
    await store.put(
        "videos/rejected/manifest.json", rejected.model_dump_json().encode(), content_type="application/json"
    )
    await store.aclose()


@pytest.fixture(scope="module")
def gallery_url(up: Up, job_id: str) -> str:
    """Where `avatar up` said the gallery is."""
    found = re.search(r"^Gallery +(http://\S+)$", up.said, re.MULTILINE)
    assert found
    assert job_id in httpx.get(found[1]).text
    return found[1]


@pytest.fixture
def shelf(browser: Browser, gallery_url: str) -> Iterator[Page]:
    """A window on the list."""
    with window(browser, gallery_url, 1280, 900) as page:
        yield page


def play(video: Locator) -> None:
    """Click on the picture once it is there, as a person does, and wait until it moves."""
    video.page.wait_for_function("() => document.querySelector('video')?.readyState >= 2")  # deaf before
    video.click()
    video.page.wait_for_function("() => document.querySelector('video').currentTime > 0.5")
    assert video.evaluate("video => [video.videoWidth, video.videoHeight, video.error]") == [720, 720, None]


def whole_page(page: Page, name: str) -> None:
    """A picture of all of it, below the window's edge too."""
    page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)


def fits(page: Page) -> bool:
    """Whether nothing runs out of the window sideways."""
    return bool(page.evaluate("() => document.documentElement.scrollWidth <= window.innerWidth"))


def test_the_video_plays(shelf: Page) -> None:
    """From the list to the video: it has a picture, and the picture moves."""
    screenshot(shelf, "gallery")
    shelf.get_by_role("link", name=TITLE, exact=True).click()
    expect(shelf).to_have_title(re.compile(TITLE))
    expect(shelf.get_by_text(PROMPT)).to_be_visible()
    play(shelf.locator("video"))
    screenshot(shelf, "gallery-player")


def test_seeking_fetches_only_what_is_needed(shelf: Page) -> None:
    """A jump to the end is a request for a range, answered 206, and the video goes on there."""
    answers: list[Response] = []
    shelf.on("response", lambda answer: answers.append(answer) if "/video.mp4" in answer.url else None)
    shelf.get_by_role("link", name=TITLE, exact=True).click()
    play(shelf.locator("video"))
    shelf.locator("video").evaluate("video => { video.currentTime = 85 }")
    shelf.wait_for_function("() => document.querySelector('video').currentTime > 85.5")
    assert {answer.status for answer in answers} == {206}
    starts = [int(answer.headers["content-range"].split()[1].split("-")[0]) for answer in answers]
    size = int(answers[0].headers["content-range"].split("/")[1])
    assert starts[0] == 0
    assert max(starts) > size / 2


def test_posters_voice_and_portrait_load(shelf: Page) -> None:
    """Every picture of both pages decodes, and the voice has its length."""
    for _ in range(2):
        loaded = "images => Promise.all(images.map(image => (image.loading = 'eager', image.decode())))"
        shelf.locator("img").evaluate_all(loaded)
        if shelf.get_by_role("link", name=TITLE, exact=True).count():
            shelf.get_by_role("link", name=TITLE, exact=True).click()
            expect(shelf.locator("video")).to_be_visible()
    shelf.locator("audio").evaluate("audio => { audio.preload = 'metadata'; audio.load() }")
    shelf.wait_for_function("() => Math.abs(document.querySelector('audio').duration - 94.8) < 0.5")


def test_a_search_finds_by_words_and_state(shelf: Page) -> None:
    """Typing and Enter narrow the list, by state too; what was asked stays in the form."""
    shelf.get_by_role("searchbox", name="Search").fill("audience calmly")
    shelf.keyboard.press("Enter")
    expect(shelf.get_by_role("listitem")).to_have_count(1)
    expect(shelf.get_by_role("link", name=TITLE, exact=True)).to_be_visible()
    expect(shelf.get_by_role("searchbox", name="Search")).to_have_value("audience calmly")
    shelf.get_by_role("link", name="show all").click()
    shelf.get_by_label("State").select_option("rejected")
    shelf.get_by_role("button", name="Search").click()
    expect(shelf.get_by_role("heading", level=2)).to_have_text(["shouts at the moon"])


def test_a_rejected_video_says_why(shelf: Page) -> None:
    """The reason is the first thing on its page, in view without scrolling."""
    shelf.get_by_role("link", name="shouts at the moon").click()
    alert = shelf.get_by_role("alert")
    expect(alert).to_contain_text("sound is silent from 3.1 s on, should be as loud as the voice")
    expect(alert).to_be_in_viewport(ratio=1)
    screenshot(shelf, "gallery-rejected")


def test_the_keyboard_is_enough(shelf: Page) -> None:
    """Tab shows where one is, begins with a way past the header, and reaches every video; Enter opens it."""
    shelf.keyboard.press("Tab")
    expect(shelf.get_by_role("link", name="Skip to the content")).to_be_focused()
    expect(shelf.get_by_role("link", name="Skip to the content")).to_be_in_viewport()
    shelf.keyboard.press("Enter")
    shelf.keyboard.press("Tab")
    first = shelf.get_by_role("listitem").first
    expect(first.get_by_role("link")).to_be_focused()
    assert first.evaluate("card => getComputedStyle(card).outlineStyle") == "solid"
    shelf.keyboard.press("Enter")
    expect(shelf.locator("video")).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out(shelf: Page, scheme: str) -> None:
    """Every piece of text has a contrast of 4.5 or more against what is behind it, in light and in dark."""
    shelf.emulate_media(color_scheme=scheme)
    faint = shelf.evaluate(FAINT)
    screenshot(shelf, f"gallery-{scheme}")
    shelf.get_by_role("link", name="shouts at the moon").click()
    expect(shelf.get_by_role("alert")).to_be_visible()
    whole_page(shelf, f"gallery-player-{scheme}")
    assert faint + shelf.evaluate(FAINT) == []


#: Texts with too little contrast (WCAG 2.2, 1.4.3), by the colours that the browser computed.
FAINT = """() => {
  const channels = text => text.match(/[0-9.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(c => c / 255)
    .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = element => {
    for (let at = element; at; at = at.parentElement) {
      const [r, g, b, a = 1] = channels(getComputedStyle(at).backgroundColor);
      if (a > 0.7) return [r, g, b];
    }
    return [255, 255, 255];
  };
  const texts = [...document.querySelectorAll('body *')].filter(element =>
    element.tagName !== 'OPTION' && [...element.childNodes].some(node => node.nodeType === 3 && node.data.trim()));
  return texts.map(element => {
    const [dark, bright] = [light(channels(getComputedStyle(element).color)), light(behind(element))].sort((a, b) => a - b);
    return [element.textContent.trim().slice(0, 40), (bright + 0.05) / (dark + 0.05)];
  }).filter(([, contrast]) => contrast < 4.5);
}"""


def test_a_telephone_is_wide_enough(shelf: Page) -> None:
    """At 360 pixels nothing runs out sideways, and the video plays in view."""
    shelf.set_viewport_size(NARROW)
    assert fits(shelf)
    screenshot(shelf, "gallery-360")
    shelf.get_by_role("link", name=TITLE, exact=True).click()
    expect(shelf.locator("video")).to_be_in_viewport(ratio=0.5)
    assert fits(shelf)
    whole_page(shelf, "gallery-player-360")


def test_pages_work_without_javascript(browser: Browser, gallery_url: str) -> None:
    """List, search and player are there with scripts switched off."""
    with browser.new_context(java_script_enabled=False) as context:
        page = context.new_page()
        page.goto(gallery_url)
        page.get_by_role("searchbox", name="Search").fill("audience")
        page.get_by_role("button", name="Search").click()
        page.get_by_role("link", name=TITLE, exact=True).click()
        expect(page.locator("video")).to_be_visible()


def test_an_exported_folder_plays_from_disk(browser: Browser, up: Up, job_id: str, tmp_path: Path) -> None:
    """`avatar export`, then index.html opened as a file: the list leads to the player, and the video plays."""
    avatar(up, "export", str(tmp_path / "out"))
    page = browser.new_page()
    page.goto((tmp_path / "out" / "index.html").as_uri())
    expect(page.get_by_role("listitem")).to_have_count(2)
    page.get_by_role("link", name=TITLE, exact=True).click()
    assert page.url.startswith("file://")
    play(page.locator("video"))
    page.locator("video").evaluate("video => { video.currentTime = 85 }")
    page.wait_for_function("() => document.querySelector('video').currentTime > 85.5")
    screenshot(page, "gallery-export")
    page.close()

"""`avatar up` as a real process, and a person at the Prefect UI: headless Chromium."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, sync_playwright
from playwright.sync_api import TimeoutError as NotThere

from avatar.local import find
from avatar.settings import AvatarSettings
from tests.up import until_ready, with_database

ROOT = Path(__file__).parents[2]
CHROMIUM = Path("/usr/bin/chromium")
#: As root in a container there is no sandbox to be had; the rest keeps it from calling home.
SWITCHES = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SCREENSHOTS = ROOT / "out" / "screenshots"


class Up:
    """A running `avatar up`, stopped as a supervisor would: by SIGTERM."""

    def __init__(self, state_dir: Path, **settings: str) -> None:
        self.state_dir = state_dir
        with_database(state_dir / "prefect")
        # $PWD is where the deployment's runs start; a shell sets it, Popen does not.
        environment = os.environ | settings | {"AVATAR_STATE_DIR": str(state_dir), "PWD": str(ROOT)}
        command = [sys.executable, "-m", "avatar", "up"]
        pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        self.process = subprocess.Popen(command, cwd=ROOT, env=environment, text=True, **pipe)
        self.said = until_ready(self.process)
        self.ui_url = find(AvatarSettings(_env_file=None, state_dir=state_dir)).ui_url

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.communicate(timeout=90)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()
        return self.process.returncode

    def processes(self) -> list[str]:
        """Command lines of every process that was started with this state directory."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if os.fsencode(self.state_dir) in (process / "environ").read_bytes():
                    found.append((process / "cmdline").read_text().replace("\0", " "))
            except OSError:
                continue  # it has ended, or is another user's
        return found


@pytest.fixture(scope="session")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """Everything on one machine: store, Prefect server, deployments, worker. The last test of test_ui.py stops it."""
    running = Up(tmp_path_factory.mktemp("up"))
    yield running
    running.stop()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium, closed before another module's tests: Playwright keeps an event loop running in this thread."""
    if not CHROMIUM.exists():
        pytest.skip(f"there is no {CHROMIUM}; install Debian's chromium to run the browser tests")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=SWITCHES)
        yield opened
        opened.close()


@pytest.fixture
def page(browser: Browser, up: Up) -> Iterator[Page]:
    """A new window on the UI's start page."""
    opened = browser.new_page(viewport={"width": 1280, "height": 1000})
    opened.goto(up.ui_url)
    yield opened
    opened.close()


@contextlib.contextmanager
def window(browser: Browser, url: str, width: int, height: int) -> Iterator[Page]:
    """A window on a page of ours, in which nothing may go wrong unseen."""
    page = browser.new_page(viewport={"width": width, "height": height})
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(url)
    yield page
    page.close()
    assert complaints == []


def send(button: Locator, url: str) -> None:
    """Press a form's button until the server has taken it: while SQLite is locked Prefect answers 503, and says so."""
    for _ in range(6):
        with contextlib.suppress(NotThere):
            with button.page.expect_response(url) as sent:
                button.click(timeout=10_000)
            if sent.value.status != HTTPStatus.SERVICE_UNAVAILABLE:
                assert sent.value.status == HTTPStatus.CREATED, sent.value.text()
                return
    raise AssertionError(f"{url} did not take the form")


def screenshot(page: Page, name: str, *, whole: bool = False) -> None:
    """Keep what a person sees, for looking at; `whole`: down to the end of the page. With `UPDATE_DOCS=1`, the pictures of the docs are taken anew."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=whole)
    picture = ROOT / "docs" / "images" / f"{name}.jpg"
    if os.environ.get("UPDATE_DOCS") and picture.exists():
        page.screenshot(path=picture, type="jpeg", quality=60)

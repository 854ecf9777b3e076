"""From two files to a video, and from a table to thirty of them, in the browser alone: what a producer does."""

import asyncio
import base64
import csv
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from avatar.local import find
from avatar.models import VideoState
from avatar.settings import AvatarSettings
from avatar.store.store import Store
from tests.browser.conftest import ROOT, Up, screenshot, window
from tests.sandbox import samples
from tests.sandbox.running import Sandbox
from tests.web.gallery.manifests import FAILED, put_video

expect.set_options(timeout=30_000)

#: One story, whose first test waits for all of `avatar up`.
pytestmark = [pytest.mark.browser, pytest.mark.server, pytest.mark.timeout(900)]

AXE = Path(__file__).parent / "axe" / "axe.min.js"
EXAMPLES = ROOT / "examples"
#: Milliseconds that a run may take on a busy machine.
RUN_TIMEOUT = 240_000
REJECTED = "f" * 32
#: A video whose title and label have no place to break.
LONG = "e" * 32
ROWS = 30


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory, sandbox_process: Sandbox) -> Iterator[Up]:
    """Everything on one machine, with the sandbox as fal; above 95 cents a person is asked."""
    sandbox_process.reset()
    limits = {
        "AVATAR_BUDGET__APPROVE_ABOVE": "0.95",
        "AVATAR_BUDGET__PER_DAY": "50",
        "AVATAR_BUDGET__PREVIEW_FIRST": "true",
    }
    running = Up(tmp_path_factory.mktemp("up"), **sandbox_process.fal_env(), **limits)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def gallery(up: Up) -> str:
    found = re.search(r"^Gallery +(http://\S+)$", up.said, re.MULTILINE)
    assert found
    with ThreadPoolExecutor(1) as thread:  # Playwright has its own event loop in this one
        thread.submit(asyncio.run, put_rejected(up)).result()
    return found[1]


async def put_rejected(up: Up) -> None:
    running = find(AvatarSettings(_env_file=None, state_dir=up.state_dir))
    assert running.store
    store = Store(running.store)
    facts = {
        "job_id": REJECTED,
        "state": VideoState.REJECTED,
        "title": "Spring greeting",
        "checks": (FAILED,),
    }
    await put_video(store, 1, **facts)
    label = {"campaign": "x" * 60}
    await put_video(store, 2, job_id=LONG, title="Donaudampfschifffahrtsgesellschaft" * 4, labels=label)
    await store.aclose()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a producer has: a portrait, recordings, and a table of thirty rows."""
    made = tmp_path_factory.mktemp("files")
    (made / "anna.png").write_bytes((EXAMPLES / "portrait.png").read_bytes())
    (made / "welcome_de.mp3").write_bytes((EXAMPLES / "speech.mp3").read_bytes())
    with (made / "may.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["portrait", "voice", "title"])
        for number in range(1, ROWS + 1):
            samples.write_voice(made / f"greeting-{number:02}.wav", 2.1 + number / 100)
            writer.writerow(["anna.png", f"greeting-{number:02}.wav", f"Greeting {number}"])
    return made


@pytest.fixture
def page(browser: Browser, gallery: str) -> Iterator[Page]:
    """A window on the list."""
    with window(browser, gallery, 1400, 1000) as opened:
        yield opened


def drop(page: Page, *files: Path) -> None:
    """Files let go over the area, as from a file manager; waits until all of them are there."""
    given = [[each.name, base64.b64encode(each.read_bytes()).decode()] for each in files]
    transfer = page.evaluate_handle(
        """files => files.reduce((transfer, [name, data]) => {
          const bytes = Uint8Array.from(atob(data), each => each.charCodeAt(0));
          transfer.items.add(new File([bytes], name));
          return transfer;
        }, new DataTransfer())""",
        given,
    )
    area = page.locator("[data-drop]")
    area.dispatch_event("dragover", {"dataTransfer": transfer})
    area.dispatch_event("drop", {"dataTransfer": transfer})
    expect(page.get_by_role("button", name=re.compile("^Remove "))).to_have_count(len(files), timeout=60_000)


def offer(page: Page, provider: str) -> Locator:
    """What a provider asks with the settings' model: the first of its offers."""
    found = page.get_by_role("listitem").filter(has=page.get_by_role("heading", name=provider, exact=True))
    expect(found.first).to_be_visible(timeout=60_000)
    return found.first


def waits(page: Page, amount: str) -> Locator:
    """The button that approves, once the run asks."""
    button = page.get_by_role("button", name=f"Approve {amount}")
    expect(button).to_be_visible(timeout=RUN_TIMEOUT)
    return button


def test_two_files_become_a_video(page: Page, folder: Path, sandbox_process: Sandbox) -> None:
    """Dropped, priced with their cuts, approved, watched, and downloaded under the title's name."""
    page.get_by_role("link", name="New video").click()
    screenshot(page, "desk-empty")
    drop(page, folder / "anna.png", folder / "welcome_de.mp3")
    page.get_by_label("Title").fill("Welcome")
    page.get_by_label("Language").fill("de")
    page.get_by_label("Labels").fill("campaign=spring, client=acme")
    page.get_by_role("button", name="See the price").click()
    expect(page.get_by_role("img", name="Waveform of welcome_de.mp3: 8.14 s in 1 segment")).to_be_visible()
    expect(page.get_by_text(re.compile("^.50.00 of today.s budget left"))).to_be_visible()
    fal = offer(page, "fal")
    expect(fal).to_contain_text("$0.115 a second, 9 s billed in 1 part")
    expect(offer(page, "preview")).to_contain_text("Render for free")
    expect(page.get_by_text("Looking at every file")).to_have_count(0)
    screenshot(page, "desk-price")
    assert sandbox_process.state()["posts"] == 0
    KEPT["price"] = page.url
    fal.get_by_role("button", name="Buy for $1.04").click()
    approve = waits(page, "$1.04")
    screenshot(page, "desk-approval")
    assert sandbox_process.state()["posts"] == 0
    KEPT["run"] = page.url
    approve.click()
    expect(page.get_by_role("link", name="Open the video")).to_be_visible(timeout=RUN_TIMEOUT)
    screenshot(page, "desk-done")
    page.get_by_role("link", name="Open the video").click()
    KEPT["welcome"] = page.url
    expect(page.get_by_role("heading", level=1)).to_have_text("Welcome")
    page.wait_for_function("() => document.querySelector('video')?.readyState >= 2")
    page.locator("video").click()
    page.wait_for_function("() => document.querySelector('video').currentTime > 0.5")
    screenshot(page, "desk-video")
    for text in ("anna.png", "welcome_de.mp3"):
        expect(page.get_by_text(text)).to_be_visible()
    with page.expect_download() as download:
        press(page, page.get_by_role("link", name="Download"))
    assert download.value.suggested_filename == "Welcome_de.mp4"
    assert sandbox_process.state()["accepts"] == 1


def test_it_is_found_by_title_and_label(page: Page) -> None:
    """Words of the title find it, and so does a click on its label."""
    page.get_by_role("searchbox", name="Search").fill("welcome")
    page.keyboard.press("Enter")
    page.get_by_role("link", name="Welcome", exact=True).first.click()
    page.get_by_role("link", name="client=acme").click()
    expect(page.get_by_text("labelled client=acme")).to_be_visible()
    expect(page.get_by_role("heading", level=2).first).to_have_text("Welcome")


def test_take_two_beside_take_one(page: Page, sandbox_process: Sandbox) -> None:
    """Another take has its price, is approved, and plays beside the first: by keyboard."""
    before = sandbox_process.state()["accepts"]
    open_paid(page)
    press(page, page.get_by_role("button", name="Another take for $1.04"))
    press(page, waits(page, "$1.04"))
    expect(page.get_by_text("Completed")).to_be_visible(timeout=RUN_TIMEOUT)
    assert sandbox_process.state()["accepts"] == before + 1
    page.get_by_role("link", name="Videos", exact=True).click()
    open_paid(page)
    press(page, page.get_by_role("link", name=re.compile("^See (first take|take 1) and this one")))
    page.wait_for_function(
        "() => [...document.querySelectorAll('video')].every(each => each.readyState >= 2)"
    )
    press(page, page.get_by_role("button", name="Play both"))
    page.wait_for_function(
        "() => [...document.querySelectorAll('video')].every(each => each.currentTime > 0.3)"
    )
    screenshot(page, "desk-compare")


def open_paid(page: Page) -> None:
    """The newest video that fal made."""
    page.get_by_label("Provider").select_option("fal")
    page.get_by_role("searchbox", name="Search").fill("welcome")
    page.get_by_role("button", name="Search").click()
    page.get_by_role("link", name="Welcome", exact=True).first.click()


def test_a_refused_one_costs_nothing(page: Page, folder: Path, sandbox_process: Sandbox) -> None:
    """By keyboard alone: the run waits on Needs you, is refused there, and says so."""
    before = sandbox_process.state()["posts"]
    page.get_by_role("link", name="New video").click()
    page.get_by_label("Choose files").set_input_files([folder / "anna.png", folder / "welcome_de.mp3"])
    expect(page.get_by_role("button", name=re.compile("^Remove "))).to_have_count(2)
    page.get_by_label("Prompt").fill("smiling warmly")
    press(page, page.get_by_role("button", name="See the price"))
    press(page, offer(page, "fal").get_by_role("button", name="Buy for $1.04"))
    expect(page.get_by_role("button", name="Refuse")).to_be_visible(timeout=RUN_TIMEOUT)
    press(page, page.get_by_role("link", name="Needs you"))
    expect(page.get_by_text("asks before it pays $1.04")).to_be_visible()
    screenshot(page, "desk-needs-you")
    press(page, page.get_by_role("link", name="Look and decide"))
    press(page, page.get_by_role("button", name="Refuse"))
    expect(page.get_by_role("status").filter(has_text="Failed")).to_be_visible(timeout=RUN_TIMEOUT)
    assert sandbox_process.state()["posts"] == before


def press(page: Page, target: Locator) -> None:
    """Go there with Tab, and press Enter."""
    expect(target).to_be_visible()
    for _ in range(100):
        page.keyboard.press("Tab")
        if target.evaluate("element => element === document.activeElement"):
            assert target.evaluate("element => getComputedStyle(element).outlineStyle") == "solid"
            page.keyboard.press("Enter")
            return
    raise AssertionError("Tab does not lead there")


def test_a_rejected_one_is_accepted(page: Page) -> None:
    """By keyboard, from Needs you to its page; published as it is, for nothing."""
    press(page, page.get_by_role("link", name="Needs you"))
    press(page, page.get_by_role("link", name="Watch Spring greeting and decide"))
    press(page, page.get_by_role("button", name="Publish it as it is"))
    expect(page.get_by_text("published", exact=True).first).to_be_visible()
    expect(page.get_by_role("alert")).to_have_count(0)


def test_a_table_and_its_files_become_thirty_videos(
    page: Page, folder: Path, sandbox_process: Sandbox
) -> None:
    """Dropped together, priced, approved as a whole, watched card by card, reported."""
    before = sandbox_process.state()["accepts"]
    page.get_by_role("link", name="New video").click()
    drop(page, *sorted(folder.glob("greeting-*.wav")), folder / "may.csv", folder / "anna.png")
    page.get_by_label("Title").fill("May greetings")
    page.get_by_role("button", name="See the price").click()
    expect(page.get_by_text(f"{ROWS} rows to render.")).to_be_visible()
    fal = offer(page, "fal")
    expect(fal).to_contain_text(f"for {ROWS} of {ROWS} rows")
    KEPT["batch-price"] = page.url
    screenshot(page, "desk-batch-price")
    fal.get_by_role("button", name=re.compile("^Buy for")).click()
    expect(page.get_by_role("button", name=re.compile("^Approve"))).to_be_visible(timeout=RUN_TIMEOUT)
    press(page, page.get_by_role("button", name=re.compile("^Approve")))
    expect(page.get_by_text("Completed")).to_be_visible(timeout=RUN_TIMEOUT)
    page.get_by_role("link", name="The batch and its report").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("May greetings")
    expect(page.get_by_text(f"{ROWS} published", exact=True)).to_be_visible()
    card = page.get_by_role("listitem").filter(has=page.get_by_role("link", name="Greeting 7", exact=True))
    with page.expect_download() as video:
        card.get_by_role("link", name="Download").click()
    assert video.value.suggested_filename == "Greeting_7.mp4"
    card.get_by_role("link", name="Greeting 7", exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Greeting 7")
    page.go_back()
    KEPT["batch"] = page.url
    screenshot(page, "desk-batch")
    with page.expect_download() as download:
        press(page, page.get_by_role("link", name="Download the report"))
    rows = list(csv.DictReader(Path(download.value.path()).read_text().splitlines()))
    assert [row["state"] for row in rows] == ["published"] * ROWS
    page.get_by_role("link", name="Batches", exact=True).click()
    listed = page.get_by_role("listitem").filter(
        has=page.get_by_role("link", name="May greetings", exact=True)
    )
    expect(listed).to_contain_text(f"{ROWS} published · {ROWS} rows")
    assert sandbox_process.state()["accepts"] == before + ROWS


@pytest.mark.parametrize("width", [360, 1400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_is_for_everybody(page: Page, gallery: str, scheme: str, width: int) -> None:
    """axe-core finds no serious fault, and nothing runs out sideways."""
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    for name, address in addresses(page, gallery).items():
        page.goto(address)
        page.evaluate(AXE.read_text())
        found = page.evaluate("() => axe.run().then(found => found.violations)")
        serious = [
            (each["id"], [node["html"] for node in each["nodes"]])
            for each in found
            if each["impact"] in {"serious", "critical"}
        ]
        assert serious == [], f"{name}, {scheme}, {width}"
        assert page.evaluate("() => document.documentElement.scrollWidth <= window.innerWidth"), name
        screenshot(page, f"page-{name}-{scheme}-{width}", whole=True)


def addresses(page: Page, gallery: str) -> dict[str, str]:
    """Every kind of page, by what the tests before left there."""
    videos = page.evaluate("() => [...document.querySelectorAll('.tile a')].map(link => link.href)")
    ids = [address.rpartition("/")[2] for address in videos]
    return {
        "list": gallery,
        "search": f"{gallery}?q=welcome&label=client%3Dacme",
        "video": videos[0],
        "rejected": f"{gallery}videos/{REJECTED}",
        "long": f"{gallery}videos/{LONG}",
        "long-found": f"{gallery}?q=donaudampf",
        "compare": f"{gallery}compare/{ids[0]}/{LONG}",
        "new": f"{gallery}new",
        "attention": f"{gallery}attention",
        "batches": f"{gallery}batches",
    } | KEPT


#: Addresses that a test leaves for those after it.
KEPT: dict[str, str] = {}


def test_nothing_forged_doubled_reordered_or_oversized_is_spent(
    page: Page, gallery: str, up: Up, sandbox_process: Sandbox
) -> None:
    """Fifty requests and more that no page of ours sends: no paid request, no run, nothing told of what is there."""
    before = sandbox_process.state()["posts"], runs_of(up)
    cookies = {each["name"]: each["value"] for each in page.context.cookies()}
    page.goto(f"{gallery}new")
    token = page.locator("form.order").get_attribute("data-token") or ""
    own = {"origin": gallery.rstrip("/"), "sec-fetch-site": "same-origin"}
    fields = {
        "token": token,
        "price": "1.04",
        "once": "x" * 22,
        "provider": "fal",
        "take": "1",
        "amount": "1.04",
    }
    fields |= {"model": "kling-ai-avatar-v2-pro", "answer": "approve"}
    order, run = (KEPT[name].split("#")[0].split("?")[0] for name in ("price", "run"))
    paths = [f"{order}/start", f"{run}/answer", f"orders/{'a' * 32}/start", f"videos/{REJECTED}/take"]
    paths += [f"renders/{'b' * 32}/settle"]
    forms = [
        ({"origin": "https://evil.example"}, {}),
        ({"origin": "null"}, {}),
        ({"sec-fetch-site": "cross-site"}, {}),
        ({"cookie": ""}, {}),
        ({}, {"token": ""}),
        ({}, {"token": "0" * 64}),
        ({}, {"once": "x", "price": "0.01", "amount": "0.01"}),
        ({}, {"filler": "x" * 2_000_000}),
        ({}, {"provider": "../fal", "take": "-1", "answer": "", "portrait": "journal/x"}),
        ({"content-type": "text/plain"}, {}),
    ]
    with httpx.Client(base_url=gallery, cookies=cookies, timeout=60, trust_env=False) as client:
        answers = [
            client.post(path, data=fields | change, headers=own | headers)
            for path in paths
            for headers, change in forms
        ]
        answers += out_of_order(client, fields, own, run)
    assert len(answers) == 56
    assert {answer.status_code for answer in answers} <= {400, 403, 404, 409, 413, 415, 429}
    for answer in answers:
        assert "Traceback" not in answer.text
        assert sandbox_process.key not in answer.text
    assert all("<h1>" in answer.text for answer in answers[:50])
    assert (sandbox_process.state()["posts"], runs_of(up)) == before


def out_of_order(
    client: httpx.Client, fields: dict[str, str], own: dict[str, str], run: str
) -> list[httpx.Response]:
    """What comes twice, too late, before what it follows, or longer than it was announced, from a page of ours."""
    token = {"x-csrf-token": fields["token"]} | own
    begun = client.post("uploads", json={"name": "late.wav", "size": 8}, headers=token)
    part = f"uploads/{begun.json()['id']}"
    late = [
        client.patch(part, content=sent, headers=token | {"upload-offset": offset})
        for sent, offset in ((b"late", "4"), (b"RIFF" * 9, "0"), (b"RIFF", "-1"), (b"RIFF", "x"))
    ]
    # The run was approved and has ended: the same answer again, twice.
    return late + [client.post(f"{run}/answer", data=fields, headers=own) for _ in range(2)]


def runs_of(up: Up) -> int:
    """How many runs the Prefect server has of what the gallery starts."""
    tagged = {"flow_runs": {"tags": {"all_": ["gallery"]}}}
    api = find(AvatarSettings(_env_file=None, state_dir=up.state_dir)).api_url
    return int(httpx.post(f"{api}/flow_runs/count", json=tagged, timeout=30).json())

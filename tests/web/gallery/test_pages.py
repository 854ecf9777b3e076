"""What a person is shown: the list, the player's page, and an error for every failure."""

import asyncio
import re
from datetime import timedelta

import pytest

from avatar.local.processes import free_port
from avatar.money.entries import RenderState
from avatar.money.journal import Journal, is_indexed
from avatar.web import video_list
from avatar.web.gallery import take_id
from avatar.web.pages import download_name, run_page
from tests.store.conftest import Relay
from tests.store.memory import MemoryStore
from tests.web.gallery.manifests import FAILED, PASSED, START, make_video, put_manifest, put_video, render


def tiles(html):
    return re.findall(r'<li class="tile">(.*?)</li>', html, re.DOTALL)


async def test_an_empty_store_says_how_to_begin(gallery):
    """No video is no error: the page says so, and how to make one."""
    answer = await gallery.get("/")
    assert (answer.status_code, tiles(answer.text)) == (200, [])
    assert "avatar generate" in answer.text


async def test_the_newest_video_comes_first(store, gallery):
    """Published and rejected videos stand in the order of their time, each with still, price and link."""
    await put_video(store, 1, state="rejected", checks=(FAILED,))
    await put_video(store, 2)
    newest, oldest = tiles((await gallery.get("/")).text)
    assert "hello number 2" in newest
    assert "rejected" not in newest
    assert "$0.94" in newest
    assert f'href="videos/{2:032x}"' in newest
    assert f'src="media/videos/{2:032x}/poster.jpg"' in newest
    assert '<span class="badge bad">rejected</span>' in oldest


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({"q": "NUMBER req-2"}, [2]),
        ({"q": "hello  req-3 "}, [3]),
        ({"q": f"{1:032x}"}, [1]),
        ({"q": "req-3"}, [3]),
        ({"q": "preview"}, [3]),
        ({"q": "nobody"}, []),
        ({"state": "rejected"}, [2]),
        ({"provider": "fal"}, [2, 1]),
        ({"provider": "fal", "state": "published", "q": "hello"}, [1]),
        ({"state": "no-such-state"}, []),
    ],
)
async def test_a_search_takes_what_has_every_word(store, gallery, query, found):
    """Words are looked for in prompt, ids, provider and requests; state and provider narrow."""
    await put_video(store, 1)
    await put_video(store, 2, state="rejected")
    await put_video(store, 3, provider="preview")
    shown = tiles((await gallery.get("/", params=query)).text)
    assert [number for card in shown for number in (1, 2, 3) if f"hello number {number}" in card] == found


async def test_pages_lead_through_everything_once(store, gallery, monkeypatch):
    """Following “Older” from the first page shows every video once; past the end is the last page."""
    monkeypatch.setattr("avatar.web.video_list.PER_PAGE", 2)
    for number in range(1, 6):
        await put_manifest(store, make_video(number))
    seen, address = [], "/?q=hello"
    while address:
        html = (await gallery.get(address)).text
        seen += re.findall(r"hello number (\d)</a>", html)
        older = re.search(r'rel="next" href="(?:\./)?([^"]+)"', html)
        address = "/" + older[1].replace("&amp;", "&") if older else None
    assert seen == ["5", "4", "3", "2", "1"]
    assert (await gallery.get("/?before=nonsense")).text == (await gallery.get("/")).text


async def indexed(store, gallery):
    """The list, once what was stored before there was an index is in it."""
    async with asyncio.timeout(20):
        while not await is_indexed(store):
            await asyncio.sleep(0.02)
    return (await gallery.get("/")).text


async def test_a_manifest_that_cannot_be_read_is_shown_as_such(store, open_gallery):
    """One damaged manifest neither hides itself nor the others."""
    await put_video(store, 1)
    await store.put("videos/broken/manifest.json", b'{"job_id": "broken"}', content_type="application/json")
    gallery = await open_gallery()
    shown = tiles(await indexed(store, gallery))
    assert len(shown) == 2
    assert "This manifest cannot be read" in shown[0]
    page = await gallery.get("/videos/broken")
    assert page.status_code == 404
    assert "This manifest cannot be read" in page.text


async def test_a_manifest_of_another_job_is_not_believed(store, open_gallery):
    """A manifest copied to another job's place is not shown as that job's video."""
    await store.put(
        "videos/other/manifest.json",
        make_video(1).model_dump_json().encode(),
        content_type="application/json",
    )
    assert "names another job" in await indexed(store, await open_gallery())


async def test_changes_in_the_store_appear(store, gallery, monkeypatch):
    """New and changed videos are there with the next page, and only what changed is read again."""
    await put_video(store, 1)
    await put_video(store, 2)
    assert len(tiles((await gallery.get("/")).text)) == 2
    read, real = [], video_list.read_summary

    async def counted(of, key):
        read.append(int(key[-37:-5], 16))
        return await real(of, key)

    monkeypatch.setattr(video_list, "read_summary", counted)
    await put_video(store, 2, prompt="another prompt")
    await put_video(store, 3)
    html = (await gallery.get("/")).text
    assert ("another prompt" in html, "number 3" in html, "number 1" in html) == (True, True, True)
    assert sorted(read) == [2, 3]


async def test_a_store_that_fails_is_no_empty_gallery(open_gallery, store_settings):
    """Without the store every page is a 503 that says so and when to come back."""
    gone = store_settings.model_copy(update={"endpoint": f"127.0.0.1:{free_port(0)}"})
    gallery = await open_gallery(store=gone)
    for path in ("/", f"/videos/{1:032x}", "/media/assets/a.png"):
        answer = await gallery.get(path)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        assert "No usable answer from the store" in answer.text


async def test_a_failure_is_told_and_forgotten_when_the_store_is_back(
    seaweed, store, store_settings, open_gallery
):
    """The page says so, and shows the videos again afterwards."""
    await put_video(store, 1)
    async with Relay(seaweed.endpoint) as relay:
        gallery = await open_gallery(store=store_settings.model_copy(update={"endpoint": relay.address}))
        assert len(tiles(await indexed(store, gallery))) == 1
        relay.faults["GET"] = ["503"] * 3
        assert (await gallery.get("/")).status_code == 503
        assert len(tiles((await gallery.get("/")).text)) == 1


async def test_a_published_video_has_its_page_at_once(store, gallery):
    """The player's page asks the store itself: player, figures, checks, inputs, requests."""
    await gallery.get("/")
    video = await put_video(store, 7)
    answer = await gallery.get(f"/videos/{video.job_id}")
    assert answer.status_code == 200
    assert f'src="../media/{video.key}"' in answer.text
    assert f'poster="../media/{video.poster_key}"' in answer.text
    assert f'<audio controls preload="none" src="../media/{video.voice.source.key}"' in answer.text
    for text in (
        "picture length",
        "req-7",
        "$0.94",
        "The journal holds nothing about this render",
        "31.00 s",
    ):
        assert text in answer.text


async def test_what_a_producer_needs_comes_first(store, gallery):
    """Title, video, download and inputs; hashes, checks and requests are folded under them. Times are made local."""
    video = await put_video(store, 7, title="Welcome", labels={"campaign": "spring"})
    html = (await gallery.get(f"/videos/{video.job_id}")).text
    wanted = [
        "<h1>Welcome",
        "data-local>",
        "<video",
        ">Download<",
        "spring",
        'id="inputs"',
        '<details class="engineering">',
    ]
    places = [html.index(each) for each in wanted]
    assert places == sorted(places)
    assert min(html.index(each) for each in ("picture length", "req-7", f"<code>{video.sha256}")) > places[-1]
    assert '<time datetime="2026-01-01T12:07:00+00:00" data-local>' in html
    listed = (await gallery.get("/")).text
    assert "Welcome" in listed
    assert f">{video.job_id}" not in listed


async def test_a_rejected_video_says_why_first(store, gallery):
    """The reason stands above the player, with what it cost."""
    video = await put_video(store, 1, state="rejected", checks=(PASSED, FAILED))
    html = (await gallery.get(f"/videos/{video.job_id}")).text
    alert, player = html.index('role="alert"'), html.index("<video")
    assert "<strong>sound</strong> is silent, should be as loud as the voice" in html[alert:player]
    assert "$0.94 was charged" in html[alert:player]


async def test_the_journal_of_a_render_is_told(store, gallery):
    """Every step of every render, with what the provider said."""
    journal = Journal(store, lease_seconds=60)
    wanted = render(1)
    record = await journal.begin(
        None, render_id=wanted.render_id, job_id="j", provider="fal", quoted=wanted.quoted
    )
    refusal = {"kind": "refused", "message": "the portrait shows no <face>"}
    await journal.append(record, RenderState.REFUSED, failure=refusal)
    await put_video(store, 1)
    html = (await gallery.get(f"/videos/{1:032x}")).text
    assert "<td>intent</td>" in html
    assert "<td>refused</td>" in html
    assert "the portrait shows no &lt;face&gt;" in html


async def test_a_damaged_journal_hides_nothing_else(store, gallery):
    """A journal that cannot be read is named as such beside its render."""
    video = await put_video(store, 1)
    await store.put(
        f"journal/{video.renders[0].render_id}/000001.json", b"{}", content_type="application/json"
    )
    answer = await gallery.get(f"/videos/{video.job_id}")
    assert answer.status_code == 200
    assert "The journal of this render cannot be read" in answer.text


async def test_what_comes_from_a_manifest_is_text(store, gallery):
    """Markup in a prompt, a check or a search is shown, not obeyed; keys outside what is served are no links."""
    evil = '"><script>alert(1)</script>'
    hostile = {"poster_key": "../../etc/passwd", "contact_key": "journal/x"}
    video = await put_manifest_only(
        store, prompt=evil, checks=(PASSED.model_copy(update={"value": evil}),), **hostile
    )
    for path in ("/", f"/videos/{video.job_id}", f"/?q={evil}", "/?state=%3Cscript%3E"):
        html = (await gallery.get(path)).text
        assert "<script>" not in html
        assert "etc/passwd" not in html
        assert "journal/x" not in html


async def put_manifest_only(store, **facts):
    video = make_video(1, **facts)
    await put_manifest(store, video)
    return video


@pytest.mark.parametrize("path", ["/nothing", "/videos/none", "/videos/a/b/c", "/videos/%2e%2e"])
async def test_what_is_not_there_has_a_page_that_leads_back(gallery, path):
    """404 with a link to the list that works at any depth."""
    answer = await gallery.get(path)
    assert answer.status_code == 404
    back = re.search(r'<a href="([^"]+)">All videos', answer.text)
    assert back
    assert answer.request.url.join(back[1]).path == "/"


async def test_the_gallery_only_reads(store, gallery):
    """Nothing but GET and HEAD is taken, and HEAD sends no body."""
    await put_video(store, 1)
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        answer = await gallery.request(method, f"/media/videos/{1:032x}/video.mp4")
        assert (answer.status_code, set(answer.headers["allow"].split(", "))) == (405, {"GET", "HEAD"})
    assert (await gallery.head("/")).status_code == 200


@pytest.mark.parametrize("path", ["/", "/nothing", "/static/style.css", f"/videos/{1:032x}", "/health"])
async def test_every_answer_sets_the_browsers_rules(store, gallery, path):
    """No script but the gallery's own file, nothing from elsewhere, no frame, no guessing of types."""
    await put_video(store, 1)
    headers = (await gallery.get(path)).headers
    assert headers["content-security-policy"].startswith("default-src 'none'; ")
    assert "script-src 'self';" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"


async def test_pages_need_nothing_from_elsewhere(store, gallery):
    """Pages name no other host, hold no inline script and no inline style, and everything they link to is there."""
    video = await put_video(store, 1)
    for path in ("/", f"/videos/{video.job_id}"):
        answer = await gallery.get(path)
        assert not re.search(r'(?:src|href)="(?:[a-z]+:)?//|<script>|style="', answer.text)
        for address in set(re.findall(r'(?:src|href|poster)="([^"#]+)"', answer.text)):
            linked = await gallery.get(answer.request.url.join(address))
            expected = 404 if "/renders/" in address else 200  # this video's render was never made
            assert linked.status_code == expected, address


async def test_a_rejected_videos_page_says_what_to_do(store, gallery):
    """How to publish it as it is, which costs nothing, and how to buy another take, with its price."""
    video = await put_video(store, 1, state="rejected", checks=(FAILED,))
    html = (await gallery.get(f"/videos/{video.job_id}")).text
    assert "--accept" in html
    assert "<code>--force</code> (in the Prefect UI: <em>Take</em> 1)" in html
    assert "for about $1.04" in html


async def test_takes_of_a_job_lead_to_each_other(store, gallery):
    """Each take's page names the others that there are."""
    ids = {take: take_id(make_video(1, take=9), take) for take in (0, 2)}
    for take, job in ids.items():
        await put_manifest(store, make_video(1, job_id=job, take=take))
    html = (await gallery.get(f"/videos/{ids[0]}")).text
    assert f'<a href="../videos/{ids[2]}">Take 2</a>' in html
    assert '<strong aria-current="page">First take</strong>' in html
    assert "Take 1<" not in html


@pytest.mark.parametrize(
    ("told", "shown"),
    [
        ("http://127.0.0.1:4200/flow-runs/flow-run/1", "http://127.0.0.1:4200/v2/runs/flow-run/1"),
        ("http://127.0.0.1:4200/v2/runs/flow-run/1", "http://127.0.0.1:4200/v2/runs/flow-run/1"),
        (
            "https://app.prefect.cloud/a/flow-runs/flow-run/1",
            "https://app.prefect.cloud/a/flow-runs/flow-run/1",
        ),
        ("javascript:alert(1)", None),
        (None, None),
    ],
)
def test_a_run_is_shown_in_the_ui_that_opens_by_default(told, shown):
    """Prefect tells a run its address in the older UI."""
    assert run_page(told) == shown


@pytest.mark.parametrize("count", [30, 300])
async def test_the_first_page_does_not_read_every_video(count):
    """However many there are: the days, the newest day, and one entry for each video shown."""
    store = MemoryStore()
    await store.ensure_bucket()
    for number in range(count):
        await put_manifest(store, make_video(number, published_at=START + timedelta(hours=number)))
    store.server.calls.clear()
    page = await video_list.VideoList(store).page(video_list.Query())
    assert [summary.job_id for summary in page.videos[:2]] == [f"{count - 1:032x}", f"{count - 2:032x}"]
    assert len(store.server.calls) <= 1 + 3 + 2 * video_list.PER_PAGE


def test_a_download_is_called_by_the_title():
    """Letters of any language, no path, the take where it is not the first; without a title, the job."""
    names = [
        ("Hällo, wörld!", 0, "Hällo_wörld.mp4"),
        ("../../etc", 2, "etc_take2.mp4"),
        (".", 0, f"{1:032x}.mp4"),
    ]
    for prompt, take, name in names:
        assert download_name(make_video(1, prompt=prompt, take=take)) == name

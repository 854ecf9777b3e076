"""A batch from files that were brought: its manifest, its price, its page, its report."""

import csv
import io
import json
import re

import pytest

from avatar.batch.check import check_rows
from avatar.batch.chunks import read_rows
from avatar.batch.manifest import open_manifest
from avatar.batch.models import Batch, Outcome, RowState
from avatar.batch.report import write_report
from avatar.errors import InvalidInput
from avatar.stored_models import Caption
from avatar.web import drafts
from avatar.web.batches import BatchRow, BatchRows
from avatar.web.users import Role
from avatar.workspace import Workspace
from tests.web.gallery.manifests import put_video
from tests.web.gallery.test_actions import (
    RUN,
    address_of,
    bring,
    desk,
    form,
    inputs,
    prefect,
    priced_order,
)

__all__ = ["desk", "inputs", "prefect"]


@pytest.fixture
async def workspace(make_settings):
    async with Workspace(make_settings()) as opened:
        yield opened


async def order_of(desk, inputs, manifest, tmp_path, **fields):
    """The files and a manifest that names them."""
    path = tmp_path / "jobs.csv"
    path.write_text(manifest)
    told = [
        (await bring(desk, each)).json() for each in (path, inputs / "portrait.png", inputs / "eight.wav")
    ]
    named = [(each["what"], each["key"]) for each in told]
    return dict(named) | {"name": [f"{each['key']}={each['name']}" for each in told]} | fields


async def test_a_manifest_and_its_files_become_a_batch(desk, prefect, store, inputs, tmp_path):
    """Rows find their files by name, in any folder and case; others are told by line and left out."""
    manifest = (
        "portrait,voice,title,label:client\n"
        "anna/Portrait.PNG,eight.wav,Hello,acme\n"
        "portrait.png,gone.wav,,\n"
        "portrait.png,eight.wav,Again,\n"
    )
    fields = await order_of(desk, inputs, manifest, tmp_path, title="May", labels="campaign=spring")
    priced = await priced_order(desk, fields)
    html = priced[1].text
    assert "Line 3: voice &#39;gone.wav&#39; is not among the files that were brought" in html
    chosen = form(html, priced[0], provider="pixazo")
    answer = await desk.post(address_of(priced), data=chosen)
    assert answer.status_code == 303
    batch_id = answer.headers["location"].rpartition("=")[2]
    ((_, asked),) = prefect.runs.items()
    batch = asked["parameters"]["batch"]
    assert (batch["provider"], batch["max_cost"]) == ("pixazo", float(chosen["price"]))
    assert (batch["name"], batch["labels"]) == ("May", {"campaign": "spring"})
    kept = await store.get(batch["manifest"].split("/", 3)[3])
    rows = list(csv.DictReader(io.StringIO(kept.data.decode())))
    assert [row["title"] for row in rows] == ["Hello", "Again"]
    assert rows[0]["label:client"] == "acme"
    assert rows[0]["voice"].startswith("s3://")
    # The run finds the rows that were looked at here.
    page = (await desk.get(f"/batches/{batch_id}")).text
    assert "Hello" in page
    assert "<h1>May</h1>" in page
    assert "waiting" in page
    assert f"batch={batch_id}" in answer.headers["location"]
    assert (await desk.get(f"/runs/{RUN}?batch={batch_id}")).text.count("<h3>") >= 2


async def test_several_voices_are_a_video_each(desk, prefect, store, inputs, tmp_path):
    """One portrait, each recording under the name of its file."""
    other = tmp_path / "welcome_de.wav"
    other.write_bytes((inputs / "eight.wav").read_bytes()[:-4000])
    portrait = (await bring(desk, inputs / "portrait.png")).json()
    voices = [(await bring(desk, path)).json() for path in (inputs / "eight.wav", other)]
    fields = {
        "portrait": portrait["key"],
        "voice": [each["key"] for each in voices],
        "name": [f"{each['key']}={each['name']}" for each in (portrait, *voices)],
    }
    priced = await priced_order(desk, fields)
    assert "2 rows to render" in priced[1].text
    answer = await desk.post(address_of(priced), data=form(priced[1].text, priced[0], provider="preview"))
    assert answer.status_code == 303
    ((_, asked),) = prefect.runs.items()
    key = asked["parameters"]["batch"]["manifest"].split("/", 3)[3]
    rows = [json.loads(line) for line in (await store.get(key)).data.splitlines()]
    assert [row["title"] for row in rows] == ["eight", "welcome_de"]


async def test_a_row_that_names_a_paid_provider_is_paid(desk, prefect, inputs, tmp_path, monkeypatch):
    """Whatever offer is chosen: its price is the row's, and those who may not spend do not start it."""
    manifest = "portrait,voice,provider\nportrait.png,eight.wav,pixazo\n"
    priced = await priced_order(desk, await order_of(desk, inputs, manifest, tmp_path))
    fields = form(priced[1].text, priced[0], provider="preview")
    assert float(fields["price"]) > 0
    monkeypatch.setattr("avatar.web.users.role_of", lambda request: Role.MAKE)
    assert (await desk.post(address_of(priced), data=fields)).status_code == 403
    assert prefect.runs == {}


async def test_a_manifest_that_is_none_is_told(desk, inputs, tmp_path):
    """The page says what is wrong with it, and there is nothing to press."""
    fields = await order_of(desk, inputs, "face,sound\nx,y\n", tmp_path)
    html = (await priced_order(desk, fields))[1].text
    assert "does not name the columns" in html
    assert 'name="price"' not in html


def test_orders_are_bounded():
    """One manifest, a thousand files."""
    key = "desk/files/" + "a" * 64 + "/x.csv"
    other = key.replace("a" * 64, "b" * 64)
    with pytest.raises(InvalidInput):
        drafts.Draft.of([("manifest", key), ("manifest", other)])
    many = [("voice", f"desk/files/{number:064x}/x.wav") for number in range(1001)]
    with pytest.raises(InvalidInput):
        drafts.Draft.of(many)


async def test_a_batch_is_a_page_of_its_videos(gallery, workspace, store, inputs, tmp_path):
    """Cards by what became of the rows, links to the players, and the report as a file under the batch's name."""
    manifest = tmp_path / "jobs.jsonl"
    row = {"portrait": str(inputs / "portrait.png"), "voice": str(inputs / "eight.wav"), "title": "Hello"}
    manifest.write_text(json.dumps(row) + "\n" + json.dumps(row | {"voice": "/gone.wav"}) + "\n")
    batch = Batch(
        manifest=str(manifest), provider="preview", name="May & June", labels={"batch": "May & June"}
    )
    async with open_manifest(workspace, batch) as opened:
        checked = await check_rows(workspace, batch, opened)
    await write_report(workspace, checked, "run", name=batch.name)
    html = (await gallery.get(f"/batches/{checked.batch_id}")).text
    assert "May &amp; June" in html
    assert "1 waiting" in html
    assert "1 bad" in html
    job_id = next(iter([each.outcome.job_id async for each in waiting(workspace, checked)]))
    await put_video(store, 1, title="Hello", job_id=job_id)
    html = (await gallery.get(f"/batches/{checked.batch_id}")).text
    assert f'href="../videos/{job_id}"' in html
    assert "1 published" in html
    listed = (await gallery.get("/batches")).text
    assert f'href="batches/{checked.batch_id}">May &amp; June</a>' in listed
    assert ("1 waiting" in listed, "1 bad" in listed, "2 rows" in listed) == (True, True, True)
    assert "No batches here" in (await gallery.get("/batches?page=2")).text
    report = await gallery.get(f"/batches/{checked.batch_id}/report.csv")
    assert report.headers["content-disposition"].startswith('attachment; filename="May___June.csv"')
    assert "Hello" in report.text


async def test_languages_of_one_master_are_grouped(gallery, workspace, store, inputs, tmp_path):
    """Each language with its video to save and its captions; one language is no group."""
    manifest, rows = tmp_path / "languages.csv", ["voice,language,title,take"]
    rows += [f"{inputs / 'eight.wav'},{row}" for row in ("de,Willkommen,0", "fr,Bienvenue,1", "de,Danke,2")]
    manifest.write_text("\n".join(rows))
    batch = Batch(manifest=str(manifest), portrait=str(inputs / "portrait.png"), provider="preview")
    async with open_manifest(workspace, batch) as opened:
        checked = await check_rows(workspace, batch, opened)
    job_id = (await anext(waiting(workspace, checked))).outcome.job_id
    key = f"videos/{job_id}/captions.de.vtt"
    caption = Caption(language="de", key=key, sha256="0" * 64, cues=1, name="welcome.de.srt")
    await put_video(store, 1, title="Willkommen", language="de", job_id=job_id, captions=(caption,))
    html = (await gallery.get(f"/batches/{checked.batch_id}")).text
    headings = re.findall(r'<h2 class="language" data-language="(\w+)">\1</h2>|<h3>(?:<a[^>]*>)?(\w+)', html)
    assert ["".join(each) for each in headings] == ["de", "Willkommen", "Danke", "fr", "Bienvenue"]
    assert f'href="../media/{key}?download=captions.de.vtt"' in html
    assert re.search(rf'href="../media/videos/{job_id}/[^"]*\?download=Willkommen_de.mp4"', html)
    assert (
        BatchRows("x", "x", 0, 1, (BatchRow(Outcome(line=1, state="bad"), asked_language="de"),)).groups[0][0]
        == ""
    )


async def waiting(workspace, checked):
    for row in await read_rows(workspace, checked.batch_id, 0):
        if row.outcome.state is RowState.WAITING:
            yield row


@pytest.mark.parametrize("path", ["/batches/x", f"/batches/{1:032x}", f"/batches/{1:032x}/report.csv"])
async def test_a_batch_that_is_none_is_not_here(gallery, path):
    assert (await gallery.get(path)).status_code == 404

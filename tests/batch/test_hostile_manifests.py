"""Manifests by anybody: read in little room, told by line, and nothing spent."""

import csv
import gzip
import io
import resource
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from avatar.batch import rows as reading
from avatar.batch.chunks import read_rows as kept_rows
from avatar.batch.models import Batch, RowState
from avatar.batch.report import write_report
from avatar.batch.rows import as_job, read_rows
from avatar.errors import InvalidInput
from avatar.models import AvatarJob
from tests.cases.manifests import CASES
from tests.providers.sockets import by_path, closed_port, serving

MIB = 1024**2
BATCH = Batch(manifest="jobs.csv")
GOOD = b'{"portrait": "p.png", "voice": "v.mp3"}\n'
HEAD = b"portrait,voice,prompt\n"
SIGNED = "?X-Amz-Signature=c0ffee&a=b,c"


def cases(members) -> list[tuple[str, str]]:
    return [case for case in CASES if case[0] in members]


def workbook() -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("xl/workbook.xml", "<workbook/>")
    return packed.getvalue()


#: Bad as a whole: the end of the name, and the contents tried.
FILES = {
    "UTF-16, with or without its mark, or UTF-32": (
        "csv",
        [text.encode(kind) for text in (HEAD.decode(),) for kind in ("utf-16", "utf-16-le", "utf-16-be", "utf-32")],
    ),
    "a workbook called .csv": ("csv", [workbook()]),
    "compressed": ("jsonl", [gzip.compress(GOOD)]),
    "a web page": ("csv", [b"<!doctype html><html>", b"\xef\xbb\xbf\n <html>"]),
    "a column that is there twice": ("csv", [b"portrait,voice,Voice\np,v,w\n"]),
    "a column that is none": ("csv", [b"portrait,voice,mood\np,v,w\n"]),
    "a first line of 40,000 columns": ("csv", [b"portrait,voice," + ",".join(f"c{n}" for n in range(15_000)).encode()]),
}  # fmt: skip


@pytest.mark.parametrize(("case", "seen"), cases(FILES))
def test_a_file_that_is_no_manifest_is_told_at_once(tmp_path, case, seen):
    """One error for the file, in a line, not one for each row."""
    ending, contents = FILES[case]
    for content in contents:
        path = tmp_path / f"m.{ending}"
        path.write_bytes(content)
        with pytest.raises(InvalidInput) as caught:
            list(read_rows(path))
        assert seen in str(caught.value)
        assert str(caught.value).endswith("Nothing was sent or spent.")
        assert len(str(caught.value)) < 1000


#: Bad rows between two good ones.
ROWS = {
    "a line of 100 MB": ("jsonl", b"x" * (100 * MIB) + b"\n"),
    "a byte that is not UTF-8": ("jsonl", b'{"portrait": "caf\xe9.png"}\n'),
    "a cell of 200 KB": ("csv", b'p.png,v.mp3,"' + b"x" * 70_000 + b"\n" + b"x" * 70_000 + b'"\n'),
    "a quote that is never closed": ("csv", b'p.png,v.mp3,"x","' + b'\n","' * 40_000 + b'"\n'),
    "a name twice in one JSON object": ("jsonl", b'{"portrait": "p", "voice": "a", "voice": "b"}\n'),
    "100,000 brackets": ("jsonl", b'{"portrait": ' + b"[" * 100_000 + b"\n"),
    "a number of 5,000 digits": ("jsonl", b'{"portrait": "p", "voice": "v", "take": ' + b"9" * 5000 + b"}\n"),
    "1e999 as a price": ("jsonl", b'{"portrait": "p", "voice": "v", "max_cost": 1e999}\n'),
    "a path of 5,000 characters": ("jsonl", b'{"portrait": "p", "voice": "' + b"v" * 5000 + b'"}\n'),
}  # fmt: skip


@pytest.mark.parametrize(("case", "seen"), cases(ROWS))
def test_a_bad_row_is_told_by_its_line(tmp_path, case, seen):
    """The rows before and after it are read; the reason is a line."""
    ending, bad = ROWS[case]
    head, good = (HEAD, b"p.png,v.mp3,x\n") if ending == "csv" else (b"", GOOD)
    path = tmp_path / f"m.{ending}"
    path.write_bytes(head + good + bad + good)
    raws = list(read_rows(path))
    jobs = [as_job(raw, BATCH, "/jobs") for raw in raws]
    reasons = {raw.line: job for raw, job in zip(raws, jobs, strict=True) if isinstance(job, str)}
    line = 3 if ending == "csv" else 2
    assert seen in reasons[line]
    assert all(len(reason) < 600 for reason in reasons.values())
    assert isinstance(jobs[0], AvatarJob)
    assert case == "a quote that is never closed" or isinstance(jobs[-1], AvatarJob)


async def test_a_byte_order_mark_is_read_over(tmp_path):
    """In both kinds of manifest."""
    for name, content in (("m.csv", HEAD + b"p,v,x\n"), ("m.jsonl", GOOD)):
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + content)
        (raw,) = read_rows(tmp_path / name)
        assert isinstance(as_job(raw, BATCH, "/jobs"), AvatarJob)


def many(count: int) -> Iterator[bytes]:
    for number in range(0, count, 1000):
        yield b"".join(
            b'{"portrait":"p.png","voice":"%d.mp3"}\n' % row for row in range(number, number + 1000)
        )


def test_rows_without_number_are_read_in_little_room(tmp_path):
    """One row at a time, whatever the number: memory stays as it was."""
    path = tmp_path / "m.jsonl"
    with path.open("wb") as file:
        file.writelines(many(100_000))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    last = None
    for count, raw in enumerate(read_rows(path), start=1):
        last = raw
        if count % 100 == 0:
            assert isinstance(as_job(raw, BATCH, "/jobs"), AvatarJob)
    assert (count, last.line, last.values["voice"]) == (100_000, 100_000, "99999.mp3")
    assert (
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 8 * 1024
    )  # KiB; rows kept would be 30 MB


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_empty_rows_without_end_take_no_room(tmp_path, monkeypatch, ending):
    """A spreadsheet's worth of empty rows at the end is read over; more are too many rows."""
    monkeypatch.setattr(reading, "MOST_ROWS", 20_000)
    path = tmp_path / f"m.{ending}"
    first = HEAD + b"p,v,x\n" if ending == "csv" else GOOD
    path.write_bytes(first + b"\n" * 19_999)
    assert len(list(read_rows(path))) == 1
    path.write_bytes(first + b"\n" * 20_001)
    with pytest.raises(InvalidInput, match="more than 20,000 rows"):
        list(read_rows(path))


async def bad_rows(works, batch) -> dict[int, str]:
    """Reasons by line, as the report tells them."""
    checked = await works.check(batch)
    assert checked.ready == 0
    summary = await write_report(works.workspace, checked, "run-1")
    table = (await works.workspace.store.get(summary.report_key)).data.decode()
    return {int(row["line"]): row["reason"] for row in csv.DictReader(io.StringIO(table))}


async def no_directory(works, manifest, seen, tmp_path) -> None:
    (tmp_path / "jobs.csv").mkdir()
    with pytest.raises(InvalidInput, match=seen):
        await works.check(Batch(manifest=str(tmp_path / "jobs.csv")))


async def no_bytes(works, manifest, seen, tmp_path) -> None:
    with pytest.raises(InvalidInput) as caught:
        await works.check(manifest(b""))
    assert seen in str(caught.value)


async def empty_lines(works, manifest, seen, tmp_path) -> None:
    with pytest.raises(InvalidInput, match=seen):
        await works.check(manifest(b"\n \n\n"))


async def too_many_rows(works, manifest, seen, tmp_path) -> None:
    with pytest.raises(InvalidInput, match=seen):
        list(read_rows(Path(manifest(b"\n" * 1_048_578).manifest)))


async def too_many_bytes(works, manifest, seen, tmp_path) -> None:
    with (tmp_path / "huge.csv").open("wb") as file:
        file.truncate(3 * 1024**3)  # a hole: no disk is used
    with pytest.raises(InvalidInput, match=seen):
        await works.check(Batch(manifest=str(tmp_path / "huge.csv")))


async def twice(works, manifest, seen, tmp_path) -> None:
    row = {"portrait": "portrait.png", "voice": "voice.wav"}
    checked = await works.check(manifest([row, row | {"prompt": "."}]))
    _, second = await kept_rows(works.workspace, checked.batch_id, 0)
    assert (second.outcome.state, second.outcome.reason) == (RowState.DUPLICATE, seen)


async def odd_keys(works, manifest, seen, tmp_path) -> None:
    keys = ("../../etc/passwd", "a/../../b", "%2e%2e/b", "a//b")
    rows = [{"portrait": f"s3://{works.workspace.store.bucket}/{key}", "voice": "voice.wav"} for key in keys]
    assert all(seen in reason for reason in (await bad_rows(works, manifest(rows))).values())


async def null_bytes(works, manifest, seen, tmp_path) -> None:
    told = await bad_rows(works, manifest(b"portrait,voice\na\0b.png,voice.wav\n", name="jobs.csv"))
    assert seen in told[2]


async def formulas(works, manifest, seen, tmp_path) -> None:
    texts = ("=HYPERLINK(1)", "+1", "-1", "@SUM(1)", "\t=1", "x\r\n=1", 'x";=1', "\uff1d1")
    rows = [{"portrait": text, "voice": text} for text in texts]
    checked = await works.check(manifest(rows))
    summary = await write_report(works.workspace, checked, "run-1")
    table = (await works.workspace.store.get(summary.report_key)).data.decode()
    for delimiter in (",", ";", "\t"):
        cells = [cell for row in csv.reader(io.StringIO(table), delimiter=delimiter) for cell in row]
        assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r", "\uff1d"))]


async def not_there(works, manifest, seen, tmp_path) -> None:
    async with serving(by_path({})) as server:
        rows = [{"portrait": f"{server.url}/p.png{SIGNED}", "voice": "voice.wav"}]
        told = await bad_rows(works, manifest(rows))
    assert seen in told[1]
    assert "c0ffee" not in told[1]


async def server_down(works, manifest, seen, tmp_path) -> None:
    rows = [{"portrait": "portrait.png", "voice": f"http://127.0.0.1:{closed_port()}/v.wav{SIGNED}"}]
    told = await bad_rows(works, manifest(rows))
    assert seen in told[1]
    assert "c0ffee" not in told[1]


async def local_files(works, manifest, seen, tmp_path) -> None:
    table = b"portrait,voice\n/etc/passwd,v.wav\np.png,~/v.wav\n"
    async with serving(by_path({"/may/jobs.csv": (200, table)})) as server:
        told = await bad_rows(works, Batch(manifest=f"{server.url}/may/jobs.csv{SIGNED}"))
    assert all(seen in reason for reason in told.values())


WHOLE = {
    "a directory": no_directory,
    "no bytes": no_bytes,
    "empty lines only": empty_lines,
    "more rows than a spreadsheet has": too_many_rows,
    "more bytes than are read": too_many_bytes,
    "the same row twice": twice,
    "a key with `..`": odd_keys,
    "a name with a null byte": null_bytes,
    "a formula (=, +, -, @, tab) in a cell": formulas,
    "a link with a signature that is not there": not_there,
    "a link whose server is down": server_down,
    "files of this machine, in a manifest from the web": local_files,
}


@pytest.mark.parametrize(("case", "seen"), cases(WHOLE))
async def test_a_bad_manifest_is_told_before_anything_is_spent(  # noqa: PLR0917
    works, manifest, sandbox, tmp_path, case, seen
):
    """From the manifest to the report, with a store and a provider at hand: nothing reaches the provider."""
    await WHOLE[case](works, manifest, seen, tmp_path)
    assert sandbox.state()["posts"] == 0


def test_every_case_is_tried():
    """The table in the documentation is the tests' own."""
    assert {case for case, _ in CASES} == FILES.keys() | ROWS.keys() | WHOLE.keys() | {"a byte order mark"}


async def test_a_link_in_a_row_is_a_secret(works, manifest, media):
    """Rows given by presigned links are rendered from them; nothing kept in the bucket has their signatures."""
    files = {f"/{file.name}": (200, file.read_bytes()) for file in media.iterdir()}
    async with serving(by_path(files)) as server:
        rows = [
            {"portrait": f"{server.url}/portrait.png{SIGNED}", "voice": f"{server.url}/voice.wav{SIGNED}"},
            {"portrait": f"{server.url}/portrait.png{SIGNED}", "voice": "gone.wav"},
            {"portrait": f"{server.url}/portrait.png{SIGNED}", "voice": 7},
            {"portrait": f"{server.url}/page.png{SIGNED}", "voice": f"{server.url}/{'v' * 5000}{SIGNED}"},
        ]
        batch = manifest(rows, on_bad_rows="skip")
        checked = await works.check(batch)
        await write_report(works.workspace, checked, "run-1")
    assert (checked.ready, checked.bad) == (1, 3)
    kept = await works.workspace.store.list("batches/")
    texts = {stat.key.rsplit("/", 1)[-1]: (await works.workspace.store.get(stat.key)).data for stat in kept}
    names = {"manifest.jsonl", "report.csv", "report.html", "rows-00000.jsonl", "summary.json"}
    assert texts.keys() == names
    assert not any(b"c0ffee" in text for text in texts.values())
    assert {name for name, text in texts.items() if b"/portrait.png" in text} == names - {"summary.json"}


async def test_a_manifest_may_be_a_link(works, media):
    """Its relative paths are beside it, without its query."""
    files = {f"/may/{file.name}": (200, file.read_bytes()) for file in media.iterdir()}
    files["/may/jobs.csv"] = (200, b"portrait,voice\nportrait.png,voice.wav\n")
    async with serving(by_path(files)) as server:
        checked = await works.check(Batch(manifest=f"{server.url}/may/jobs.csv?X-Amz-Credential=a/b/c"))
    assert (checked.ready, checked.bad) == (1, 0)

"""Reading a manifest: what is wrong with a row is told by its line, and the next row is read."""

import json
from pathlib import Path

import pytest

from avatar.batch.models import Batch
from avatar.batch.rows import LONGEST_LINE, RawRow, as_job, locate, read_rows
from avatar.errors import InvalidInput

BATCH = Batch(manifest="jobs.csv")
GOOD = {"portrait": "p.png", "voice": "v.mp3"}


def read(path: Path, data: bytes | str):
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return list(read_rows(path))


def told(path: Path, data: bytes | str) -> dict[int, str]:
    """What is said of each bad row, by its line."""
    jobs = {row.line: as_job(row, BATCH, "/jobs") for row in read(path, data)}
    return {line: job for line, job in jobs.items() if isinstance(job, str)}


def test_a_json_row_is_a_job(tmp_path):
    """Every column of AvatarJob is read; a null is as good as absent; paths are beside the manifest."""
    row = GOOD | {"prompt": "smile", "provider": "fal", "max_cost": 7.5, "take": 2, "continuity": None}
    (raw,) = read(tmp_path / "m.jsonl", json.dumps(row))
    job = as_job(raw, BATCH, "/jobs")
    assert (job.portrait, job.voice, str(job.max_cost), job.take) == ("/jobs/p.png", "/jobs/v.mp3", "7.5", 2)


def test_a_csv_row_is_a_job(tmp_path):
    """An empty cell takes the default; the byte order mark and the delimiter of a spreadsheet are understood."""
    data = "\ufeffPortrait; voice;prompt;accept\r\np.png;v.mp3;;true\r\n"
    (raw,) = read(tmp_path / "m.csv", data)
    job = as_job(raw, BATCH, "s3://avatar/may/")
    assert (raw.line, job.portrait, job.prompt, job.accept) == (2, "s3://avatar/may/p.png", ".", True)


def test_a_row_may_have_captions(tmp_path):
    """Parted by semicolons in a table, a list in JSON; beside the manifest, and never of this machine for a remote one."""
    table = "portrait,voice,captions\np.png,v.mp3,v.de.srt; https://h/v.en.vtt\n"
    (raw,) = read(tmp_path / "m.csv", table)
    assert as_job(raw, BATCH, "/jobs").captions == ("/jobs/v.de.srt", "https://h/v.en.vtt")
    (raw,) = read(tmp_path / "m.jsonl", json.dumps(GOOD | {"captions": ["v.de.srt", "/etc/v.txt"]}))
    assert as_job(raw, BATCH, "s3://avatar/may/").startswith("captions: a manifest in the bucket")


def test_a_row_may_name_its_model(tmp_path):
    """The batch's own model is for rows that name none."""
    batch = BATCH.model_copy(update={"model": "my-avatar"})
    table = "portrait,voice,model\np.png,v.mp3,kling-ai-avatar-v2-standard\np.png,v.mp3,\n"
    jobs = [as_job(raw, batch, "/jobs") for raw in read(tmp_path / "m.csv", table)]
    assert [job.model for job in jobs] == ["kling-ai-avatar-v2-standard", "my-avatar"]


def test_a_row_has_the_names_people_give(tmp_path):
    """Title, language and labels, as a cell, as columns or as an object; the batch's own where a row has none."""
    batch = BATCH.model_copy(update={"language": "en", "labels": {"client": "acme", "campaign": "all"}})
    table = (
        "portrait,voice,title,language,labels,label:campaign\n"
        "p.png,v.mp3,Welcome,de,channel=web; client = b,spring\n"
        "p.png,v.mp3,,,,\n"
    )
    first, second = (as_job(raw, batch, "/jobs") for raw in read(tmp_path / "m.csv", table))
    assert (first.title, first.language) == ("Welcome", "de")
    assert first.labels == {"channel": "web", "client": "b", "campaign": "spring"}
    assert (second.title, second.language, second.labels) == ("", "en", batch.labels)
    (raw,) = read(tmp_path / "m.jsonl", json.dumps(GOOD | {"labels": {"a": "1"}}))
    assert as_job(raw, BATCH, "/jobs").labels == {"a": "1"}
    faults = told(tmp_path / "n.csv", "portrait,voice,labels\np.png,v.mp3,spring\n")
    assert "name=value" in faults[2]


@pytest.mark.parametrize(
    "batch",
    [{}, {"manifest": None}, {"manifest": ""}, {"portrait": "p.png"}, {"portrait": "p.png", "voices": []}],
)
def test_the_form_refuses_a_batch_without_rows(batch):
    """By its schema, which Prefect's server checks before there is a run."""
    from prefect.utilities.schema_tools.validation import is_valid, preprocess_schema

    schema = preprocess_schema({"properties": {"batch": Batch.model_json_schema()}, "required": ["batch"]})
    assert not is_valid({"batch": batch}, schema)
    for good in (
        {"manifest": "jobs.csv"},
        {"portrait": "p.png", "voices": ["v/"]},
        {"manifest": "j.csv", "voices": []},
    ):
        assert is_valid({"batch": good}, schema)


def test_a_quoted_cell_may_hold_lines(tmp_path):
    """Rows are named by the line they begin on, also after one of several lines."""
    data = 'portrait,voice,prompt\np.png,v.mp3,"two\nlines, one cell"\np.png,w.mp3,\n'
    first, second = read(tmp_path / "m.csv", data)
    assert (first.line, first.values["prompt"], second.line) == (2, "two\nlines, one cell", 4)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        pytest.param("{", "not JSON: ", id="broken"),
        pytest.param("[1]", "not a JSON object", id="no object"),
        pytest.param("[" * 100_000, "not JSON that can be read", id="too deep"),
        pytest.param('{"portrait": "p.png"}', "voice is missing", id="missing"),
        pytest.param(json.dumps(GOOD | {"voise": 1}), "unknown column 'voise'", id="unknown"),
        pytest.param(json.dumps(GOOD | {"take": -1}), "take: Input should be greater", id="bound"),
        pytest.param(json.dumps(GOOD | {"max_cost": float("nan")}), "max_cost: ", id="no number"),
        pytest.param(json.dumps(GOOD | {"voice": 7}), "voice: Input should be a valid string", id="type"),
        pytest.param(json.dumps(GOOD | {"provider": "acme"}), "provider: Input should be 'preview'", id="choice"),
        pytest.param(b'{"portrait": "\xe9"}', "(0xe9) is not UTF-8", id="latin-1"),
        pytest.param(b"x" * (LONGEST_LINE + 9), "longer than 128 KB", id="endless"),
        pytest.param("", "the row is empty", id="empty"),
    ],
)  # fmt: skip
def test_a_bad_json_row_has_its_reason(tmp_path, line, reason):
    """The row between two good ones is told with its line and what is wrong; the good ones are read."""
    good, bad = json.dumps(GOOD).encode(), line if isinstance(line, bytes) else line.encode()
    data = good + b"\n" + bad + b"\n" + good + b"\n"
    faults = told(tmp_path / "m.jsonl", data)
    assert list(faults) == [2]
    assert reason in faults[2]
    assert [row.line for row in read(tmp_path / "m.jsonl", data)] == [1, 2, 3]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        pytest.param("p.png", "it has 1 cells, the first line 2", id="too few"),
        pytest.param("p.png,v.mp3,x", "it has 3 cells, the first line 2", id="too many"),
        pytest.param(",v.mp3", "portrait is missing", id="missing"),
        pytest.param(",", "the row is empty", id="empty"),
        pytest.param('"p"x,v', "expected after", id="quotes"),
        pytest.param(b"\xff,v.mp3", "(0xff) is not UTF-8", id="latin-1"),
    ],
)
def test_a_bad_csv_row_has_its_reason(tmp_path, line, reason):
    """As in JSON: the reason with its line, and the next row is read."""
    bad = line if isinstance(line, bytes) else line.encode()
    faults = told(tmp_path / "m.csv", b"portrait,voice\n" + bad + b"\np.png,v.mp3\n")
    assert list(faults) == [2]
    assert reason in faults[2]


@pytest.mark.parametrize("name", ["m.csv", "m.jsonl"])
def test_empty_rows_at_the_end_are_no_rows(tmp_path, name):
    """Spreadsheets and editors leave some."""
    first = "portrait,voice\np.png,v.mp3" if name == "m.csv" else json.dumps(GOOD)
    assert len(read(tmp_path / name, first + "\n\n   \n\n")) == 1


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        pytest.param("portrait,vioce", "no column 'voice'", id="missing"),
        pytest.param("portrait,voice,mood", "'mood' is not a column", id="unknown"),
        pytest.param("portrait,voice,voice", "'voice' is there twice", id="twice"),
        pytest.param("", "no column 'portrait'", id="none"),
        pytest.param("portrait,voice".encode("utf-16"), "UTF-16", id="utf-16"),
    ],
)
def test_columns_that_cannot_be_told_stop_the_manifest(tmp_path, head, reason):
    """Without its columns no row can be read: one error for all."""
    data = head if isinstance(head, bytes) else head.encode()
    with pytest.raises(InvalidInput, match=reason):
        read(tmp_path / "m.csv", data + b"\np.png,v.mp3\n")


@pytest.mark.parametrize("source", ["s3://other/p.png", "/abs/p.png", "~/p.png"])
def test_only_relative_paths_are_beside_the_manifest(source):
    """An address, an absolute path and one from home stay as they are."""
    assert locate(source, "s3://avatar/may/") == source


def test_a_batch_has_one_source():
    """A manifest, or a portrait with voices; not both, not half of it."""
    for given in (
        {},
        {"portrait": "p"},
        {"voices": ["v"]},
        {"manifest": "m", "portrait": "p", "voices": ["v"]},
    ):
        with pytest.raises(ValueError, match=r"give either|needs voices|voices need"):
            Batch(**given)


def test_one_portrait_for_a_table_of_languages(tmp_path):
    """Its column may be left out; a row's own stands above it, and the batch has a name of its own."""
    from avatar.batch.manifest import _identify

    (tmp_path / "languages.csv").write_text(
        "voice,language,title,captions\nde.mp3,de,Willkommen,de.srt\nen.mp3,en,Welcome,en.vtt; de.srt\n"
    )
    batch = Batch(manifest=str(tmp_path / "languages.csv"), portrait="/faces/anna.png")
    jobs = [as_job(raw, batch, "/jobs") for raw in read_rows(tmp_path / "languages.csv", batch)]
    assert [(job.portrait, job.voice, job.language) for job in jobs] == [
        ("/faces/anna.png", "/jobs/de.mp3", "de"),
        ("/faces/anna.png", "/jobs/en.mp3", "en"),
    ]
    assert jobs[1].captions == ("/jobs/en.vtt", "/jobs/de.srt")
    own = as_job(RawRow(2, {"voice": "v.mp3", "portrait": "own.png"}), batch, "/jobs")
    assert own.portrait == "/jobs/own.png"
    others = batch.model_copy(update={"portrait": "/faces/ben.png"})
    assert _identify("a" * 64, "/jobs", batch) != _identify("a" * 64, "/jobs", others)
    with pytest.raises(InvalidInput, match="no column 'portrait'"):
        list(read_rows(tmp_path / "languages.csv"))

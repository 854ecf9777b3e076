"""Whatever is in a manifest: jobs, reasons, or one error; and nothing of it runs or leaks where it is shown."""

import csv
import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avatar.batch import manifest as manifests
from avatar.batch.models import Batch
from avatar.batch.report import safe_cell
from avatar.batch.rows import COLUMNS, as_job, read_rows
from avatar.errors import InvalidInput
from avatar.models import AvatarJob

BATCH = Batch(manifest="jobs.csv")
HEAD = b"portrait,voice,prompt\n"


@settings(max_examples=200)
@given(st.binary(max_size=200), st.sampled_from(["csv", "jsonl"]), st.booleans())
def test_any_bytes_are_rows_or_an_error(tmp_path_factory, content, ending, headed):
    """Jobs, reasons, or one typed error; never anything else."""
    path = tmp_path_factory.mktemp("any") / f"m.{ending}"
    path.write_bytes((HEAD if headed and ending == "csv" else b"") + content)
    try:
        found = [as_job(raw, BATCH, "/jobs") for raw in read_rows(path)]
    except InvalidInput:
        return
    assert all(isinstance(job, AvatarJob | str) for job in found)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=5,
)


@settings(max_examples=200)
@given(st.dictionaries(st.sampled_from(COLUMNS) | st.text(max_size=3), JSON, max_size=6))
def test_any_object_is_a_job_or_a_reason(tmp_path_factory, values):
    """Whatever types stand in the columns."""
    path = tmp_path_factory.mktemp("any") / "m.jsonl"
    path.write_text(json.dumps(values) + "\n")
    (raw,) = read_rows(path)
    assert isinstance(as_job(raw, BATCH, "/jobs"), AvatarJob | str)


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        (
            b'{"portrait": "https://h/p.png?a=b,c", "voice": "v"}\n',
            b'{"portrait": "https://h/p.png", "voice": "v"}\n',
        ),
        (b'{"portrait": "https:\\/\\/h\\/p.png?a"}\n', b'{"portrait": "https:\\/\\/h\\/p.png"}\n'),
        (b'HTTPS://h/p.png#f,"https://h/v?x;y",why?\n', b'HTTPS://h/p.png,"https://h/v",why?\n'),
        (b"https://h/p;https://h/v?sig;x\n", b"https://h/p;https://h/v;x\n"),
        (b"s3://b/p?.png,v,what?\n", b"s3://b/p?.png,v,what?\n"),
        (b"x" * 300_000 + b"https://h/p?sig\n" + b"a,b\n", b"a,b\n"),
    ],
)
def test_the_copy_that_is_kept_has_no_queries(tmp_path, line, kept):
    """What follows the path of a link may be a signature, in JSON and in CSV."""
    (tmp_path / "m").write_bytes(line)
    manifests._copy_without_queries(tmp_path / "m", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == kept


@settings(max_examples=200)
@given(st.text(alphabet="=+-@\t\r\n;, 'ax\uff1d", max_size=12))
def test_no_cell_begins_a_formula(text):
    """Opened with a comma, a semicolon or a tab between the columns."""
    written = io.StringIO(newline="")
    csv.writer(written).writerow(["1", safe_cell(text), "2"])
    for delimiter in (",", ";", "\t"):
        for row in csv.reader(io.StringIO(written.getvalue(), newline=""), delimiter=delimiter):
            assert not [cell for cell in row if cell.startswith(("=", "+", "-", "@", "\t", "\r", "\uff1d"))]

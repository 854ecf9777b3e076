"""What a manifest will cost, told before there is a store, a server or a key."""

import json
from argparse import Namespace

import numpy as np
import pytest

from avatar.commands import quote
from tests.cases.portraits import picture
from tests.media import speech
from tests.media.recordings import write_wav


@pytest.fixture
def small_portrait(tmp_path):
    picture(300, 400).save(tmp_path / "small.png")
    return tmp_path / "small.png"


@pytest.fixture
def batch_voice(tmp_path):
    """A sentence behind three seconds of silence."""
    samples = np.concatenate([np.zeros((1, 3 * speech.RATE), np.float32), speech.speech([1])], axis=1)
    return write_wav(tmp_path / "late.wav", samples, speech.RATE)


def quoted(capsys, batch, **given):
    """The exit code and the JSON of `avatar quote MANIFEST`."""
    arguments = {
        "voice": batch.manifest,
        "provider": "fal",
        "model": None,
        "portrait": None,
        "trim": False,
        "json": True,
    } | given
    code = quote.run(Namespace(**arguments))
    return code, json.loads(capsys.readouterr().out)


def test_a_manifest_is_priced_row_by_row(capsys, manifest, rows):
    """Three seconds a row; the same job twice counts once, whatever it is called."""
    again = rows(1)[0] | {"title": "the first again", "labels": {"a": "b"}}
    code, told = quoted(capsys, manifest([*rows(4), again]))
    assert (code, told["rows"], told["seconds"], told["bad"]) == (0, 5, 12, [])
    assert told["amounts"] == {"fal": "1.3800"}


def test_rows_that_cannot_be_priced_are_told(capsys, manifest, rows):
    """Bad ones with line and reason, and exit 2; files that are not on this machine are counted apart."""
    gone = {"portrait": "portrait.png", "voice": "gone.mp3"}
    far = {"portrait": "portrait.png", "voice": "s3://avatar/voice.mp3"}
    code, told = quoted(capsys, manifest([*rows(1), gone, far, {"voice": "voice.wav"}]))
    assert (code, told["elsewhere"], told["amounts"]) == (2, 1, {"fal": "0.3450"})
    assert [row["line"] for row in told["bad"]] == [2, 4]
    assert (
        quote.run(
            Namespace(
                voice=manifest(rows(2)).manifest,
                provider=None,
                model=None,
                trim=False,
                json=False,
                portrait=None,
            )
        )
        == 0
    )
    assert "2 rows, 6 s billed: $0.00" in capsys.readouterr().out


def test_portraits_of_a_manifest_are_looked_at(capsys, manifest, rows, tmp_path):
    """One that is no picture is told with its row, before anything is bought."""
    (tmp_path / "list.png").write_text("bread, milk, butter\n" * 30)
    bad = rows(1)[0] | {"portrait": str(tmp_path / "list.png")}
    code, told = quoted(capsys, manifest([*rows(1), bad]))
    assert (code, told["amounts"]) == (2, {"fal": "0.3450"})
    assert told["bad"] == [{"line": 2, "reason": "list.png is a text, which is not read as a portrait."}]


@pytest.mark.parametrize("warnings", ["show", "refuse"])
def test_a_quote_warns_of_portrait_and_voice(capsys, batch_voice, small_portrait, monkeypatch, warnings):
    """AVATAR_WARNINGS=refuse makes a refusal of both."""
    monkeypatch.setenv("AVATAR_WARNINGS", warnings)
    given = {"provider": "fal", "model": None, "trim": False, "json": True}
    code = quote.run(Namespace(voice=str(batch_voice), portrait=str(small_portrait), **given))
    told, *_ = json.loads(capsys.readouterr().out)["offers"]
    assert (code, told["accepted"]) == ((0, True) if warnings == "show" else (2, False))
    if warnings == "show":
        assert [each["kind"] for each in told["warnings"] if each["kind"] != "no-face"] == [
            "small",
            "silence",
        ]
    else:
        assert "small (300×400 px)" in told["reason"]
        assert "silent for its first 3.0 s" in told["reason"]

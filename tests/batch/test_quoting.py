"""What a manifest will cost, told before there is a store, a server or a key."""

import json
from argparse import Namespace

from avatar.commands import quote


def quoted(capsys, batch, **given):
    """The exit code and the JSON of `avatar quote MANIFEST`."""
    arguments = {
        "voice": batch.manifest,
        "provider": "fal",
        "model": None,
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
            Namespace(voice=manifest(rows(2)).manifest, provider=None, model=None, trim=False, json=False)
        )
        == 0
    )
    assert "2 rows, 6 s billed: $0.00" in capsys.readouterr().out

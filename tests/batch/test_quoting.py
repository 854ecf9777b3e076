"""What a manifest will cost, told before there is a store, a server or a key."""

import asyncio
import json
from argparse import Namespace

import numpy as np
import pytest

from avatar.batch.chunks import read_rows
from avatar.commands import quote
from avatar.errors import InvalidInput
from avatar.settings import AvatarSettings
from avatar.settings_sections import StoreSettings
from avatar.workspace import Workspace
from tests.cases.portraits import picture
from tests.media import speech
from tests.media.recordings import write_wav
from tests.store.memory import MemoryStore
from tests.web.gallery.manifests import put_video


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


@pytest.fixture
def stored(monkeypatch, tmp_path, media):
    """The bucket that the command looks into, in memory, with a portrait and a voice of three seconds."""
    nowhere = StoreSettings(endpoint="memory.invalid", access_key="test", secret_key="test")
    settings = AvatarSettings(_env_file=None, state_dir=tmp_path / "state", store=nowhere, fal={"key": "k"})
    store = MemoryStore()
    store.server.buckets["avatar"] = {}

    def with_store(work):
        async def run():
            async with Workspace(settings) as workspace:
                workspace.store = workspace.journal.store = workspace.budget.store = store
                return await work(workspace)

        return asyncio.run(run())

    monkeypatch.setattr(quote, "with_store", with_store)
    for file in media.iterdir():
        store.keep(f"in/{file.name}", file.read_bytes())
    return store


def quoted_at(capsys, address, **given):
    given = {
        "voice": address,
        "provider": "fal",
        "model": None,
        "portrait": None,
        "trim": False,
        "json": True,
    } | given
    code = quote.run(Namespace(**given))
    return code, json.loads(capsys.readouterr().out)


def test_a_voice_and_a_portrait_may_lie_in_the_store(capsys, stored, small_portrait):
    """Both by address, or one of them; both are looked at, and nothing is written."""
    stored.keep("in/small.png", small_portrait.read_bytes())
    code, told = quoted_at(capsys, "s3://avatar/in/voice.wav", portrait="s3://avatar/in/small.png")
    offer, *_ = both = told["offers"]
    assert (code, offer["amount"]) == (0, "0.3450")
    assert "small" in [each["kind"] for each in offer["warnings"]]
    _, told = quoted_at(capsys, "s3://avatar/in/voice.wav", portrait=str(small_portrait))
    assert told["offers"] == both
    assert {method for method, _ in stored.server.calls} <= {"stat", "get", "download", "stream"}
    for gone in ("s3://avatar/in/gone.wav", "s3://elsewhere/in/voice.wav"):
        with pytest.raises(InvalidInput):
            quoted_at(capsys, gone)


def test_a_manifest_may_lie_in_the_store(capsys, stored, rows):
    """Its rows are those beside it; bad ones are told; what was bought before costs nothing any more."""
    bad = {"portrait": "portrait.png", "voice": "gone.wav"}
    lines = "".join(json.dumps(row) + "\n" for row in [*rows(2), bad])
    stored.keep("in/jobs.jsonl", lines.encode())
    code, told = quoted_at(capsys, "s3://avatar/in/jobs.jsonl")
    assert (code, told["rows"], told["ready"], told["owed"]) == (2, 3, 2, "0.6900")
    assert [row["line"] for row in told["bad"]] == [3]
    batch_id = next(
        key.split("/")[1] for key in stored.server.buckets["avatar"] if key.startswith("batches/")
    )
    workspace = Namespace(store=stored)
    first, *_ = asyncio.run(read_rows(workspace, batch_id, 0))
    asyncio.run(put_video(stored, 1, job_id=first.outcome.job_id))
    _, told = quoted_at(capsys, "s3://avatar/in/jobs.jsonl")
    assert (told["ready"], told["owed"]) == (1, "0.3450")

"""The `avatar` command as a person or a script runs it: what it prints, what it exits with, what it spends."""

import json
import os
import re
import secrets
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from avatar.media.decoder_calls import probe_video
from tests.flows.conftest import PORTRAIT, VOICE, Local
from tests.sandbox.running import Sandbox

pytestmark = pytest.mark.server

GENERATE = ("generate", str(PORTRAIT), str(VOICE))
#: What a preview of eight seconds needs most of its time for.
FEW_FRAMES = {"AVATAR_PREVIEW__FRAME_RATE": "8"}

Ended = subprocess.CompletedProcess[str]
Avatar = Callable[..., Ended]


@pytest.fixture
def avatar(local: Local, tmp_path: Path) -> Avatar:
    """Runs the command on the session's services, in a bucket of the test's own; keywords are variables."""
    bucket = f"test-{secrets.token_hex(6)}"

    def run(*arguments: str, **variables: str) -> Ended:
        own = FEW_FRAMES | {"AVATAR_STATE_DIR": str(local.state_dir), "AVATAR_STORE__BUCKET": bucket}
        command = [sys.executable, "-m", "avatar", *arguments]
        environment = os.environ | own | variables
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=120
        )

    return run


def said(ended: Ended) -> list[str]:
    """What the command says of its failure: from `avatar:` on, one paragraph and perhaps what to do next."""
    lines = ended.stderr.splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith("avatar: "))
    return lines[start:]


def assert_told(ended: Ended, exit_code: int, *words: str) -> None:
    """The exit code, one paragraph with these words, at most one line on what to do next, no traceback."""
    assert ended.returncode == exit_code, ended.stderr
    paragraph, *following = said(ended)
    assert all(word in paragraph for word in words), paragraph
    assert [line.partition(":")[0] for line in following] in ([], ["Next"])
    assert "Traceback" not in ended.stderr
    assert ended.stdout == ""


def test_a_preview_with_an_out_file(avatar: Avatar, tmp_path: Path) -> None:
    """The video is at --out and plays; stdout says length and address, stderr tells the stages."""
    ended = avatar(*GENERATE, "--out", "new/demo.mp4")
    assert ended.returncode == 0, ended.stderr
    facts = probe_video(tmp_path / "new" / "demo.mp4")
    first, job, store, file = ended.stdout.splitlines()
    assert first == f"speech: {facts.seconds:.2f} s of video, 720×720, for $0.00 by preview"
    assert re.fullmatch(r"  job    [0-9a-f]{32}", job)
    assert store.startswith("  store  s3://test-")
    assert file == f"  file   {tmp_path / 'new' / 'demo.mp4'}"
    stages = [line.partition(":")[0] for line in ended.stderr.splitlines()]
    assert list(dict.fromkeys(stages)) == ["upload", "validate", "submit", "render", "collect", "publish"]


def test_json_is_one_object_on_stdout(avatar: Avatar) -> None:
    """--json prints exactly one object: job, video, cost, renders, checks; a second run prints the same job."""
    first, again = (json.loads(avatar(*GENERATE, "--json").stdout) for _ in range(2))
    assert set(first) == {
        "job_id", "title", "language", "labels", "already", "paid_now", "state", "provider", "video", "notes", "warnings",
        "disclosure", "captions", "forms", "consent",
        "cost", "renders", "checks", "flow_run_id",
    }  # fmt: skip
    assert set(first["video"]) == {"uri", "url", "path", "seconds", "width", "height", "sha256"}
    assert first["cost"] == {"quoted": "0.0000", "billed": "0.0000", "currency": "USD"}
    assert {check["passed"] for check in first["checks"].values()} == {True}
    assert [render["state"] for render in first["renders"]] == ["collected"]
    assert (again["job_id"], again["video"]["sha256"]) == (first["job_id"], first["video"]["sha256"])
    assert again["flow_run_id"] != first["flow_run_id"]
    assert (first["already"], again["already"], again["paid_now"]) == (False, True, "0")


def test_status_lists_and_tells_one(avatar: Avatar) -> None:
    """`status` lists what is published; with a job id or a render id it tells the whole journal."""
    made = json.loads(avatar(*GENERATE, "--json").stdout)
    (render,) = made["renders"]
    listed = json.loads(avatar("status", "--json").stdout)
    assert (listed["published"], listed["open"]) == (1, [])
    assert listed["videos"][0]["job_id"] == made["job_id"]
    story = ["intent", "submitted", "rendered", "collected"]
    for name in (made["job_id"], render["render_id"]):
        one = json.loads(avatar("status", name, "--json").stdout)
        assert [entry["state"] for entry in one["journal"]] == story
    assert "1 published, 0 open" in avatar("status").stdout
    assert_told(avatar("status", "0" * 32), 2, "no job and no render")


def test_spending_is_told_by_label(avatar: Avatar) -> None:
    """By the value of a label, also as a table; what has none is a row of its own."""
    avatar(*GENERATE, "--label", "campaign==spring")
    avatar(*GENERATE, "--force")
    found = json.loads(avatar("status", "--spend", "--by", "campaign", "--json").stdout)
    assert {row["value"]: (row["videos"], row["billed"]) for row in found["rows"]} == {
        "=spring": (1, "0.0000"),
        "": (1, "0.0000"),
    }
    table = avatar("status", "--spend", "--by", "campaign", "--csv").stdout.splitlines()
    assert table[0] == "campaign,videos,seconds,billed"
    assert "'=spring,1,8.2,0.0000" in table
    later = json.loads(avatar("status", "--by", "campaign", "--since", "2999-01-01", "--json").stdout)
    assert later["rows"] == []
    assert_told(avatar("status", "--by", "campaign", "--since", "spring"), 2, "is not a day")


def test_force_makes_another_take(avatar: Avatar) -> None:
    """--force makes a new rendition of a published job, under another job id."""
    first, forced = (json.loads(avatar(*GENERATE, "--json", *more).stdout) for more in ((), ("--force",)))
    assert forced["job_id"] != first["job_id"]
    assert forced["renders"][0]["render_id"] != first["renders"][0]["render_id"]


def test_quote_needs_no_services(avatar: Avatar, tmp_path: Path) -> None:
    """`quote` prices a voice for every provider without starting or touching anything."""
    untouched = {"AVATAR_STATE_DIR": str(tmp_path / "untouched")}
    found = json.loads(avatar("quote", str(VOICE), "--json", **untouched).stdout)
    offers = {(offer["provider"], offer["model"]): offer["amount"] for offer in found["offers"]}
    assert offers == {
        ("preview", "kling-ai-avatar-v2-pro"): "0.0000",
        ("fal", "kling-ai-avatar-v2-pro"): "1.0350",
        ("fal", "kling-ai-avatar-v2-standard"): "0.5058",
        ("pixazo", "kling-ai-avatar-v2-pro"): "1.0350",
    }
    assert "$1.04  (9 s at $0.115/s)" in avatar("quote", str(VOICE), "--provider", "fal", **untouched).stdout
    assert not (tmp_path / "untouched").exists()


def test_without_a_verb_usage_is_told(avatar: Avatar) -> None:
    """No arguments: usage on stderr, exit 2. --help: usage and exit codes on stdout, exit 0."""
    bare, asked = avatar(), avatar("--help")
    assert (bare.returncode, asked.returncode) == (2, 0)
    assert bare.stderr.startswith("usage: avatar")
    assert "5 outcome unknown" in asked.stdout


def test_a_missing_file_is_bad_input(avatar: Avatar) -> None:
    """A voice that is not there is exit 2; the text names it and says that nothing was spent."""
    ended = avatar("generate", str(PORTRAIT), "nowhere.mp3")
    assert_told(ended, 2, "nowhere.mp3", "Nothing was sent or spent.")


def test_a_file_that_is_no_sound_is_bad_input(avatar: Avatar, tmp_path: Path) -> None:
    """A text file named .mp3 is exit 2, whatever its name says; with --json the error is an object too."""
    (tmp_path / "voice.mp3").write_text("this is not sound")
    assert_told(avatar("generate", str(PORTRAIT), "voice.mp3"), 2, "is a text, which is not read as a voice")
    error = json.loads(avatar("generate", str(PORTRAIT), "voice.mp3", "--json").stdout)["error"]
    assert error["type"] == "InvalidInput"
    assert error["message"]


def test_a_mistyped_setting_is_bad_usage(avatar: Avatar) -> None:
    """A setting that cannot be read is exit 2 and named, before anything starts."""
    assert_told(
        avatar(*GENERATE, AVATAR_POLLING__WINDOW_SECONDS="soon"), 2, "AVATAR_POLLING__WINDOW_SECONDS: "
    )


def test_a_traceback_is_for_debugging_only(avatar: Avatar) -> None:
    """--debug shows where it failed."""
    ended = avatar("--debug", "generate", str(PORTRAIT), "nowhere.mp3")
    assert "Traceback" in ended.stderr
    assert ended.returncode == 1


def test_above_the_highest_price_nothing_is_sent(avatar: Avatar, sandbox: Sandbox) -> None:
    """--max-cost below the quote is exit 3, and the provider sees no request."""
    ended = avatar(*GENERATE, "--max-cost", "0.01", **sandbox.fal_env())
    assert_told(ended, 3, "$1.0", "$0.01", "--max-cost", "Nothing was sent or spent.")
    assert sandbox.state()["posts"] == 0


def test_a_face_without_consent_is_refused(avatar: Avatar, sandbox: Sandbox) -> None:
    """AVATAR_CONSENT=required and none recorded: exit 3 before anything is sent, with the command that records one."""
    ended = avatar(*GENERATE, **sandbox.fal_env(), AVATAR_CONSENT="required")
    assert_told(ended, 3, "no consent is recorded for this portrait", "Nothing was sent or spent now.")
    assert "Next: Record one: avatar consent add PORTRAIT" in ended.stderr
    assert sandbox.state()["posts"] == 0


def test_a_missing_key_is_refused_before_paying(avatar: Avatar) -> None:
    """A paid provider without its key is exit 3, and names the setting."""
    ended = avatar(*GENERATE, "--provider", "pixazo")
    assert ended.returncode == 3
    assert any("AVATAR_PIXAZO__KEY" in line for line in said(ended))


def test_a_failed_render_is_the_providers_failure(avatar: Avatar, sandbox: Sandbox) -> None:
    """A render that the provider fails is exit 4 with its reason, its request id and what it may have cost."""
    sandbox.behave("submit", "fail", kind="content_policy_violation", message="This face is not allowed")
    ended = avatar(*GENERATE, "--json", **sandbox.fal_env())
    error = json.loads(ended.stdout)["error"]
    assert ended.returncode == 4
    assert (error["type"], error["provider"]) == ("RenderFailed", "fal")
    assert error["request_id"] == sandbox.state()["accepted"][0]["request_id"]
    assert "This face is not allowed" in error["message"]
    assert "Traceback" not in ended.stderr


def test_a_lost_answer_is_found_in_the_providers_list(avatar: Avatar, sandbox: Sandbox) -> None:
    """Exactly one request there has our files and our prompt: the command goes on, and nobody is asked."""
    sandbox.behave("submit", "drop")
    ended = avatar(*GENERATE, "--json", **sandbox.fal_env())
    if ended.returncode:  # the list shows a request once it has ended: the same command goes on then
        ended = avatar(*GENERATE, "--json", **sandbox.fal_env())
    (accepted,) = sandbox.state()["accepted"]
    assert json.loads(ended.stdout)["renders"][0]["request_id"] == accepted["request_id"]
    assert (sandbox.state()["posts"], sandbox.state()["leaks"]) == (1, [])


def test_an_unknown_outcome_waits_for_a_person(avatar: Avatar, sandbox: Sandbox) -> None:
    """Where the provider's list is refused, a lost answer is exit 5 each time, with one POST; a person settles it."""
    fal = sandbox.fal_env()
    sandbox.behave("submit", "drop")
    sandbox.behave("history", "forbidden", times=1000)
    ended = avatar(*GENERATE, "--json", **fal)
    error: dict[str, Any] = json.loads(ended.stdout)["error"]
    assert (ended.returncode, error["type"], error["cost_at_risk"]) == (5, "OutcomeUnknown", "1.0350")
    assert_told(avatar(*GENERATE, **fal), 5, error["render_id"], "$1.0", "not sent again")
    assert [entry["state"] for entry in json.loads(avatar("status", "--json").stdout)["open"]] == ["unknown"]
    found = sandbox.state()["accepted"][0]["request_id"]
    assert avatar("resolve", error["render_id"], "--request-id", found, **fal).returncode == 0
    video = json.loads(avatar(*GENERATE, "--json", **fal).stdout)
    assert video["renders"][0]["request_id"] == found
    assert (sandbox.state()["posts"], sandbox.state()["leaks"]) == (1, [])

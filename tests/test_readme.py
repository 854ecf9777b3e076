"""README.md tells the truth: every command in it is run here, every setting and link in it exists."""

import os
import re
import secrets
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from avatar.commands.parser import build_parser
from avatar.local import find
from avatar.local.state_directory import StateDirectory
from avatar.media.decoder_calls import probe_video
from avatar.settings import AvatarSettings
from tests.sandbox.fixtures import sandbox, sandbox_process  # noqa: F401 - fixtures
from tests.sandbox.running import Sandbox
from tests.up import until_ready, with_database

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()
GENERATE = "avatar generate examples/portrait.png examples/speech.mp3"


def fenced(*languages: str) -> list[str]:
    """What stands in the code blocks of these languages."""
    return re.findall(rf"^```(?:{'|'.join(languages)})\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)


def commands() -> list[str]:
    """Every command of the README, without its remark."""
    lines = [
        line.partition("#")[0].strip() for block in fenced("sh", "console") for line in block.splitlines()
    ]
    return [line for line in lines if line]


class Machine:
    """A directory that looks like the checkout, with `avatar up` running: where the README's reader is."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "examples").symlink_to(ROOT / "examples")
        self.state_dir = folder / "state"
        with_database(self.state_dir / "prefect")
        self.up = self.start("avatar up", stdout=subprocess.PIPE, text=True)
        self.said = until_ready(self.up)

    def start(self, command: str, **options: object) -> "subprocess.Popen[str]":
        program, *arguments = shlex.split(command)
        assert program == "avatar"
        return subprocess.Popen(
            [sys.executable, "-m", "avatar", *arguments], cwd=self.folder, env=self.environment(), **options
        )

    def environment(self) -> dict[str, str]:
        return os.environ | {"AVATAR_STATE_DIR": str(self.state_dir), "PYTHONPATH": str(ROOT)}

    def run(self, command: str, **variables: str) -> str:
        """Its stdout, once it has ended with exit 0."""
        program, *arguments = shlex.split(command)
        assert program == "avatar"
        ended = subprocess.run(
            [sys.executable, "-m", "avatar", *arguments],
            cwd=self.folder, env=self.environment() | variables, capture_output=True, text=True, check=False, timeout=180,
        )  # fmt: skip
        assert ended.returncode == 0, ended.stderr
        return ended.stdout


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    running = Machine(tmp_path_factory.mktemp("reader"))
    yield running
    running.up.send_signal(signal.SIGINT)
    running.up.communicate(timeout=90)
    assert running.up.returncode == 0


Check = Callable[[str, Machine, Sandbox], None]


def plans_to(recipe: str) -> Check:
    """A make target, not run since it would build a virtual environment: its recipe is what is expected."""

    def check(command: str, machine: Machine, sandbox: Sandbox) -> None:  # noqa: F811 - the fixture's value
        target = command.split()[1]
        planned = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=True)
        assert recipe in planned.stdout

    return check


def is_up(command: str, machine: Machine, sandbox: Sandbox) -> None:  # noqa: F811
    """It is running already: it says where the UI is, and everything it promises is there."""
    running = find(AvatarSettings(_env_file=None, state_dir=machine.state_dir))
    assert running.ui_url
    assert running.ui_url in machine.said
    assert "generate-avatar" in machine.said
    assert StateDirectory(machine.state_dir).read().dead() == ""


def prints(words: str) -> Check:
    def check(command: str, machine: Machine, sandbox: Sandbox) -> None:  # noqa: F811
        assert words in machine.run(command)

    return check


def writes_a_video(command: str, machine: Machine, sandbox: Sandbox) -> None:  # noqa: F811
    machine.run(command)
    assert probe_video(machine.folder / "out" / "hello.mp4").seconds > 8


def buys_at_the_sandbox(command: str, machine: Machine, sandbox: Sandbox) -> None:  # noqa: F811
    """The one command that costs money is run against the stand-in for fal."""
    bucket = {"AVATAR_STORE__BUCKET": f"paid-{secrets.token_hex(6)}"}
    assert "by fal" in machine.run(command, **sandbox.fal_env(), **bucket)
    assert sandbox.state()["posts"] == 1


HOW: dict[str, Check] = {
    "make demo": plans_to("avatar generate examples/portrait.png examples/speech.mp3 --provider preview"),
    "make test": plans_to("-m pytest"),
    "avatar up": is_up,
    "avatar quote examples/speech.mp3": prints("fal      $1.04  (9 s at $0.115/s)"),
    "avatar quote examples/speech-95s.mp3": prints("cut into 2 segments"),
    f"{GENERATE} --out out/hello.mp4": writes_a_video,
    "avatar status": prints("published"),
    "avatar status --spend": prints("at risk in unknown renders: $0"),
    "avatar status --spend --by campaign --csv": prints("campaign,videos,seconds,billed"),
    "avatar batch examples/jobs.csv --on-bad-rows skip": prints("2 of 2 rows have a video"),
    "avatar doctor": prints("worker"),
    "avatar deploy": prints("take-uploads/sweep-inbox"),
    f"{GENERATE} --provider fal --max-cost 2.00": buys_at_the_sandbox,
}


def test_every_command_has_a_way_to_be_run() -> None:
    """A command that is new in the README needs an entry in HOW, and an entry needs its command."""
    assert sorted(set(commands())) == sorted(HOW)


@pytest.mark.server
@pytest.mark.parametrize("command", HOW)
def test_the_command_does_what_the_readme_says(command: str, machine: Machine, sandbox: Sandbox) -> None:  # noqa: F811
    """Each command of the README works as it is written there."""
    HOW[command](command, machine, sandbox)


def test_every_verb_and_option_exists() -> None:
    """Verbs and options named in the text are those of the command."""
    help_texts = [build_parser().format_help()]
    for verb in sorted(set(re.findall(r"`avatar ([a-z]+)", TEXT))):
        asked = subprocess.run(
            [sys.executable, "-m", "avatar", verb, "--help"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert asked.returncode == 0, f"README names `avatar {verb}`: {asked.stderr}"
        help_texts.append(asked.stdout)
    options = set(re.findall(r"`(?:avatar [^`]*)?(--[a-z-]+)", TEXT)) - {"--help"}
    assert {option for option in options if not any(option in text for text in help_texts)} == set()


def test_every_setting_exists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The `.env` blocks load, each line of them is a setting, and so is every AVATAR_ name in the text."""
    monkeypatch.chdir(tmp_path)
    for block in fenced("ini"):
        (tmp_path / ".env").write_text(block)
        given = AvatarSettings().model_dump(exclude_unset=True)
        assert sum(len(value) if isinstance(value, dict) else 1 for value in given.values()) == len(
            block.splitlines()
        )
    page = (ROOT / "docs" / "settings.md").read_text()
    assert {name for name in re.findall(r"AVATAR_[A-Z_]+", TEXT) if f"`{name}`" not in page} == set()

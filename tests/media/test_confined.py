"""Decoders that crash, hang or grasp for more: what their caller sees, and what they can reach."""

import asyncio
import math
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import pytest

from avatar.errors import InvalidInput, VideoRejected
from avatar.media import confined, decoder_pool
from avatar.media import decoder_limits as bounds
from tests.media import wrecks

ROOT = Path(__file__).parents[2]
FILE = Path("/nowhere/voice.mp3")
linux = pytest.mark.skipif(sys.platform != "linux", reason="limits of Linux")


@pytest.fixture(autouse=True, scope="module", params=["started", pytest.param("forked", marks=linux)])
def way(request) -> Iterator[str]:
    """Children come by either way, and nothing differs."""
    confined.close()
    if request.param == "forked":
        decoder_pool.fork_children()
    yield request.param
    confined.close()
    if decoder_pool._forking:
        decoder_pool._forking.close()
        decoder_pool._forking = None


def alive(pid: int) -> bool:
    """Whether a process runs; one that ended and was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def gone(pid: int) -> bool:
    """Wait for the end of a process that is not ours to wait for."""
    ended = threading.Event()
    for _ in range(500):
        if not alive(pid):
            return True
        ended.wait(0.01)
    return False


@pytest.mark.parametrize(
    ("wreck", "error", "words"),
    [
        (wrecks.crash, InvalidInput, "voice.mp3 cannot be decoded: its decoder crashed (SIGSEGV)."),
        (wrecks.crash_on_video, VideoRejected, "voice.mp3 cannot be decoded: its decoder crashed (SIGSEGV)."),
        (wrecks.stumble, InvalidInput, "voice.mp3 cannot be decoded: ZeroDivisionError: "),
        (wrecks.lie, InvalidInput, "voice.mp3 cannot be decoded: its decoder gave no sensible answer."),
        pytest.param(
            wrecks.hoard, InvalidInput, "voice.mp3 cannot be decoded: it needs more than 1 GiB", marks=linux
        ),
    ],
    ids=["crash", "crash on a video", "stumble", "lie", "hoard"],
)  # fmt: skip
def test_what_goes_wrong_in_a_decoder_is_an_error_message(wreck, error, words):
    """It names the file and what happened, and the next file is decoded as if nothing had."""
    with pytest.raises(error) as caught:
        wreck(FILE)
    assert caught.value.message.startswith(words)
    assert wrecks.who(FILE) != os.getpid()


def test_a_decoder_without_end_is_stopped(monkeypatch):
    """By the processor time it used; it is not tried a second time."""
    monkeypatch.setattr(bounds, "CPU_SECONDS", 1)
    with pytest.raises(InvalidInput, match=r"voice\.mp3 cannot be decoded: it takes too much processor time"):
        wrecks.spin(FILE)


def test_a_decoder_that_hangs_is_stopped(monkeypatch):
    """By the clock, where it uses no processor time."""
    monkeypatch.setattr(bounds, "WALL_SECONDS", 0.2)
    monkeypatch.setattr(bounds, "WALL_SECONDS_PER_CPU", 0)
    with pytest.raises(InvalidInput, match=r"voice\.mp3 cannot be decoded: it takes more than"):
        wrecks.sleep(FILE)


def test_what_is_written_is_bounded(tmp_path):
    """A small file does not become a large one."""
    path = tmp_path / "voice.mp3"
    with pytest.raises(InvalidInput, match="it would be too large on disk"):
        wrecks.flood(path)
    assert path.stat().st_size <= 64 << 20


def test_a_full_disk_is_not_the_files_fault():
    """What fails for want of room here is told as such, so that it is tried again and no file refused."""
    with pytest.raises(OSError, match="No space left"):
        wrecks.run_out_of_disk(FILE)


def test_an_innocent_file_is_tried_again(tmp_path):
    """A child that did other work before is not believed when it dies: a new one decides."""
    wrecks.who(FILE)
    assert wrecks.crash_unless_new(tmp_path / "voice.mp3") == 7


@linux
@pytest.mark.parametrize(("what", "end"), [("network", "PermissionError"), ("program", "PermissionError")])
def test_a_decoder_reaches_neither_network_nor_programs(what, end):
    """The system refuses both."""
    assert wrecks.attempt(FILE, what) == end


@linux
def test_a_decoder_holds_no_files_of_ours(tmp_path):
    """Nothing that was open when it started: no store connection, no journal, no terminal."""
    with (tmp_path / "secret").open("w") as file:
        os.set_inheritable(file.fileno(), True)
        confined.close()
        held = wrecks.attempt(FILE, "files")
    assert set(held.split(",")) == {"/dev/null", "socket"}


def test_a_decoder_knows_no_secrets(monkeypatch):
    """Of the environment it is given only what it takes to run."""
    for name in ("AVATAR_FAL__KEY", "FAL_KEY", "PREFECT_API_KEY", "AWS_SECRET_ACCESS_KEY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "marked-secret")
    confined.close()
    assert not [line for line in wrecks.variables(FILE) if "marked-secret" in line]


def test_arguments_and_results_arrive_as_they_were(tmp_path, monkeypatch):
    """Floats to the last bit, NaN, fractions, names that are not UTF-8, and paths relative to where we are."""
    monkeypatch.chdir(tmp_path)
    name = Path(os.fsdecode(b"v\xff.mp3"))
    told = wrecks.echo(name, (0.1 + 0.2, math.nan, 5e-324), Fraction(1, 3), folder=None)
    assert told == (
        str(name),
        "0.30000000000000004",
        "nan",
        "5e-324",
        "1/3",
        "None",
        str(tmp_path),
        "avatar.media.confined",
    )


def test_a_mistake_in_the_call_is_ours():
    """Wrong arguments are no refusal of a file."""
    with pytest.raises(TypeError):
        wrecks.who()


def test_one_child_serves_many_calls_and_is_replaced_in_the_end(monkeypatch):
    """Starting one takes longer than most calls."""
    assert wrecks.who(FILE) == wrecks.who(FILE)
    monkeypatch.setattr("avatar.media.decoder_pool.CALLS_PER_CHILD", 1)
    assert wrecks.who(FILE) != wrecks.who(FILE)


async def test_long_work_does_not_hold_up_the_next(tmp_path):
    """While one child is busy, another is started for whoever waits."""
    go = tmp_path / "go"
    busy = asyncio.create_task(asyncio.to_thread(wrecks.wait_for, go))
    while not go.with_suffix(".pid").exists():
        await asyncio.sleep(0.01)
    other = await asyncio.to_thread(wrecks.who, FILE)
    assert not busy.done()
    go.touch()
    assert await busy != other


def test_an_interrupted_call_leaves_no_answer_behind(tmp_path):
    """Ctrl-C in the middle of a call; the next call gets its own answer."""
    go = tmp_path / "go"
    # From outside, as a terminal does: a thread of ours could hold the interpreter's lock at the wrong instant.
    script = 'until [ -s "$0" ]; do sleep 0.01; done; kill -INT "$1"'
    command = ["/bin/sh", "-c", script, str(go.with_suffix(".pid")), str(os.getpid())]
    with subprocess.Popen(command), pytest.raises(KeyboardInterrupt):
        wrecks.wait_for(go)
    assert gone(int(go.with_suffix(".pid").read_text()))
    assert wrecks.echo(FILE, (), Fraction(1))[0] == str(FILE)


def run(code: str, **options) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)], cwd=ROOT, text=True, stdout=subprocess.PIPE, **options
    )  # fmt: skip


@linux
def test_the_child_dies_with_us(tmp_path):
    """kill -9 in the middle of a call ends the child, too."""
    go = tmp_path / "go"
    process = run(
        f"from pathlib import Path; from tests.media import wrecks; wrecks.wait_for(Path({str(go)!r}))"
    )
    while not (go.with_suffix(".pid").exists() and go.with_suffix(".pid").read_text()):
        assert process.poll() is None
    process.kill()
    process.communicate()
    assert gone(int(go.with_suffix(".pid").read_text()))


@linux
def test_a_program_that_decoded_ends_at_once_and_leaves_nothing():
    """No hang, no complaint, no child left, whether it decoded in the main thread or in others."""
    process = run(
        """
        import asyncio
        from pathlib import Path
        from tests.media import wrecks
        async def main():
            return await asyncio.gather(*(asyncio.to_thread(wrecks.who, Path('a')) for _ in range(4)))
        print(wrecks.who(Path('a')), *asyncio.run(main()))
        """,
        stderr=subprocess.PIPE,
    )
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert not [pid for pid in out.split() if alive(int(pid))]


@linux
def test_a_forked_process_starts_children_of_its_own():
    """It does not talk on its parent's lines."""
    process = run(
        """
        import os
        from pathlib import Path
        from tests.media import wrecks
        print(wrecks.who(Path('a')), flush=True)
        if not (pid := os.fork()):
            print(wrecks.who(Path('a')), flush=True)
            os._exit(0)
        os.waitpid(pid, 0)
        print(wrecks.who(Path('a')), flush=True)
        """
    )
    out, _ = process.communicate(timeout=60)
    first, forked, again = out.split()
    assert first == again != forked
    assert gone(int(forked))


@linux
def test_who_forks_them_ends_with_the_last_that_may_ask(way):
    """Children are forked from one process, and started as before when it is gone; it leaves nobody behind."""
    first = wrecks.who(FILE)
    parent = int(Path(f"/proc/{first}/stat").read_text().rpartition(")")[2].split()[1])
    assert (parent == os.getpid()) is (way == "started")
    if way == "forked":
        os.kill(parent, signal.SIGKILL)
        assert gone(parent)
        confined.close()
        assert wrecks.who(FILE) != first


@linux
def test_one_that_forks_ends_with_us():
    """However we end."""
    process = run(
        """
        import os
        from pathlib import Path
        from avatar.media import decoder_pool
        from tests.media import wrecks
        decoder_pool.fork_children()
        forked = wrecks.who(Path('a'))
        print(forked, Path(f'/proc/{forked}/stat').read_text().split()[3], flush=True)
        os.kill(os.getpid(), 9)
        """
    )
    out, _ = process.communicate(timeout=60)
    assert all(gone(int(pid)) for pid in out.split())


def test_one_that_was_started_early_answers_the_first_call(monkeypatch):
    """And one is enough, however often it is asked for."""
    confined.close()
    started = []

    class Noted(decoder_pool.Child):
        def __init__(self) -> None:
            super().__init__()
            started.append(self)

    monkeypatch.setattr(decoder_pool, "Child", Noted)
    confined.start_early()
    confined.start_early()
    wrecks.who(FILE)
    assert [child.calls for child in started] == [1]


def test_a_child_that_cannot_start_is_not_the_files_fault(monkeypatch):
    """The error says so, and what to try."""
    confined.close()
    monkeypatch.setattr(decoder_pool, "_forking", None)
    monkeypatch.setattr("avatar.media.decoder_pool.sys.executable", "/bin/false")
    with pytest.raises(RuntimeError, match="did not start"):
        wrecks.who(FILE)

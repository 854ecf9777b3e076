"""No secret leaves its place: whatever becomes of a job, nothing that is kept, shown or printed holds one."""

import io
import json
import os
import re
import signal
import sqlite3
from contextlib import closing, suppress
from itertools import chain
from pathlib import Path

import pytest

from avatar.local.processes import children
from tests.security import searching
from tests.security.conftest import PORTRAIT, House, encodings, until
from tests.security.searching import Places, traces

pytestmark = pytest.mark.server

#: Files that are there to hold secrets; test_file_modes.py sees to it that nobody else may read them.
HOLDERS = {"services.json", "bridge.token", "embedded.json", "s3.json"}


PROVIDERS = ("fal", "pixazo")


@pytest.fixture(scope="module")
def lived_in(house: House) -> House:
    """At each provider a job that is killed in mid-render and goes on, failing ones that quote secrets, and a good one."""
    sandbox = house.sandbox
    before, accepted = sandbox.state()["counts"], sandbox.state()["accepts"]
    sandbox.behave("submit", "pace", times=2, render_seconds=8)
    crashing = [house.start(voice=str(house.voice(3.0)), provider=name, prompt=name) for name in PROVIDERS]
    until(lambda: sandbox.state()["accepts"] == accepted + len(PROVIDERS), 90)
    for looks in ("stream", "status"):  # fal's and Pixazo's: both receipts are in the journal by then
        sandbox.wait_for(looks, before[looks] + 1, seconds=90)
    for run in children(house.record.worker.process):
        os.kill(run.pid, signal.SIGKILL)
    for name in PROVIDERS:
        sandbox.behave(
            "submit", "fail", times=2, provider=name, message=echo(house, name), name="error", status=422
        )
    failing = [house.start(voice=str(house.voice(4.0)), provider=name, prompt=name) for name in PROVIDERS]
    for name in PROVIDERS:
        told = house.avatar("--debug", *by_hand(house, 5.0, name))
        assert "RenderFailed" in told.stderr, told.stderr
    until(lambda: [house.state_of(run) for run in failing] == ["FAILED"] * 2, 60)
    for name in PROVIDERS:
        good = house.avatar(*by_hand(house, 6.0, name), "--json")
        assert good.returncode == 0, good.stderr
    until(lambda: all(house.state_of(run) in {"COMPLETED", "FAILED"} for run in crashing), 120)
    assert [house.state_of(run) for run in crashing] == ["COMPLETED"] * 2
    house.avatar("doctor")
    house.avatar("status", "--json")
    return house


def by_hand(house: House, seconds: float, provider: str) -> list[str]:
    """A job of its own at each provider: the same one would be found, wherever it was bought."""
    voice = str(house.voice(seconds))
    return ["generate", str(PORTRAIT), voice, "--provider", provider, "--prompt", provider]


def echo(house: House, provider: str) -> str:
    """What a provider may say that means no good: keys and signed links, given back in an error."""
    key = house.secrets["fal's key" if provider == "fal" else "Pixazo's key"]
    return f"cannot read http://h/p.png?X-Amz-Signature={'c0ffee' * 10} with {key}"


def terminal(house: House) -> Places:
    """What commands printed; without the one link that `--json` is there to give."""
    for number, said in enumerate(house.said):
        yield f"terminal {number}", re.sub(r'"url": "http[^"]*"', "", said).encode()


def everything(house: House) -> Places:
    return chain(
        searching.database(house.folder / "prefect" / "prefect.db"),
        searching.folder(house.folder, without=is_a_holder),
        searching.bucket(house.store),
        terminal(house),
        command_lines(house.sandbox.process.pid),
    )


def is_a_holder(path: Path) -> bool:
    """Secrets' own files, and the database and the store's volumes, which are looked into by other ways."""
    return (
        path.name in HOLDERS
        or path.name.startswith("prefect.db")
        or ("store" in path.parts and path.suffix != ".log")
    )


def command_lines(outside: int) -> Places:
    """What every user of the machine sees of its processes, but that of the provider outside."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        if path.parent.name == str(outside):
            continue
        with suppress(OSError):
            yield f"process {path.parent.name}", path.read_bytes()


def test_nothing_that_is_kept_or_printed_holds_a_secret(lived_in: House) -> None:
    """Prefect's database, logs, artifacts and results, journal, bucket, log files, terminal and process list: none."""
    assert traces(everything(lived_in), lived_in.secrets) == []


def test_the_jobs_were_what_they_seem(lived_in: House) -> None:
    """Keys went to the provider and were taken, webhooks came, and there is something to find in all places."""
    seen = lived_in.sandbox.state()
    ours = [each for each in seen["accepted"] if each["body"]["prompt"] in PROVIDERS]
    assert (seen["leaks"], len(ours)) == ([], 8)
    told = {entry["request_id"]: entry["status"] for entry in seen["webhooks"]}
    assert {told[each["request_id"]] for each in ours} == {204}
    places = [place for place, _ in everything(lived_in)]
    for expected in ("table log.message", "table artifact.data", "table events.payload", "table flow_run.parameters",
                     "object journal/", "object results/", "object videos/", "file state/logs/worker.log",
                     "file server.log", "terminal 4", "process 1"):  # fmt: skip
        assert any(place.startswith(expected) for place in places), expected


@pytest.mark.parametrize("form", range(5))
def test_the_search_finds_what_is_planted(house: House, tmp_path: Path, form: int) -> None:
    """In a database, a file and an object: the secret as it is, quoted, in hex, or in base64 at any offset."""
    secret = {"it": "M4RKED/p&ss wörd+" + house.secrets["fal's key"]}
    planted = sorted(encodings(secret["it"]))[form]
    with closing(sqlite3.connect(tmp_path / "planted.db")) as database, database:
        database.execute("CREATE TABLE log (message TEXT)")
        database.execute("INSERT INTO log VALUES (?)", (planted.decode(),))
    (tmp_path / "planted.log").write_bytes(b"before " + planted + b" after")
    found = traces(searching.database(tmp_path / "planted.db"), secret)
    found += traces(searching.folder(tmp_path, without=is_a_holder), secret)
    assert found == [
        "it in file planted.db",
        "it in table log.message",
        "it in file planted.db",
        "it in file planted.log",
    ]


def test_the_search_finds_links_and_objects(house: House) -> None:
    """A presigned link and a webhook's address are found in any spelling; so is a secret in the bucket."""
    link = b"GET /p?X-Amz-Signature=abc", b"u=https%3A%2F%2Fh%2Fp%3FX-Amz-Signature%3Dabc"
    hook = b"/webhooks/fal/" + b"0" * 32 + b"/1/" + b"a" * 40
    assert traces(iter([("here", each) for each in link]), {}) == ["a signed link in here"]
    assert traces(iter([("here", hook)]), {}) == ["a webhook's address in here"]
    client = searching.open_client(house.store)
    body = house.secrets["the store's secret key"].encode()
    client.put_object(house.store.bucket, "planted/note.txt", io.BytesIO(body), len(body))
    try:
        found = traces(searching.bucket(house.store), house.secrets)
    finally:
        client.remove_object(house.store.bucket, "planted/note.txt")
    assert "the store's secret key in object planted/note.txt" in found


def test_the_one_link_in_the_output_expires(lived_in: House) -> None:
    """`--json` gives a link for a quick look, for seven days at most."""
    links = [
        json.loads(said.splitlines()[0])["video"]["url"]
        for said in lived_in.said
        if said.startswith('{"job_id"')
    ]
    assert links
    assert all(int(re.search(r"X-Amz-Expires=(\d+)", link)[1]) <= 7 * 86_400 for link in links)

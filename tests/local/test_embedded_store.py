"""The embedded store: private, persistent, and the only process it ever ends."""

import asyncio
import os
import signal
import socket
import stat
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from avatar.errors import NotConfigured, StoreUnavailable
from avatar.local import embedded_store, processes
from avatar.local.processes import Process
from avatar.store.store import Store

MODE = 0o777


async def with_store(running, use):
    """Use a store once and close it."""
    store = Store(embedded_store.settings_for(running))
    try:
        return await use(store)
    finally:
        await store.aclose()


@pytest.fixture
def started():
    """Starts embedded stores; what still runs at the end of the test is stopped."""
    with ExitStack() as stack:

        def start(directory, **more):
            running = embedded_store.start(directory, **more)
            stack.callback(embedded_store.stop, running, wait_seconds=0)
            return running

        yield start


def test_data_and_keys_survive(started, tmp_path):
    """After a stop the same directory has the same keys, port and objects; also when its port was taken meanwhile."""
    first = started(tmp_path / "store")
    asyncio.run(with_store(first, lambda store: store.put("a/b", b"kept", content_type="text/plain")))
    assert started(tmp_path / "store") == first, "a second start finds the first"
    embedded_store.stop(first)
    assert not first.runs
    with pytest.raises(StoreUnavailable):
        asyncio.run(with_store(first, lambda store: store.exists("a/b")))

    port = int(first.endpoint.split(":")[1])
    with socket.create_server(("127.0.0.1", port)):
        second = started(tmp_path / "store")
    assert second.endpoint != first.endpoint
    assert (second.access_key, second.secret_key) == (first.access_key, first.secret_key)
    blob = asyncio.run(with_store(second, lambda store: store.get("a/b")))
    assert blob.data == b"kept"
    assert asyncio.run(with_store(second, lambda store: store.create("a/c", b"new"))) is True


def test_it_survives_being_killed(started, tmp_path):
    """After SIGKILL the next start has what was acknowledged, on the same port."""
    first = started(tmp_path / "store")
    asyncio.run(with_store(first, lambda store: store.create("a", b"kept")))
    os.kill(first.process.pid, signal.SIGKILL)
    os.waitpid(first.process.pid, 0)
    second = started(tmp_path / "store")
    assert (second.process.pid != first.process.pid, second.endpoint) == (True, first.endpoint)
    assert asyncio.run(with_store(second, lambda store: store.get("a"))).data == b"kept"


def test_no_second_server_on_the_same_data(started, tmp_path):
    """A server that runs but answers nothing is reported and kept: two on the same data would destroy it."""
    first = started(tmp_path / "store")
    os.kill(first.process.pid, signal.SIGSTOP)
    try:
        with pytest.raises(StoreUnavailable, match="runs already"):
            embedded_store.start(first.directory, wait_seconds=0.2)
    finally:
        os.kill(first.process.pid, signal.SIGCONT)
    assert started(tmp_path / "store") == first


def test_keys_of_a_cloud_account_do_not_open_it(started, tmp_path, monkeypatch):
    """SeaweedFS would take the user's own AWS keys as an administrator's: they are not passed on."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "cloud-account")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "cloud-account-secret")
    running = started(tmp_path / "store")
    foreign = running.model_copy(update={"access_key": "cloud-account", "secret_key": "cloud-account-secret"})
    with pytest.raises(StoreUnavailable, match=r"InvalidAccessKeyId|AccessDenied"):
        asyncio.run(with_store(foreign, lambda store: store.list("")))


def test_keys_are_for_this_user_only(seaweed):
    """Files with keys are 0600, the directory is 0700, and keys are not the same twice."""
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in seaweed.directory.glob("*.json")}
    assert modes == {"embedded.json": 0o600, "s3.json": 0o600}
    assert stat.S_IMODE(seaweed.directory.stat().st_mode) == 0o700
    assert len(seaweed.secret_key) >= 32


def test_keys_are_not_on_the_command_line(seaweed):
    """Whoever lists processes sees no key."""
    line = " ".join(processes.command_line(seaweed.process.pid))
    assert "mini" in line
    assert seaweed.secret_key not in line
    assert seaweed.access_key not in line


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "HEAD"])
async def test_strangers_get_nothing(seaweed, store, method):
    """Without keys the S3 port refuses, and the ports beside it do not serve objects at all."""
    await store.put("a", b"private", content_type="text/plain")
    port = int(seaweed.endpoint.split(":")[1])
    async with httpx.AsyncClient() as http:
        refused = await http.request(method, f"http://127.0.0.1:{port}/{store.bucket}/a")
        filer = await http.request(method, f"http://127.0.0.1:{port + 1}/buckets/{store.bucket}/a")
    assert refused.status_code == 403
    assert filer.status_code in {401, 403, 404, 405}
    assert b"private" not in refused.content + filer.content
    assert (await store.get("a")).data == b"private"


def test_it_listens_on_this_machine_only(seaweed):
    """None of its ports is open to the network."""
    listening = [
        line.split()
        for name in ("tcp", "tcp6")
        for line in Path(f"/proc/net/{name}").read_text().splitlines()
    ]
    ports = range(int(seaweed.endpoint.split(":")[1]), int(seaweed.endpoint.split(":")[1]) + 5)
    ours = {
        row[1]
        for row in listening
        if row[3] == "0A" and int(row[1].split(":")[1], 16) % 10000 in {p % 10000 for p in ports}
    }
    assert len(ours) >= 5
    assert {address for address in ours if not address.startswith("0100007F:")} == set()


def test_a_foreign_process_is_left_alone(tmp_path):
    """A directory whose store is gone, and whose pid is another program's now, is neither running nor stopped."""
    with subprocess.Popen([sys.executable, "-c", "input()", "mini"], stdin=subprocess.PIPE) as other:
        state = embedded_store.StoreState(access_key="a", secret_key="s", port=18_000, pid=other.pid)
        embedded_store.write_state(tmp_path, state)
        assert embedded_store.find_running(tmp_path) is None
        gone = embedded_store.as_store(tmp_path, state, Process(pid=other.pid, born="long ago"))
        embedded_store.stop(gone)
        assert (gone.runs, other.poll()) == (False, None)
        other.stdin.close()
        other.wait()
    embedded_store.stop(embedded_store.as_store(tmp_path, state, processes.identify(other.pid)))


@pytest.mark.parametrize("body", ["echo no disk left; exit 3", "echo no disk left; exec sleep 60"])
def test_a_store_that_does_not_start_says_why(tmp_path, monkeypatch, body):
    """A program that ends or never gets ready is reported with its last words, and nothing is left running."""
    fake = tmp_path / "weed"
    fake.write_text(f"#!/bin/sh\n{body}\n")
    fake.chmod(0o755)
    monkeypatch.setenv("WEED_BIN", str(fake))
    with pytest.raises(StoreUnavailable, match="no disk left"):
        embedded_store.start(tmp_path / "store", wait_seconds=1)


def test_a_missing_program_is_a_matter_of_settings(tmp_path, monkeypatch):
    """Without `weed` the error names what to install or set, and nothing is made."""
    monkeypatch.setenv("WEED_BIN", str(tmp_path / "none"))
    with pytest.raises(NotConfigured) as refused:
        embedded_store.start(tmp_path / "store")
    assert "WEED_BIN" in refused.value.hint
    assert not (tmp_path / "store").exists()


def test_a_second_starter_waits_for_the_first(started, tmp_path):
    """Processes that start the store of one directory at once share one server."""
    code = "import sys; from pathlib import Path; from avatar.local import embedded_store; print(embedded_store.start(Path(sys.argv[1])).process.pid)"
    starters = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / "store")], stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    pids = {starter.communicate()[0].strip() for starter in starters}
    assert pids == {str(started(tmp_path / "store").process.pid)}

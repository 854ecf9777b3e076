"""`avatar bridge` as a process, as a person or `avatar up` starts it."""

import os
import signal
import socket
import stat
import subprocess
import sys
from contextlib import contextmanager
from types import SimpleNamespace

import httpx
import pytest

from avatar.errors import NotConfigured
from avatar.local.environment import flatten
from avatar.local.services import bridge_listener
from avatar.local.state_directory import StateDirectory
from avatar.web.bridge import check_reach
from tests.web.bridge.conftest import s3_notification

COMMAND = [sys.executable, "-m", "avatar", "bridge"]


@pytest.fixture
def environment(make_settings):
    """Of a bridge on this test's store, whose Prefect does not answer."""
    there = flatten("AVATAR_", make_settings().model_dump(exclude_unset=True))
    return os.environ | there | {"PREFECT_API_URL": "http://127.0.0.1:9/api"}


@contextmanager
def bridge(environment, *arguments):
    """A running `avatar bridge`, and its address."""
    pipe = subprocess.PIPE
    command = [*COMMAND, "--port", "0", *arguments]
    process = subprocess.Popen(command, env=environment, text=True, stdout=pipe, stderr=pipe)
    try:
        said = process.stdout.readline()
        assert said.startswith("Bridge http://"), said + process.communicate()[1]
        yield SimpleNamespace(process=process, url=said.split()[1])
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_with_the_token_of_its_state_directory(environment, make_settings, number):
    """Without a token of the user's one is made and kept; Prefect need not answer; Ctrl-C or SIGTERM ends it with 0."""
    settings = make_settings()
    state = StateDirectory(settings.state_dir)
    with bridge(environment) as running:
        notice = s3_notification("inbox/a/voice.mp3", bucket=settings.store.bucket)
        headers = {"authorization": f"Bearer {state.bridge_token()}"}
        taken = httpx.post(f"{running.url}events/s3", json=notice, headers=headers)
        assert (taken.status_code, httpx.post(f"{running.url}events/s3", json=notice).status_code) == (
            204,
            401,
        )
        running.process.send_signal(number)
        assert (running.process.communicate(timeout=20)[1], running.process.returncode) == ("", 0)
    assert stat.S_IMODE(state.token.stat().st_mode) == 0o600


@pytest.fixture
def told_port(make_settings, seaweed):
    """Where the embedded store that is recorded in the state directory expects the bridge."""
    state = StateDirectory(make_settings().state_dir)
    state.prepare()
    state.change(store=seaweed)
    return seaweed.listener_port


def test_it_also_listens_where_the_embedded_store_expects_it(environment, told_port):
    """Its own port may be any, that of the store was fixed when the store started."""
    with bridge(environment) as running:
        urls = [running.url, f"http://127.0.0.1:{told_port}/"]
        assert [httpx.get(f"{url}health").text for url in urls] == ["ok\n", "ok\n"]


def test_a_taken_port_is_said_and_does_not_stop_it(environment, told_port):
    """Another program on the store's port: no events until the store is started anew, which the sweep makes up for."""
    with socket.create_server(("127.0.0.1", told_port)):
        process = subprocess.Popen(
            [*COMMAND, "--port", "0"], env=environment, text=True, stdout=subprocess.PIPE
        )
        said, address = process.stdout.readline(), process.stdout.readline().split()[1]
        health = httpx.get(f"{address}health").text
        process.kill()
        process.communicate()
    assert f"cannot listen on 127.0.0.1 port {told_port}" in said
    assert ("the sweep" in said, health) == (True, "ok\n")


def test_a_token_of_the_users_opens_it_too(environment):
    """AVATAR_BRIDGE__TOKEN is what another store sends."""
    with bridge(environment | {"AVATAR_BRIDGE__TOKEN": "chosen-by-the-user"}) as running:
        headers = {"authorization": "Bearer chosen-by-the-user"}
        assert httpx.post(f"{running.url}events/s3", json={}, headers=headers).status_code == 204


def test_it_does_not_open_to_the_network_without_a_token(environment):
    """Exit 3, and a sentence that names the setting; nothing listens."""
    done = subprocess.run(
        [*COMMAND, "--host", "0.0.0.0"],
        env=environment,
        text=True,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 3
    assert "AVATAR_BRIDGE__TOKEN" in done.stderr


@pytest.mark.parametrize(
    ("bridge", "refused"),
    [
        ({"host": "0.0.0.0"}, True),
        ({"host": "bridge.example"}, True),
        ({"host": "0.0.0.0", "token": "long-enough-a-token"}, False),
        ({"host": "::1"}, False),
        ({"host": "localhost"}, False),
    ],
)
def test_reach_and_token_go_together(make_settings, bridge, refused):
    """On loopback a token is made; beyond it somebody has to choose one."""
    settings = make_settings(bridge=bridge)
    if refused:
        with pytest.raises(NotConfigured):
            check_reach(settings)
    else:
        check_reach(settings)


def test_the_token_is_made_once(tmp_path):
    """Everybody on the state directory gets the same; an empty file, as a full disk leaves it, lets nobody in."""
    state = StateDirectory(tmp_path / "state")
    token = state.bridge_token()
    assert (len(token) >= 32, state.bridge_token()) == (True, token)
    state.token.write_text("\n")
    again = state.bridge_token()
    assert (len(again) >= 32, again != token) == (True, True)
    assert [path.name for path in state.path.glob("*.token")] == ["bridge.token"]


def test_the_embedded_store_is_told_the_same_token(make_settings):
    """And to watch the inbox of the bucket in use."""
    settings = make_settings(inbox={"prefix": "drop/here/"})
    state = StateDirectory(settings.state_dir)
    told = bridge_listener(settings, state)
    assert (told.watched, told.token) == (f"{settings.store.bucket}/drop/here/", state.bridge_token())

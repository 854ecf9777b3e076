"""From a plain upload to an event in Prefect, on real parts: the embedded store, the bridge, a Prefect server."""

import io
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from minio import Minio

from avatar.local.environment import environment
from avatar.settings import AvatarSettings
from tests.flows.conftest import Local

TOKEN = "as-configured-in-minio"
BEARER = {"authorization": f"Bearer {TOKEN}"}
AWAY = "http://127.0.0.1:9/api"
PAIR = ("portrait.png", "voice.mp3")
pytestmark = pytest.mark.server


@pytest.fixture
def plain(local: Local) -> Minio:
    """A client that knows nothing of us."""
    store = local.running.store
    assert store
    assert store.access_key
    assert store.secret_key
    keys = store.access_key.get_secret_value(), store.secret_key.get_secret_value()
    return Minio(store.endpoint or "", *keys, secure=False)


def drop(plain: Minio, upload: str, *names: str, bucket: str = "avatar") -> None:
    for name in names:
        plain.put_object(bucket, f"inbox/{upload}/{name}", io.BytesIO(b"1"), 1)


@contextmanager
def bridge(local: Local, api_url: str, **more: str) -> Iterator[str]:
    """`avatar bridge` beside the running services, as `avatar up` starts it; killed at the end, not asked."""
    settings = AvatarSettings(_env_file=None, state_dir=local.state_dir, inbox={"settle_seconds": 1})
    variables = os.environ | environment(settings, local.running) | {"PREFECT_API_URL": api_url} | more
    command = [sys.executable, "-m", "avatar", "bridge", "--port", "0"]
    process = subprocess.Popen(command, env=variables, text=True, stdout=subprocess.PIPE)
    try:
        assert process.stdout
        said = process.stdout.readline()
        assert said.startswith("Bridge http://"), said
        yield said.split()[1]
    finally:
        process.kill()
        process.communicate()


def told(local: Local, upload: str) -> list[dict[str, Any]]:
    """The events in Prefect that name the upload."""
    query = {"filter": {"event": {"name": ["avatar.inbox.settled"]}}, "limit": 50}
    answer = httpx.post(f"{local.running.api_url}/events/filter", json=query, timeout=20)
    events = answer.raise_for_status().json()["events"]
    return [event for event in events if upload in event["payload"]["uploads"]]


def wait_for(condition: Any, seconds: float = 60) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.1)
    raise AssertionError("it did not happen")


def names(count: int) -> list[str]:
    """Of uploads that no other test uses; in order."""
    return [f"{number}-{secrets.token_hex(4)}" for number in range(count)]


def test_a_pair_dropped_by_a_plain_client_reaches_prefect_once(local: Local, plain: Minio) -> None:
    """One event for pairs dropped together, none for half a pair, none for files a second event would repeat."""
    one, other, half, last = names(4)
    with bridge(local, local.running.api_url):
        drop(plain, half, "portrait.png")
        drop(plain, one, *PAIR)
        drop(plain, other, *PAIR)
        (event,) = wait_for(lambda: told(local, one))
        assert event["payload"]["uploads"] == [one, other]
        drop(plain, last, *PAIR)
        (later,) = wait_for(lambda: told(local, last))
    assert later["payload"]["uploads"] == [last]
    assert (told(local, one), told(local, half)) == ([event], [])


def test_nothing_is_lost_while_prefect_and_bridge_are_away(local: Local, plain: Minio) -> None:
    """Dropped while Prefect is down, and while the bridge is too, which was killed: both are told of."""
    noted, unnoted = names(2)
    with bridge(local, AWAY):
        drop(plain, noted, *PAIR)
    drop(plain, unnoted, *PAIR)
    with bridge(local, local.running.api_url):
        wait_for(lambda: told(local, noted) and told(local, unnoted))


def test_notifications_of_minio_reach_prefect(local: Local, plain: Minio, tmp_path: Path) -> None:
    """As MinIO posts them, with its `auth_token`, twice: for a bucket that the embedded store does not tell of."""
    bucket = f"minio-{secrets.token_hex(4)}"
    plain.make_bucket(bucket)
    own = {"AVATAR_STATE_DIR": str(tmp_path), "AVATAR_STORE__BUCKET": bucket, "AVATAR_BRIDGE__TOKEN": TOKEN}
    with bridge(local, local.running.api_url, **own) as url:
        for upload in names(2):  # the first may have been found by the look around at the start
            drop(plain, upload, *PAIR, bucket=bucket)
            notification = minio_notification(bucket, upload)
            for _ in range(2):
                httpx.post(f"{url}events/s3", json=notification, headers=BEARER).raise_for_status()
            (event,) = wait_for(lambda upload=upload: told(local, upload))
            assert event["payload"]["uploads"] == [upload]


def minio_notification(bucket: str, upload: str) -> dict[str, Any]:
    key = f"inbox/{upload}/voice.mp3"
    thing = {
        "key": key.replace("/", "%2F"),
        "size": 2,
        "eTag": "99914b932bd37a50b983c5e7c90ae93b",
        "sequencer": "17",
    }
    record = {
        "eventVersion": "2.0",
        "eventSource": "minio:s3",
        "eventTime": "2026-11-22T04:18:30.070Z",
        "eventName": "s3:ObjectCreated:Put",
        "userIdentity": {"principalId": "minioadmin"},
        "s3": {
            "s3SchemaVersion": "1.0",
            "configurationId": "Config",
            "bucket": {
                "name": bucket,
                "ownerIdentity": {"principalId": "minioadmin"},
                "arn": f"arn:aws:s3:::{bucket}",
            },
            "object": thing,
        },
        "source": {"host": "127.0.0.1", "port": "", "userAgent": "MinIO"},
    }
    return {"EventName": "s3:ObjectCreated:Put", "Key": f"{bucket}/{key}", "Records": [record]}

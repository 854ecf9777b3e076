"""docs/least-power.md, tried: its policies are read from the page and enforced by the embedded store's server."""

import io
import json
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from minio import Minio
from minio.error import S3Error
from pydantic import SecretStr

from avatar.commands import network_exposure as exposure
from avatar.errors import StoreUnavailable
from avatar.job.retention import expire
from avatar.local import embedded_store
from avatar.settings import AvatarSettings
from avatar.settings_sections import StoreSettings
from avatar.store import store_id as store_identity
from avatar.store.objects import hash_file
from avatar.store.store import Store
from avatar.workspace import Workspace
from tests.security.conftest import PORTRAIT, ROOT, House
from tests.security.searching import open_client

pytestmark = pytest.mark.server

PAGE = (ROOT / "docs" / "least-power.md").read_text()
POLICY, EXPIRE, MAKE, LOOK = (
    json.loads(block) for block in re.findall(r"^```json\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
)
#: Under each prefix of the policy: whether objects may be removed, with the policy alone and with the statement for old ones.
PREFIXES = {
    "assets": (False, False), "batches": (False, True), "bridge": (False, False), "budget": (True, True),
    "desk": (False, False), "desk/files": (False, True), "desk/orders": (False, True), "desk/uploads": (True, True),
    "expired": (False, False), "hints": (True, True), "inbox": (True, True), "jobs": (False, False),
    "index": (False, False), "index/bundles": (True, True), "index/changes": (True, True), "index/videos": (True, True), "journal": (False, False), "open": (True, True),
    "plans": (False, False), "probe": (True, True),
    "renders": (False, True), "results": (False, True), "videos": (False, True),
}  # fmt: skip
#: Written anew whenever the store is asked for the time.
CLOCK = "probe/clock"
#: When the provider was last asked for its bills.
ASKED = "open/bills/asked.json"
Users = Callable[..., StoreSettings]
OWNER = embedded_store.StoreState(access_key="owner-key", secret_key="owner-secret")


def identity(name: str, **more: Any) -> dict[str, Any]:
    credentials = [{"accessKey": f"{name}-key", "secretKey": f"{name}-secret"}]
    return {"name": name, "credentials": credentials, "actions": []} | more


def identities() -> dict[str, Any]:
    """An owner, users with the page's policies, one with SeaweedFS's coarse rights, and everybody in a bucket of theirs."""
    statements = POLICY["Statement"]
    policies = {
        "worker": POLICY,
        "tidy": POLICY | {"Statement": [*statements, EXPIRE]},
        "maker": POLICY | {"Statement": [*statements, MAKE]},
        "looker": LOOK,
    }
    return {
        "identities": [
            identity("owner", actions=["Admin", "Read", "Write", "List", "Tagging"]),
            *(identity(name, policyNames=[name]) for name in policies),
            identity("coarse", actions=["Read:avatar", "Write:avatar", "List:avatar"]),
            {
                "name": "anonymous",
                "actions": ["Read:shown", "List:shown", "Read:open", "List:open", "Write:open"],
            },
        ],
        "policies": [{"name": name, "content": json.dumps(policy)} for name, policy in policies.items()],
    }


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Users]:
    """Settings by which a user of that name reaches a store that keeps to the policies."""
    directory = tmp_path_factory.mktemp("guarded")
    embedded_store.write_private(directory / "s3.json", json.dumps(identities()))
    embedded_store.write_state(directory, OWNER)
    store = embedded_store.start(directory)

    def settings(name: str, bucket: str = "avatar") -> StoreSettings:
        keys = {"access_key": SecretStr(f"{name}-key"), "secret_key": SecretStr(f"{name}-secret")}
        return StoreSettings(endpoint=store.endpoint, bucket=bucket, secure=False, **keys)

    for bucket in ("other", "shown", "open"):
        open_client(settings("owner")).make_bucket(bucket)
    yield settings
    embedded_store.stop(store, wait_seconds=0)


@asynccontextmanager
async def opened(settings: StoreSettings) -> AsyncIterator[Store]:
    store = Store(settings)
    try:
        yield store
    finally:
        await store.aclose()


def test_the_policy_names_what_is_tried() -> None:
    """Every prefix of the page is in the table of this test, and the other way round."""
    named = {resource.split("/")[1] for resource in POLICY["Statement"][1]["Resource"]}
    assert named == {prefix.split("/")[0] for prefix in PREFIXES}


@pytest.mark.parametrize(("name", "which"), [("worker", 0), ("tidy", 1), ("coarse", None)])
async def test_each_prefix_allows_what_the_page_says(guarded: Users, name: str, which: int | None) -> None:
    """Written, created, read, copied and listed under each; removed only where things are tidied up, if rights are fine."""
    async with opened(guarded(name)) as store:
        for prefix, removable in PREFIXES.items():
            key = f"{prefix}/{name}/thing"
            await store.put(key, b"1", content_type="text/plain")
            assert await store.create(f"{key}-new", b"1")
            assert (await store.get(key)).data == b"1"
            await store.copy(key, f"{key}-copy")
            assert len(await store.list(f"{prefix}/{name}/")) == 3
            assert await store.exists(f"{prefix}/{name}/nothing") is None
            if which is None or removable[which]:
                await store.remove(key)
            else:
                with pytest.raises(StoreUnavailable, match="denied"):
                    await store.remove(key)


async def test_the_rest_is_refused(guarded: Users) -> None:
    """Other prefixes, other buckets, a new bucket, the list of buckets' contents: none of it."""
    async with opened(guarded("worker")) as store:
        with pytest.raises(StoreUnavailable, match="denied"):
            await store.put("elsewhere/x", b"1", content_type="text/plain")
    client = open_client(guarded("worker"))
    for call in (
        lambda: client.put_object("other", "x", io.BytesIO(b"1"), 1),
        lambda: [*client.list_objects("other")],
        lambda: client.make_bucket("another"),
        lambda: client.remove_bucket("other"),
        lambda: client.set_bucket_policy("avatar", json.dumps(LOOK)),
    ):
        with pytest.raises(S3Error, match="AccessDenied"):
            call()


async def test_large_files_go_in_parts(guarded: Users, tmp_path: Path) -> None:
    """Multipart uploads need nothing more; a presigned link of this user works for who has it."""
    (tmp_path / "video.mp4").write_bytes(bytes(9 * 1024**2))
    async with opened(guarded("worker")) as store:
        digest = hash_file(tmp_path / "video.mp4")
        await store.put_file(
            "videos/large/v.mp4", tmp_path / "video.mp4", content_type="video/mp4", sha256=digest
        )
        link = await store.presign("videos/large/v.mp4", expires=timedelta(minutes=1))
    async with httpx.AsyncClient() as stranger:
        assert len((await stranger.get(link)).content) == 9 * 1024**2


async def test_a_missing_bucket_takes_the_statement_for_it(guarded: Users) -> None:
    """Without it, nothing is made; where it is allowed, for this name only, the bucket is."""
    async with opened(guarded("worker", "avatar-not")) as store:
        with pytest.raises(StoreUnavailable, match="denied"):
            await store.ensure_bucket()
    async with opened(guarded("maker")) as store:
        await store.ensure_bucket()


#: The flows that no command starts, each as its deployment runs it.
FLOWS = """
import asyncio
from flows.inbox import InboxOptions, take_uploads
from flows.upkeep import expire, reconcile
async def main():
    await take_uploads(InboxOptions())
    await reconcile()
    await expire()
asyncio.run(main())
"""


def at_store(house: House, settings: StoreSettings, **more: str) -> House:
    """The house with another store, as that user."""
    assert settings.access_key
    assert settings.secret_key
    store = {
        "AVATAR_STORE__ENDPOINT": settings.endpoint or "",
        "AVATAR_STORE__SECURE": "false",
        "AVATAR_STORE__ACCESS_KEY": settings.access_key.get_secret_value(),
        "AVATAR_STORE__SECRET_KEY": settings.secret_key.get_secret_value(),
    }
    return replace(house, variables=house.variables | store | more, said=[])


def clear(client: Minio) -> None:
    for item in client.list_objects("avatar", recursive=True):
        client.remove_object("avatar", item.object_name)


def test_everything_works_with_it(house: House, guarded: Users) -> None:
    """Doctor, a paid job, a long voice, a batch, an upload, reconcile, expire and status, and nothing is left lying."""
    own = {"AVATAR_INBOX__SETTLE_SECONDS": "0", "AVATAR_LIMITS__MAX_SECONDS": "5"}
    limited, client = at_store(house, guarded("worker"), **own), open_client(guarded("owner"))
    clear(client)
    # As a bucket that was moved here with its journal: else the Prefect server's runs are kept in another.
    kept = open_client(house.store).get_object(house.store.bucket, store_identity.KEY).data
    client.put_object("avatar", store_identity.KEY, io.BytesIO(kept), len(kept))
    voice, long_voice = house.voice(3.1), house.voice(8.0)
    found = json.loads(limited.avatar("doctor", "--json").stdout)["findings"]
    assert {"store", "conditional create", "bucket access"} <= {each["name"] for each in found if each["status"] == "ok"}  # fmt: skip
    for source, provider in ((voice, "fal"), (long_voice, "pixazo")):
        job = ("generate", str(PORTRAIT), str(source), "--provider", provider, "--prompt", "limited")
        ended = limited.avatar(*job)
        assert ended.returncode == 0, ended.stderr
    (house.folder / "jobs.csv").write_text(f"portrait,voice,prompt\n{PORTRAIT},{voice},two\n")
    assert "1 of 1 rows have a video" in limited.avatar("batch", str(house.folder / "jobs.csv")).stdout
    client.fput_object("avatar", "inbox/anna/portrait.png", str(PORTRAIT))
    client.fput_object("avatar", "inbox/anna/voice.wav", str(voice))
    command = [sys.executable, "-c", FLOWS]
    ended = subprocess.run(command, cwd=house.folder, env=limited.environment, capture_output=True, text=True, check=False, timeout=120)  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert json.loads(limited.avatar("status", "--json").stdout)["open"] == []
    left = [item.object_name for item in client.list_objects("avatar", recursive=True)]
    assert not [
        key
        for key in left
        if key.startswith(("open/", "probe/", "inbox/anna/")) and key not in {CLOCK, ASKED}
    ]
    assert [key for key in left if key.startswith("inbox/.done/")]
    assert not [said for said in (*limited.said, ended.stdout + ended.stderr) if "denied" in said]


def test_doctor_is_content_with_coarse_rights(house: House, guarded: Users) -> None:
    """Read, Write and List on one bucket, as SeaweedFS grants them, are enough."""
    found = json.loads(at_store(house, guarded("coarse")).avatar("doctor", "--json").stdout)["findings"]
    assert {"store", "conditional create", "bucket access"} <= {each["name"] for each in found if each["status"] == "ok"}  # fmt: skip


def test_who_only_looks_sees_all_videos(house: House, guarded: Users) -> None:
    """The gallery's own user can export every video with its page, once all are indexed, and can take nothing away."""
    assert at_store(house, guarded("owner")).avatar("repair").returncode == 0
    looker = at_store(house, guarded("looker"))
    listed = json.loads(at_store(house, guarded("owner")).avatar("status", "--json").stdout)
    ended = looker.avatar("export", str(house.folder / "exported"))
    assert ended.returncode == 0, ended.stderr
    assert len(list((house.folder / "exported").rglob("*.mp4"))) == listed["published"] >= 3
    assert "denied" not in "".join(page.read_text() for page in (house.folder / "exported").rglob("*.html"))
    client = open_client(guarded("looker"))
    with pytest.raises(S3Error, match="AccessDenied"):
        client.put_object("avatar", "videos/x", io.BytesIO(b"1"), 1)


OLD = ("results/old", "desk/files/0/old.png", "desk/orders/old.json")


async def test_old_things_go_with_the_statement_for_them(
    guarded: Users, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`expire` is told of what it may not delete, and deletes it once it may."""
    later = datetime.now(UTC) + timedelta(days=2)

    async def in_two_days(_: Store) -> datetime:
        return later

    monkeypatch.setattr("avatar.job.retention.store_clock", in_two_days)
    for name, kept in (("worker", 1), ("tidy", 0)):
        async with opened(guarded(name)) as store:
            for key in OLD:
                await store.put(key, b"{}", content_type="application/json")
        given = AvatarSettings(_env_file=None, state_dir=tmp_path, store=guarded(name), retention={"results_days": 1, "uploads_days": 1}, budget={"approval_seconds": 60})  # fmt: skip
        workspace = Workspace(given)
        done = await expire(workspace)
        await workspace.aclose()
        assert len([text for text in done.kept.values() if "denied" in text]) >= kept
        assert {key for thing in done.deleted for key in thing.keys} >= set(() if kept else OLD)
        assert bool(done.deleted) is not bool(kept)


async def test_what_is_open_to_everybody_is_told(guarded: Users) -> None:
    """`avatar doctor` tries without keys: readable is a warning, writable a failure, closed is well."""
    found = {}
    for bucket in ("avatar", "shown", "open"):
        settings = guarded("owner", bucket)
        async with opened(settings) as store:
            await store.put("probe/doctor", b"doctor", content_type="text/plain")
            (found[bucket],) = [
                finding async for finding in exposure.check_public_bucket(store, settings, "probe/doctor")
            ]
            assert await store.exists(exposure.STRANGER) is None
    assert {bucket: finding.status for bucket, finding in found.items()} == {
        "avatar": "ok",
        "shown": "warn",
        "open": "fail",
    }
    assert "read, list in shown" in found["shown"].detail
    assert "read, list, write in open" in found["open"].detail

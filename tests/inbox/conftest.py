"""An inbox in a real store, filled by a plain S3 client as users fill it."""

import io
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
from minio import Minio

from avatar.inbox.sweep import Sweep, SweepResult
from avatar.inbox.upload_owner import Taken
from avatar.inbox.uploads import Inbox
from avatar.settings_sections import StoreSettings
from avatar.workspace import Workspace

PNG = b"\x89PNG\r\n\x1a\n" + bytes(8)
WAV = b"RIFF\0\0\0\0WAVE" + bytes(8)


class Client:
    """A user with an S3 client."""

    def __init__(self, settings: StoreSettings) -> None:
        assert settings.access_key
        assert settings.secret_key
        keys = settings.access_key.get_secret_value(), settings.secret_key.get_secret_value()
        self.minio = Minio(settings.endpoint, *keys, secure=False, region="us-east-1")
        self.bucket = settings.bucket

    def drop(self, key: str, data: bytes | str = WAV) -> None:
        body = data.encode() if isinstance(data, str) else data
        self.minio.put_object(self.bucket, f"inbox/{key}", io.BytesIO(body), len(body))

    def pair(self, name: str) -> None:
        self.drop(f"{name}/portrait.png", PNG)
        self.drop(f"{name}/voice.mp3", WAV)

    def listing(self, prefix: str = "") -> list[str]:
        """What is there, below inbox/."""
        found = self.minio.list_objects(self.bucket, f"inbox/{prefix}", recursive=True)
        return sorted(each.object_name.removeprefix("inbox/") for each in found if not each.is_dir)

    def read(self, key: str) -> bytes:
        answer = self.minio.get_object(self.bucket, f"inbox/{key}")
        try:
            return answer.read()
        finally:
            answer.close()
            answer.release_conn()

    def remove(self, key: str) -> None:
        self.minio.remove_object(self.bucket, f"inbox/{key}")


@pytest.fixture
def user(store_settings: StoreSettings) -> Iterator[Client]:
    client = Client(store_settings)
    yield client
    client.minio._http.clear()


@pytest.fixture
async def make_inbox(make_settings) -> AsyncIterator[Callable[..., Inbox]]:
    """Inboxes on the test's bucket, where what is dropped counts at once; keywords are settings of the section."""
    opened = []

    def make(**given) -> Inbox:
        sections = {"inbox": {"settle_seconds": 0, "report_after_seconds": 1} | given}
        opened.append(Workspace(make_settings(**sections)))
        return Inbox(opened[-1])

    yield make
    for workspace in opened:
        await workspace.aclose()


@pytest.fixture
def inbox(make_inbox) -> Inbox:
    return make_inbox()


class Runs:
    """Flow runs as the inbox knows them: by name, at work or over."""

    def __init__(self, inbox: Inbox) -> None:
        self.inbox = inbox
        self.over: set[str] = set()

    async def is_alive(self, owner: str) -> bool:
        return owner not in self.over

    async def sweep(self, owner: str, **given) -> SweepResult:
        return await Sweep(self.inbox, owner, self.is_alive).run(**given)

    async def take(self, owner: str = "run-1") -> Taken:
        """The one upload there is."""
        (taken,) = (await self.sweep(owner)).taken
        return taken


@pytest.fixture
def runs(inbox: Inbox) -> Runs:
    return Runs(inbox)

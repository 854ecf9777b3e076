"""`services.json`: what runs on this machine, so that every command finds it and a crash leaves nothing unknown."""

import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from avatar.local.embedded import EmbeddedStore, settings_for
from avatar.local.processes import Process, alive
from avatar.settings import StoreSettings


# File locks. The kernel releases them when their holder dies, however it dies.
@contextmanager
def shared(path: Path) -> Iterator[int]:
    """Hold `path` together with others, waiting for an exclusive holder to let go."""
    with _opened(path) as descriptor:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield descriptor


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold `path` alone, waiting for all others to let go."""
    with _opened(path) as descriptor:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield


@contextmanager
def exclusive_now(path: Path) -> Iterator[bool]:
    """Hold `path` alone if nobody else does; yields whether it is held."""
    with _opened(path) as descriptor:
        yield becomes_exclusive(descriptor)


def becomes_exclusive(descriptor: int) -> bool:
    """Turn a shared lock into an exclusive one, if no other process shares it.

    On failure the shared lock is lost too: of two that leave at once, exactly the later one succeeds.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        return False
    return True


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True)

    process: Process

    @property
    def runs(self) -> bool:
        return alive(self.process)


class StoreEntry(_Entry):
    """The embedded store."""

    endpoint: str
    access_key: str
    secret_key: str
    directory: Path

    @property
    def listener_port(self) -> int:
        """Where the store expects whoever it tells of new objects."""
        return self._store.listener_port

    @property
    def _store(self) -> EmbeddedStore:
        keys = self.access_key, self.secret_key
        return EmbeddedStore(self.endpoint, *keys, self.process.pid, self.directory)

    def settings(self, wanted: StoreSettings) -> StoreSettings:
        """`wanted`, with this store's address and keys; its bucket and public endpoint stay the user's."""
        found = settings_for(self._store, wanted.bucket)
        return wanted.model_copy(update={name: getattr(found, name) for name in found.model_fields_set})


class ApiEntry(_Entry):
    """The local Prefect server."""

    port: int

    @property
    def ui_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def api_url(self) -> str:
        return f"{self.ui_url}/api"


class WorkerEntry(_Entry):
    """A worker, and a fingerprint of the environment its flows get."""

    name: str
    fingerprint: str


class WebEntry(_Entry):
    """The gallery or the bridge, and a fingerprint of the environment it was started with."""

    host: str
    port: int
    fingerprint: str

    @property
    def url(self) -> str:
        """Where it is found on this machine."""
        return local_url(self.host, self.port)


class Record(BaseModel):
    """Everything that was started and not yet stopped."""

    model_config = ConfigDict(frozen=True)

    store: StoreEntry | None = None
    api: ApiEntry | None = None
    worker: WorkerEntry | None = None
    upkeep: WorkerEntry | None = None
    gallery: WebEntry | None = None
    bridge: WebEntry | None = None
    up: Process | None = None

    def dead(self) -> str:
        """Names of the services that were started, not stopped, and do not run; empty if all is well."""
        entries = {
            "The embedded store": self.store,
            "The Prefect server": self.api,
            "The worker": self.worker,
            "The upkeep worker": self.upkeep,
            "The gallery": self.gallery,
            "The bridge": self.bridge,
        }
        return ", ".join(name for name, entry in entries.items() if entry and not entry.runs)


class StateDirectory:
    """The places under `AVATAR_STATE_DIR` that local services use. Only its owner may look inside."""

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser().absolute()
        self.services = self.path / "services.json"
        self.store = self.path / "store"
        self.prefect_home = self.path / "prefect"
        self.token = self.path / "bridge.token"
        self.in_use = self.path / "in-use.lock"
        self.starting = self.path / "start.lock"
        self.up = self.path / "up.lock"
        self._changing = threading.Lock()

    def prepare(self) -> None:
        for directory in (self.path, self.path / "logs", self.prefect_home):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def log(self, name: str) -> Path:
        return self.path / "logs" / f"{name}.log"

    def read(self) -> Record:
        """What is recorded; nothing if the file is missing or was written by another version."""
        try:
            return Record.model_validate_json(self.services.read_bytes())
        except (FileNotFoundError, ValidationError):
            return Record()

    def change(self, **entries: _Entry | Process | None) -> Record:
        """Replace entries of the record in one atomic step. The calling process holds the start lock."""
        with self._changing:
            record = self.read().model_copy(update=entries)
            self._write(record)
        return record

    def _write(self, record: Record) -> None:
        draft = self.services.with_suffix(".draft")
        draft.unlink(missing_ok=True)
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(record.model_dump_json(indent=2))
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self.services)


def local_url(host: str, port: int) -> str:
    """Where a program on this machine finds what listens on `host`."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"

"""The state directory: what runs on this machine and on which ports, who uses it, and the bridge's token.

`services.json` lets every command find what another one started, and a crash leaves nothing unknown.
"""

import fcntl
import os
import secrets
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from avatar.local.embedded_store import EmbeddedStore, write_private
from avatar.local.processes import Process, alive


# File locks. The kernel releases them when their holder dies, however it dies.
@contextmanager
def shared_lock(path: Path) -> Iterator[int]:
    """Hold `path` together with others, waiting for an exclusive holder to let go."""
    with _opened(path) as descriptor:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield descriptor


@contextmanager
def exclusive_lock(path: Path) -> Iterator[None]:
    """Hold `path` alone, waiting for all others to let go."""
    with _opened(path) as descriptor:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield


@contextmanager
def try_exclusive_lock(path: Path) -> Iterator[bool]:
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


class StartedProgram(BaseModel):
    """A program that was started here.

    Attributes:
        fingerprint: of the environment it was started with.
        name: a worker's, as the Prefect API lists it.
        host: the address it listens on.
        port: 0 if it listens on none.
    """

    model_config = ConfigDict(frozen=True)

    process: Process
    fingerprint: str = ""
    name: str = ""
    host: str = "127.0.0.1"
    port: int = 0

    @property
    def runs(self) -> bool:
        return alive(self.process)

    @property
    def url(self) -> str:
        """Where it is found on this machine."""
        return local_url(self.host, self.port)

    @property
    def api_url(self) -> str:
        """The Prefect server's API."""
        return f"{self.url}api"


#: The field of the record to what a person calls it.
TITLES = {
    "store": "The embedded store",
    "api": "The Prefect server",
    "worker": "The worker",
    "upkeep": "The upkeep worker",
    "gallery": "The gallery",
    "bridge": "The bridge",
}


class StartedPrograms(BaseModel):
    """Everything that was started and not yet stopped; and the ports of all that ever was, by field."""

    model_config = ConfigDict(frozen=True)

    store: EmbeddedStore | None = None
    api: StartedProgram | None = None
    worker: StartedProgram | None = None
    upkeep: StartedProgram | None = None
    gallery: StartedProgram | None = None
    bridge: StartedProgram | None = None
    ports: Mapping[str, int] = {}

    def dead(self) -> str:
        """Names of the services that were started, not stopped, and do not run; empty if all is well."""
        entries = {title: getattr(self, name) for name, title in TITLES.items()}
        return ", ".join(title for title, entry in entries.items() if entry and not entry.runs)


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

    def read(self) -> StartedPrograms:
        """What is recorded; nothing if the file is missing or damaged."""
        try:
            return StartedPrograms.model_validate_json(self.services.read_bytes())
        except (FileNotFoundError, ValidationError):
            return StartedPrograms()

    def change(self, **entries: Any) -> None:
        """Replace entries of the record in one atomic step. The calling process holds the start lock."""
        with self._changing:
            record = self.read()
            ports = {
                name: entry.port
                for name, entry in entries.items()
                if isinstance(entry, StartedProgram) and entry.port
            }
            record = record.model_copy(update={**entries, "ports": {**record.ports, **ports}})
            write_private(self.services, record.model_dump_json(indent=2))

    def bridge_token(self) -> str:
        """The bridge's token of this state directory, made once."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not self._kept_token():
            draft = self.token.with_name(f"bridge.{secrets.token_hex(4)}.token")
            write_private(draft, secrets.token_urlsafe(32))
            with suppress(FileExistsError):  # somebody was faster, and theirs holds
                os.link(draft, self.token)
            draft.unlink()
        return self._kept_token()

    def _kept_token(self) -> str:
        with suppress(FileNotFoundError):
            if token := self.token.read_text().strip():
                return token
            self.token.unlink()  # a full disk leaves an empty file, and an empty token would let everybody in
        return ""

    def bridge_port(self, endpoint: str | None) -> int | None:
        """Where the embedded store expects the bridge; None if `endpoint` names another store, or it does not run."""
        store = self.read().store
        ours = store is not None and store.runs and endpoint in {None, store.endpoint}
        return store.listener_port if store and ours else None


def local_url(host: str, port: int) -> str:
    """Where a program on this machine finds what listens on `host`."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"

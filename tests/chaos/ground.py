"""What the suite stands on: a store, a Prefect server, sandboxes and a zygote of its own."""

import os
import queue
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
from minio import Minio

from avatar.local import Services, embedded_store, environment, services
from avatar.local.processes import kill
from avatar.local.start_programs import ensure_program, server_program
from avatar.local.state_directory import StateDirectory
from avatar.settings import AvatarSettings
from avatar.settings_sections import StoreSettings
from tests.chaos.gate import Gatehouse
from tests.chaos.victims import Zygote
from tests.sandbox.running import Sandbox
from tests.sandbox.samples import make_inputs, write_voice

OURSELVES = ("AVATAR_", "PREFECT_", "FAL_")
RENDER_SECONDS = 0.3
#: Seconds; the shortest that the settings allow, so that a dead holder is found out soon.
LEASE = 2


#: Below the ports that the kernel gives to connections, above Prefect's usual one.
OUT_OF_THE_WAY = 14_200


class Ground:
    """Everything is started when it is made, by `staged`, and ended with its block.

    Attributes:
        seed: of all that is random.
        mutate: the defect that victims carry, or nothing.
        abreast: how many trials run at a time; each has a sandbox to itself.
    """

    def __init__(self, folder: Path, stack: ExitStack, *, seed: int, mutate: str, abreast: int) -> None:
        self.folder, self.seed, self.mutate, self.abreast = folder, seed, mutate, abreast
        settings = AvatarSettings(_env_file=None, state_dir=folder / "services")
        self.state = StateDirectory(settings.state_dir)
        stack.callback(self.stop_store)
        running = stack.enter_context(started(settings))
        self.store: StoreSettings = running.applied_to(settings).store
        self.api_url = running.api_url
        stack.callback(self.kill_prefect)  # nobody needs what it would take a quarter of a minute to put away
        told = environment(settings, running)
        self.environment = clean_environment() | told | {"PREFECT_LOGGING_LEVEL": "WARNING"}
        self.sandboxes: queue.Queue[Sandbox] = queue.Queue()
        for _ in range(abreast):
            self.sandboxes.put(stack.enter_context(Sandbox.start(render_seconds=RENDER_SECONDS)))
        self.gates = Gatehouse(str(self.store.endpoint))
        stack.callback(self.gates.close)
        self.zygote = Zygote(self.environment, folder)
        stack.callback(self.zygote.stop)
        make_inputs(folder)
        self.portrait, self.voice = folder / "portrait.png", folder / "voice.wav"
        self.long_voice = folder / "long.wav"
        write_voice(self.long_voice, 7.0)
        self.client = open_client(self.store)

    def bucket(self, name: str) -> StoreSettings:
        """Settings of another bucket of the same store, made here."""
        if not self.client.bucket_exists(name):
            self.client.make_bucket(name)
        return self.store.model_copy(update={"bucket": name})

    @contextmanager
    def knows_its_store(self) -> Iterator[None]:
        """The Prefect server has the identity of another store than that of any trial's bucket, for the block."""
        self._ask_prefect("POST", "variables/", json={"name": "avatar_store", "value": "another"})
        try:
            yield
        finally:
            self._ask_prefect("DELETE", "variables/name/avatar_store")

    def _ask_prefect(self, method: str, path: str, **given: Any) -> None:
        """A request, made again while the server's database is locked."""
        for _ in range(50):
            with httpx.Client(trust_env=False) as client:
                answer = client.request(method, f"{self.api_url}/{path}", **given)
            if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                break
            time.sleep(0.2)
        answer.raise_for_status()

    def kill_prefect(self) -> None:
        """SIGKILL to the Prefect server, as the out-of-memory killer does it."""
        if entry := self.state.read().api:
            kill(entry.process)

    def stop_store(self) -> None:
        """End the one that was started in place of a killed one: nobody else knows of it."""
        if running := embedded_store.find_running(self.state.store):
            embedded_store.stop(running)

    def restart_prefect(self) -> None:
        """Start it again, on its old port and data."""
        port = int(httpx.URL(self.api_url).port or 0)
        entry = ensure_program(self.state, server_program(self.state, port), lambda: True)
        if entry.api_url != self.api_url:
            raise RuntimeError(f"the Prefect server came back at {entry.api_url}, not at {self.api_url}")


@contextmanager
def started(settings: AvatarSettings) -> Iterator[Services]:
    """Store and Prefect server, on a port that no other server of this machine falls back to while ours is down."""
    state = StateDirectory(settings.state_dir)
    state.prepare()
    ensure_program(state, server_program(state, OUT_OF_THE_WAY + os.getpid() % 1000), lambda: True)
    with services(settings) as running:
        yield running


def open_client(settings: StoreSettings) -> Minio:
    """The SDK itself: what judges the product does not use the product."""
    assert settings.endpoint
    assert settings.access_key
    assert settings.secret_key
    keys = settings.access_key.get_secret_value(), settings.secret_key.get_secret_value()
    return Minio(settings.endpoint, *keys, secure=False, region="us-east-1")


def clean_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(OURSELVES)}


@contextmanager
def staged(*, seed: int, mutate: str = "", abreast: int = 3) -> Iterator[Ground]:
    """A ground, and a calm run on it, so that nothing is done for the first time in a trial."""
    folder = Path(tempfile.mkdtemp(prefix="avatar-chaos-"))
    try:
        with ExitStack() as stack:
            yield Ground(folder, stack, seed=seed, mutate=mutate, abreast=abreast)
    finally:
        shutil.rmtree(folder, ignore_errors=True)

"""A whole installation with marked secrets, on a Prefect server that asks for a password and has CSRF protection."""

import base64
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from avatar.local.processes import free_port
from avatar.local.start_programs import server_environment
from avatar.local.state_directory import StartedPrograms, StateDirectory
from avatar.settings_sections import StoreSettings
from tests.providers.conftest import inputs, open_sandboxed  # noqa: F401 - fixtures
from tests.sandbox import samples
from tests.sandbox.running import Sandbox
from tests.up import until_ready, with_database

ROOT = Path(__file__).parents[2]
PORTRAIT = ROOT / "examples" / "portrait.png"
#: What every secret that the test chooses begins with; the store's are chosen by the embedded store.
MARK = "M4RKED"


def marked(name: str) -> str:
    return f"{MARK}-{name}-{secrets.token_hex(8)}"


@dataclass(frozen=True)
class House:
    """Store, server, worker, gallery and bridge, as `avatar up` runs them, with a provider outside."""

    folder: Path
    api_url: str
    server: int  #: pid of the Prefect server, which `avatar up` did not start
    secrets: dict[str, str]
    variables: dict[str, str]
    sandbox: Sandbox
    said: list[str] = field(default_factory=list)  #: what every command printed

    @property
    def state(self) -> StateDirectory:
        return StateDirectory(self.folder / "state")

    @property
    def record(self) -> StartedPrograms:
        return self.state.read()

    @property
    def store(self) -> StoreSettings:
        assert self.record.store
        return self.record.store.settings(StoreSettings())

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | self.variables

    def avatar(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """The command, as a person on this machine gives it."""
        ended = subprocess.run(
            [sys.executable, "-m", "avatar", *arguments], cwd=self.folder, env=self.environment,
            capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        self.said.append(ended.stdout + ended.stderr)
        return ended

    def voice(self, seconds: float) -> Path:
        path = self.folder / f"voice-{seconds}.wav"
        samples.write_voice(path, seconds)
        return path

    def ask(self, method: str, path: str, **given: Any) -> Any:
        """What a person with the password asks the API; asked again while SQLite is locked, as Prefect's client does."""
        deadline = time.monotonic() + 30
        while True:
            with suppress(httpx.TransportError):
                answer = self._ask(method, path, **given)
                if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                    return answer.raise_for_status().json()
            assert time.monotonic() < deadline, f"{method} {path} got no answer"
            time.sleep(0.2)

    def _ask(self, method: str, path: str, **given: Any) -> httpx.Response:
        """Refused without the password, and to change something without a CSRF token, which is fetched first."""
        name = str(uuid4())
        user, _, password = self.secrets["Prefect's auth string"].partition(":")
        with httpx.Client(base_url=self.api_url, auth=(user, password), timeout=30) as client:
            token = client.get("/csrf-token", params={"client": name}).json()["token"]
            headers = {"Prefect-Csrf-Token": token, "Prefect-Csrf-Client": name}
            return client.request(method, path, headers=headers, **given)

    def start(self, **job: Any) -> str:
        """A run of generate-avatar on the worker; its id."""
        found = self.ask("GET", "/deployments/name/generate-avatar/generate-avatar")
        body = {
            "parameters": {"job": {"portrait": str(PORTRAIT)} | job},
            "idempotency_key": secrets.token_hex(8),
        }
        run: dict[str, str] = self.ask("POST", f"/deployments/{found['id']}/create_flow_run", json=body)
        return run["id"]

    def state_of(self, run_id: str) -> str:
        return str(self.ask("GET", f"/flow_runs/{run_id}")["state_type"])


def until(done: Callable[[], object], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.2)


def choose_secrets() -> dict[str, str]:
    """One of each that a user can set, each recognisable."""
    names = (
        "fal's key",
        "Pixazo's key",
        "the gallery's password",
        "the bridge's token",
        "the bridge's secret",
    )
    chosen = {name: marked(name.replace(" ", "-").replace("'", "")) for name in names}
    password, address = marked("prefect"), marked("apprise")
    return chosen | {
        "Prefect's auth string": f"admin:{password}",
        "Prefect's password": password,
        "the address of messages": f"json://anna:{address}@127.0.0.1:9/",
        "the password of messages": address,
    }


def variables_for(chosen: dict[str, str], sandbox: Sandbox, state: Path, api_url: str) -> dict[str, str]:
    port = free_port(0)
    return (
        sandbox.pixazo_env()
        | sandbox.fal_env()
        | {
            "AVATAR_STATE_DIR": str(state),
            "AVATAR_FAL__KEY": chosen["fal's key"],
            "AVATAR_PIXAZO__KEY": chosen["Pixazo's key"],
            "AVATAR_GALLERY__PASSWORD": chosen["the gallery's password"],
            "AVATAR_GALLERY__PORT": "0",
            "AVATAR_BRIDGE__TOKEN": chosen["the bridge's token"],
            "AVATAR_BRIDGE__SECRET": chosen["the bridge's secret"],
            "AVATAR_BRIDGE__PORT": str(port),
            "AVATAR_BRIDGE__PUBLIC_URL": f"http://127.0.0.1:{port}",
            "AVATAR_NOTIFY__APPRISE_URL": chosen["the address of messages"],
            "AVATAR_POLLING__WINDOW_SECONDS": "2",
            "PREFECT_API_URL": api_url,
            "PREFECT_API_AUTH_STRING": chosen["Prefect's auth string"],
            "PREFECT_HOME": str(state.parent / "prefect"),
            "PYTHONPATH": str(ROOT),
        }
    )


@contextmanager
def running(command: list[str], **options: Any) -> Iterator["subprocess.Popen[str]"]:
    """A process, asked to end after the block."""
    process = subprocess.Popen(command, text=True, **options)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


@contextmanager
def guarded_server(folder: Path, auth: str) -> Iterator[tuple[str, int]]:
    """A Prefect server with a password and CSRF protection: its API's URL, and its pid."""
    with_database(folder / "prefect")
    port = free_port(0)
    variables = server_environment(folder / "prefect", port, os.environ) | {
        "PREFECT_SERVER_API_AUTH_STRING": auth,
        "PREFECT_SERVER_API_CSRF_PROTECTION_ENABLED": "true",
    }
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    url = f"http://127.0.0.1:{port}/api"
    with (
        (folder / "server.log").open("w") as log,
        running(command, env=variables, stdout=log, stderr=log) as server,
    ):
        until(lambda: answers(url), 120)
        yield url, server.pid


def answers(api_url: str) -> bool:
    try:
        return httpx.get(f"{api_url}/health", timeout=3).is_success
    except httpx.HTTPError:
        return False


@pytest.fixture(scope="session")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """Started once, with a umask that forbids nobody anything."""
    folder, chosen = tmp_path_factory.mktemp("house"), choose_secrets()
    before = os.umask(0)
    with ExitStack() as stack:
        stack.callback(os.umask, before)
        keys = [chosen["fal's key"], chosen["Pixazo's key"]]
        sandbox = stack.enter_context(Sandbox.start(key=keys, render_seconds=0.2))
        api_url, server = stack.enter_context(guarded_server(folder, chosen["Prefect's auth string"]))
        variables = variables_for(chosen, sandbox, folder / "state", api_url)
        made = House(folder, api_url, server, chosen, variables, sandbox)
        command = [sys.executable, "-m", "avatar", "up"]
        up = stack.enter_context(
            running(
                command, cwd=folder, env=made.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            )
        )
        made.said.append(until_ready(up))
        os.umask(before)
        entry = made.record.store
        assert entry
        chosen |= {
            "the store's secret key": entry.secret_key,
            "this machine's token": made.state.token.read_text(),
        }
        yield made


def encodings(secret: str) -> set[bytes]:
    """How a secret may stand somewhere: as it is, in a URL, in JSON, in hex, in base64 at any offset."""
    from urllib.parse import quote, quote_plus

    raw = secret.encode()
    found = {raw, quote(secret, safe="").encode(), quote_plus(secret).encode(), raw.hex().encode()}
    for before in range(3):
        # The first and last characters depend on what stands beside it.
        core = base64.b64encode(bytes(before) + raw)[4 if before else 0 : -4]
        found |= {core, core.replace(b"+", b"-").replace(b"/", b"_")}
    return found

"""The programs of the installation: started in folders of their own, killed, started again, and ended."""

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from avatar.local.processes import free_port

BIN = Path(sys.executable).parent
#: Seconds a program has until it answers.
START_SECONDS = 90.0


@dataclass
class Program:
    """One program that can be killed and started again. `group` is what its processor time is booked under."""

    name: str
    group: str
    command: Sequence[str]
    folder: Path
    environment: Mapping[str, str]
    answers: Callable[[], bool] = lambda: True
    user: str | None = None
    process: "subprocess.Popen[bytes] | None" = field(default=None, repr=False)
    #: Processor seconds of all that ended, and of what they had waited for.
    used: float = 0.0

    def start(self) -> None:
        """Start it, and wait until it answers."""
        log = (self.folder / f"{self.name}.log").open("ab")
        self.process = subprocess.Popen(
            self.command, cwd=self.folder, env=dict(self.environment), stdout=log, stderr=log,
            start_new_session=True, user=self.user, restore_signals=True,
        )  # fmt: skip
        until(self.answers, f"{self.name} does not answer; see {self.folder}", START_SECONDS)

    def kill(self) -> None:
        """SIGKILL to it and all it started, as a power cut does it."""
        self.end(signal.SIGKILL)

    def end(self, by: int = signal.SIGTERM) -> None:
        if self.process is None:
            return
        process, self.process = self.process, None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, by)
        deadline = time.monotonic() + 20
        while not (ended := os.wait4(process.pid, os.WNOHANG))[0]:
            if time.monotonic() > deadline:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
            time.sleep(0.05)
        process.returncode = ended[1]
        self.used += ended[2].ru_utime + ended[2].ru_stime


def until(done: Callable[[], bool], failure: str, seconds: float) -> None:
    """Wait for `done`; `TimeoutError` with `failure` after `seconds`."""
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            raise TimeoutError(failure)
        time.sleep(0.2)


def answering(url: str) -> Callable[[], bool]:
    def ask() -> bool:
        try:
            return httpx.get(url, timeout=5, trust_env=False).is_success
        except httpx.HTTPError:
            return False

    return ask


def postgres(folder: Path) -> tuple[Program, str]:
    """A database server on a free port of loopback, and its address for Prefect."""
    tools = max(Path("/usr/lib/postgresql").glob("*/bin"))
    user = "postgres" if os.geteuid() == 0 else None
    data, port = folder / "postgres", free_port(0)
    folder.chmod(0o755)
    data.mkdir()
    if user:
        shutil.chown(data, user)
    subprocess.run(
        [tools / "initdb", "-D", data, "-U", "prefect", "-A", "trust", "--no-sync"],
        check=True, capture_output=True, user=user, cwd=data,
    )  # fmt: skip
    options = f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories={data} -c max_connections=200"
    ready = [str(tools / "pg_isready"), "-h", "127.0.0.1", "-p", str(port), "-U", "prefect"]
    program = Program(
        "postgres", "database", [str(tools / "postgres"), "-D", str(data), *options.split()], folder,
        {"PATH": os.environ["PATH"], "HOME": pwd.getpwnam(user).pw_dir if user else str(Path.home())},
        lambda: subprocess.run(ready, capture_output=True, check=False).returncode == 0, user,
    )  # fmt: skip
    return program, f"postgresql+asyncpg://prefect@127.0.0.1:{port}/postgres"


def redis(folder: Path) -> tuple[Program, str]:
    port = free_port(0)
    command = [
        "redis-server",
        "--port",
        str(port),
        "--bind",
        "127.0.0.1",
        "--appendonly",
        "yes",
        "--dir",
        str(folder),
    ]
    ask = ["redis-cli", "-p", str(port), "ping"]
    program = Program(
        "redis", "database", command, folder, dict(os.environ),
        lambda: subprocess.run(ask, capture_output=True, check=False).stdout == b"PONG\n",
    )  # fmt: skip
    return program, f"redis://127.0.0.1:{port}"


def proxy(folder: Path, servers: Sequence[int]) -> tuple[Program, str]:
    """One address for several API servers, as deploy/haproxy.cfg has it."""
    port = free_port(0)
    shared = (Path(__file__).parents[2] / "deploy" / "haproxy.cfg").read_text()
    text = (
        shared.split("frontend people")[0]
        + f"frontend workers\n  bind 127.0.0.1:{port}\n  default_backend api\n"
    )
    text += (
        "\nbackend api\n  balance roundrobin\n  option httpchk GET /api/health\n  default-server inter 1s\n"
    )
    text += "".join(f"  server api{number} 127.0.0.1:{each} check\n" for number, each in enumerate(servers))
    (folder / "haproxy.cfg").write_text(text)
    command = ["/usr/sbin/haproxy", "-f", str(folder / "haproxy.cfg"), "-db"]
    url = f"http://127.0.0.1:{port}/api"
    return Program("proxy", "api", command, folder, dict(os.environ), answering(f"{url}/health")), url


def server_environment(database: str, cache: str) -> dict[str, str]:
    """What docs/operations.md tells to set on Prefect's servers."""
    return {
        "PREFECT_API_DATABASE_CONNECTION_URL": database,
        "PREFECT_API_DATABASE_MIGRATE_ON_START": "false",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EVENTS_MESSAGING_BROKER": "prefect_redis.messaging",
        "PREFECT_SERVER_EVENTS_MESSAGING_CACHE": "prefect_redis.messaging",
        "PREFECT_SERVER_EVENTS_CAUSAL_ORDERING": "prefect_redis.ordering",
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect_redis.lease_storage",
        "PREFECT_SERVER_WORKER_CHANNEL_CLEANUP_QUEUE_STORAGE": "prefect_redis.cleanup_queue",
        "PREFECT_REDIS_MESSAGING_URL": f"{cache}/0",
        "PREFECT_REDIS_WORKER_CLEANUP_QUEUE_URL": f"{cache}/0",
        "PREFECT_SERVER_DOCKET_URL": f"{cache}/1",
        "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "100",
        "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": "100",
        "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_BATCH_SIZE": "200",
        "DO_NOT_TRACK": "1",
    }

"""`python -m tests.cluster`: 60 single jobs and a batch of 300 rows on a larger installation, with faults.

Exit 0 if every job was paid for once and published, without a hand; the table says what it took.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx

from avatar.local import embedded_store
from avatar.local.prefect_client import online_workers
from avatar.local.processes import free_port
from tests.chaos.ground import open_client
from tests.cluster.programs import BIN, Program, answering, postgres, proxy, redis, server_environment, until
from tests.sandbox.running import Sandbox
from tests.sandbox.samples import make_inputs, write_voice

#: Seconds a voice and, at the stand-in, a render take.
VOICE_SECONDS, RENDER_SECONDS = 2.2, 2.0
WORKERS = 3
#: What is killed, once such a share of the videos is published: a worker that has a part of the batch is the first.
FAULTS = ((0.05, "worker1"), (0.15, "api0"), (0.25, "redis"), (0.35, "postgres"), (0.5, "worker2"))
#: Seconds that the workers have to be there, and then the parts of a batch to find one each.
ONLINE_SECONDS, SPREAD_SECONDS = 120.0, 180.0


class Installation:
    """All of it, running. Programs by name; `faults` lists what was done to them."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder, self.programs, self.faults = folder, dict[str, Program](), list[str]()
        self.sandbox = stack.enter_context(Sandbox.start(render_seconds=RENDER_SECONDS))
        store = embedded_store.start(folder / "store")
        stack.callback(embedded_store.stop, store, wait_seconds=0)
        self.store = embedded_store.settings_for(store, "avatar")
        stack.callback(self._end_all)
        self._start_prefect()
        self.environment = self._client_environment()
        self._run("avatar", "deploy")
        command = [str(BIN / "avatar"), "bridge", "--host", "127.0.0.1", "--port", "0"]
        variables = self.environment | {"AVATAR_STATE_DIR": str(self._home("bridge") / "state")}
        self._add(Program("bridge", "bridge", command, self._home("bridge"), variables))
        for number in range(WORKERS):
            self._start_worker(number)
        # A part of a batch goes to an idle worker that is there, and on a slow machine one was late.
        until(
            lambda: len(online_workers(self.api_url, "avatar")) == WORKERS,
            "workers are missing",
            ONLINE_SECONDS,
        )

    def _start_prefect(self) -> None:
        database, address = postgres(self.folder)
        cache, cache_address = redis(self.folder)
        self._add(database)
        self._add(cache)
        variables = base_environment() | server_environment(address, cache_address)
        self._run("prefect", "server", "database", "upgrade", "-y", environment=variables)
        ports = [free_port(0), free_port(0)]
        for number, port in enumerate(ports):
            command = [str(BIN / "prefect"), "server", "start", "--no-services", "--port", str(port)]
            ready = answering(f"http://127.0.0.1:{port}/api/health")
            self._add(Program(f"api{number}", "api", command, self._home(f"api{number}"), variables, ready))
        command = [str(BIN / "prefect"), "server", "services", "start"]
        self._add(Program("services", "services", command, self._home("services"), variables))
        front, self.api_url = proxy(self.folder, ports)
        self._add(front)

    def _client_environment(self) -> dict[str, str]:
        store = self.store
        assert store.endpoint
        assert store.access_key
        assert store.secret_key
        return (
            base_environment()
            | self.sandbox.fal_env()
            | {
                "PREFECT_API_URL": self.api_url,
                "AVATAR_FAL__DELIVERY": "upload",
                "AVATAR_STORE__ENDPOINT": store.endpoint,
                "AVATAR_STORE__ACCESS_KEY": store.access_key.get_secret_value(),
                "AVATAR_STORE__SECRET_KEY": store.secret_key.get_secret_value(),
                "AVATAR_STORE__SECURE": "false",
                "AVATAR_BATCH__SHARD_ROWS": "100",
                # The least: what a killed worker had taken, and not begun, waits so long.
                "AVATAR_RECOVERY__STALE_SECONDS": "60",
            }
        )

    def _start_worker(self, number: int) -> None:
        """Each in a folder and with a home of its own, as on a machine of its own."""
        home = self._home(f"worker{number}")
        command = [
            str(BIN / "prefect"),
            "worker",
            "start",
            "--pool",
            "avatar",
            "--limit",
            "3",
            "--name",
            home.name,
        ]
        variables = self.environment | {"HOME": str(home), "PREFECT_HOME": str(home / "prefect")}
        variables |= {"AVATAR_STATE_DIR": str(home / "state"), "PREFECT_WORKER_QUERY_SECONDS": "2"}
        self._add(Program(home.name, "workers and runs", command, home, variables))

    def _home(self, name: str) -> Path:
        home = self.folder / name
        home.mkdir(exist_ok=True)
        return home

    def _add(self, program: Program) -> None:
        self.programs[program.name] = program
        program.start()

    def _run(self, *command: str, environment: dict[str, str] | None = None) -> None:
        import subprocess

        done = subprocess.run(
            [str(BIN / command[0]), *command[1:]], env=environment or self.environment, cwd=self._home("hands"),
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stdout}{done.stderr}")

    def _end_all(self) -> None:
        for program in reversed(self.programs.values()):
            program.end()

    def fault(self, name: str, *, pause: float = 2.0) -> None:
        """Kill a program, wait, start it again."""
        self.faults.append(f"kill -9 {name}")
        self.programs[name].kill()
        time.sleep(pause)
        self.programs[name].start()

    def start_run(self, deployment: str, parameters: dict[str, Any]) -> str:
        with httpx.Client(base_url=self.api_url, timeout=60, trust_env=False) as client:
            found = client.get(f"/deployments/name/{deployment}").raise_for_status().json()
            made = client.post(f"/deployments/{found['id']}/create_flow_run", json={"parameters": parameters})
            return str(made.raise_for_status().json()["id"])


def base_environment() -> dict[str, str]:
    ours = ("AVATAR_", "PREFECT_", "FAL_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return kept | {
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_EPHEMERAL_ENABLED": "false",
        "PREFECT_LOGGING_LEVEL": "WARNING",
    }


@contextmanager
def installed() -> Iterator[Installation]:
    with tempfile.TemporaryDirectory(prefix="avatar-cluster-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        with ExitStack() as stack:
            yield Installation(folder, stack)


def bring_inputs(site: Installation, rows: int) -> dict[str, str]:
    """A portrait, a voice and a manifest, in the bucket. Returns a job of the first two."""
    make_inputs(site.folder)
    write_voice(site.folder / "short.wav", VOICE_SECONDS)
    job = {"portrait": "s3://avatar/in/portrait.png", "voice": "s3://avatar/in/short.wav"}
    lines = "\n".join(json.dumps(job | {"prompt": f"row {number}"}) for number in range(rows))
    (site.folder / "manifest.jsonl").write_text(lines)
    client = open_client(site.store)
    for name in ("portrait.png", "short.wav", "manifest.jsonl"):
        client.fput_object("avatar", f"in/{name}", str(site.folder / name))
    return job


def published(site: Installation) -> int:
    client = open_client(site.store)
    return sum(
        str(entry.object_name).endswith("/manifest.json")
        for entry in client.list_objects("avatar", prefix="videos/", recursive=True)
    )


def parts(site: Installation) -> list[dict[str, Any]]:
    """The runs that a batch is spread over, its own included."""
    wanted = {"flows": {"name": {"any_": ["generate-batch", "render-shard"]}}}
    with httpx.Client(base_url=site.api_url, timeout=60, trust_env=False) as client:
        found: list[dict[str, Any]] = client.post("/flow_runs/filter", json=wanted).raise_for_status().json()
    return found


def places(site: Installation) -> Counter[str]:
    """How many parts of the batch each worker has, or had to its end."""
    begun = [run for run in parts(site) if run["state_type"] in {"RUNNING", "COMPLETED"}]
    return Counter(run["labels"].get("prefect.worker.name", "?") for run in begun)


def begin(site: Installation, singles: int, rows: int) -> Counter[str]:
    """The batch first, until idle workers have its parts; then a run for each single job. Returns where the parts are."""
    job = bring_inputs(site, rows)
    site.start_run("generate-batch/generate-batch", {"batch": {"manifest": "s3://avatar/in/manifest.jsonl"}})
    with suppress(TimeoutError):
        until(lambda: len(places(site)) == WORKERS, "", SPREAD_SECONDS)
    spread = places(site)
    for number in range(singles):
        site.start_run("generate-avatar/generate-avatar", {"job": job | {"prompt": f"single {number}"}})
    return spread


def harm(site: Installation, wanted: int, seconds: float) -> None:
    """One fault after the other, each once so much is published: early, so that what they leave is done meanwhile."""
    for share, name in FAULTS:
        until(
            lambda share=share: published(site) >= share * wanted, f"it stands still before {name}", seconds
        )
        site.fault(name)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster", description=__doc__)
    parser.add_argument("--singles", type=int, default=60)
    parser.add_argument("--rows", type=int, default=300)
    parser.add_argument("--minutes", type=float, default=25.0, help="at the most")
    options = parser.parse_args()
    wanted, began, most = options.singles + options.rows, time.monotonic(), options.minutes * 60
    with installed() as site:
        ready = time.monotonic()
        spread = begin(site, options.singles, options.rows)
        with suppress(TimeoutError):
            harm(site, wanted, most)
            until(lambda: published(site) >= wanted, "", max(60.0, most - (time.monotonic() - ready)))
        wall, state, there = time.monotonic() - ready, site.sandbox.state(brief=True), published(site)
        ended = Counter(f"{run['state_name']}" for run in parts(site))
    good = state["accepts"] == there == wanted and len(spread) == WORKERS and len(site.faults) == len(FAULTS)
    table = {
        "jobs": f"{options.singles} single, {options.rows} rows of a batch",
        "installation": f"PostgreSQL, Redis, 2 API servers, {WORKERS} workers; ready after {ready - began:.0f} s",
        "wall": f"{wall:.0f} s",
        "processor seconds a job": told(used(site, wanted), ".2f"),
        "parts of the batch on": told(spread),
        "they ended as": told(ended),
        "faults": ", ".join(site.faults),
        "payments": f"{state['accepts']} of {wanted}",
        "published": f"{there} of {wanted}",
    }
    print("\n".join(f"{name:<24} {value}" for name, value in table.items()))
    print(f"{int(good)} passed, {int(not good)} failed")
    return 0 if good else 1


def used(site: Installation, jobs: int) -> dict[str, float]:
    found = Counter[str]()
    for program in site.programs.values():
        found[program.group] += program.used / jobs
    return dict(found) | {"all": sum(found.values())}


def told(counts: Mapping[str, float], form: str = "") -> str:
    return ", ".join(f"{name} {format(count, form)}" for name, count in sorted(counts.items()))


if __name__ == "__main__":
    sys.exit(main())

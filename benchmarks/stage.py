"""What the benchmarks run on: a store and a Prefect server of their own, and stand-in providers."""

import asyncio
import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

from avatar.local import Services, environment, services
from avatar.local.processes import Process, children
from avatar.local.state_directory import StateDirectory
from avatar.settings import AvatarSettings
from avatar.store.store import Store
from benchmarks.driven import ROOT, Order
from tests.sandbox.running import Sandbox

PORTRAIT, VOICE = ROOT / "examples" / "portrait.png", ROOT / "examples" / "speech.mp3"
LONG_VOICE = ROOT / "examples" / "speech-95s.mp3"
OURSELVES = ("AVATAR_", "PREFECT_", "FAL_")


class Stage:
    """Services are started when first asked for, and stopped when the stage is left.

    Attributes:
        full: whether renders may take as long as they do in life.
        folder: a directory that is removed in the end.
    """

    def __init__(self, folder: Path, stack: ExitStack, *, full: bool) -> None:
        self.full, self.folder, self._stack = full, folder, stack
        self.settings = AvatarSettings(_env_file=None, state_dir=folder / "state")

    @cached_property
    def services(self) -> Services:
        """The store and the Prefect server, ready."""
        return self._stack.enter_context(services(self.settings))

    def sandbox(self, **options: Any) -> Sandbox:
        """A stand-in provider of its own (`tests.sandbox.options`)."""
        return self._stack.enter_context(Sandbox.start(**options))

    def environment(self, provider: Mapping[str, str]) -> dict[str, str]:
        """Of a process that finds the services by itself, as `avatar` does: nothing but the state directory."""
        return {**clean_environment(), "AVATAR_STATE_DIR": str(self.settings.state_dir), **provider}

    def connected(self, provider: Mapping[str, str]) -> dict[str, str]:
        """Of a process that is told where the services are, as a worker's flow runs are."""
        told = environment(self.settings, self.services)
        # As the command does: nothing on the terminal, everything to the server.
        return {
            **clean_environment(),
            "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
            **told,
            **provider,
        }

    def order(self, jobs: int, **how: Any) -> Order:
        return Order(jobs=jobs, portrait=str(PORTRAIT), voice=str(VOICE), **how)

    def peer_order(self, jobs: int, **how: Any) -> Order:
        """The same, with links to the inputs in the same store: the peer need not upload them."""
        portrait, voice = self._links
        return Order(jobs=jobs, portrait=portrait, voice=voice, **how)

    @cached_property
    def _links(self) -> tuple[str, ...]:
        return asyncio.run(_linked(self.services.applied_to(self.settings), PORTRAIT, VOICE))

    def cpu(self) -> dict[str, float]:
        """CPU seconds so far of the services, by name."""
        record = StateDirectory(self.settings.state_dir).read()
        found = {"server": record.api, "store": record.store}
        return {name: _cpu_of(entry.process) for name, entry in found.items() if entry}


@contextmanager
def staged(*, full: bool) -> Iterator[Stage]:
    with tempfile.TemporaryDirectory(prefix="avatar-bench-") as folder, ExitStack() as stack:
        yield Stage(Path(folder), stack, full=full)


def clean_environment() -> dict[str, str]:
    """Ours without anything that would change what is measured."""
    return {name: value for name, value in os.environ.items() if not name.startswith(OURSELVES)}


def peer_environment(sandbox: Sandbox) -> dict[str, str]:
    return {**clean_environment(), "SANDBOX_URL": sandbox.url, "SANDBOX_KEY": sandbox.key}


async def _linked(settings: AvatarSettings, *paths: Path) -> tuple[str, ...]:
    store = Store(settings.store)
    try:
        await store.ensure_bucket()
        for path in paths:
            sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
            await store.put_file(f"bench/{path.name}", path, content_type="", sha256=sha256)
        lifetime = timedelta(days=1)
        return tuple([await store.presign(f"bench/{path.name}", expires=lifetime) for path in paths])
    finally:
        await store.aclose()


def _cpu_of(process: Process) -> float:
    """CPU seconds of a process and of all below it."""
    fields = Path(f"/proc/{process.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    ticks = sum(int(field) for field in fields[11:13])
    return ticks / os.sysconf("SC_CLK_TCK") + sum(map(_cpu_of, children(process)))

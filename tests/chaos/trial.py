"""One trial: one job, a sandbox to itself, and whatever is done to the processes that run it."""

import hashlib
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

from PIL import Image, PngImagePlugin

from avatar.settings_sections import StoreSettings
from tests.chaos.gate import Gate, Rule
from tests.chaos.ground import LEASE, Ground
from tests.chaos.victims import Shown, Victim
from tests.sandbox.running import Sandbox


class Trial:
    """A job whose prompt nobody else uses, so that whatever bears it belongs to this trial.

    Attributes:
        name: what is tried, for the table of faults.
        rng: seeded by the suite's seed and the name.
        kills: how often a running process was killed.
    """

    def __init__(self, ground: Ground, sandbox: Sandbox, name: str) -> None:
        self.ground, self.sandbox, self.name = ground, sandbox, name
        self.rng = Random(f"{ground.seed}:{name}")
        self.prompt = f"{name}, {ground.seed}-{time.time_ns()}"
        self.portrait, self.voice = ground.portrait, ground.voice
        self.store: StoreSettings = ground.store
        self.settings: dict[str, str] = {"AVATAR_JOURNAL__LEASE_SECONDS": str(LEASE)}
        self.provider = "fal"
        self.gate: Gate | None = None
        self.started: list[Victim] = []
        self.told: list[str] = []  #: everything that was shown to the user
        self.resolved: list[str] = []  #: what a person settled, by why no machine could
        self.kills = 0
        self._lock = threading.Lock()

    @property
    def folder(self) -> Path:
        return self.ground.folder / hashlib.sha256(self.prompt.encode()).hexdigest()[:16]

    def gated(self, *rules: Rule) -> Gate:
        """Put a gate between the trial's processes and the store, with `rules`."""
        if self.gate is None:
            self.gate = self.ground.gates.open()
            self.gate.kill = self.kill_newest
        self.gate.rules += rules
        return self.gate

    def own_portrait(self) -> None:
        """Inputs that are not in the store yet."""
        self.folder.mkdir(parents=True, exist_ok=True)
        note = PngImagePlugin.PngInfo()
        note.add_text("trial", self.prompt)
        self.portrait = self.folder / "portrait.png"
        Image.open(self.ground.portrait).save(self.portrait, pnginfo=note)

    def environment(self, machine: str) -> dict[str, str]:
        store = str(self.store.endpoint)
        wire = self.sandbox.fal_env() if self.provider == "fal" else self.sandbox.pixazo_env()
        return wire | {
            "AVATAR_STATE_DIR": str(self.folder / machine),
            "AVATAR_STORE__ENDPOINT": self.gate.address if self.gate else store,
            "AVATAR_STORE__PUBLIC_ENDPOINT": store,
            "AVATAR_STORE__BUCKET": self.store.bucket,
            "AVATAR_POLLING__MIN_INTERVAL": "0.2",
            **self.settings,
        }

    def start(
        self, *argv: str, machine: str = "a", more: dict[str, str] | None = None, skew: float = 0.0
    ) -> Victim:
        """Start an `avatar`, on one of several machines: each has its own state directory and host name."""
        environment = self.environment(machine) | (more or {})
        disguise = {"host": f"machine-{machine}", "skew": skew, "mutate": self.ground.mutate}
        victim = self.ground.zygote.start(argv, environment, **disguise)
        self.started.append(victim)
        return victim

    def generate(self, **how: Any) -> Victim:
        return self.start(*self.order(), **how)

    def order(self, *more: str) -> Sequence[str]:
        return ("generate", str(self.portrait), str(self.voice), "--prompt", self.prompt, "--json", *more)

    def run(self, *argv: str, **how: Any) -> Shown:
        """Run one to its end, or to its kill by the gate, and note what it showed."""
        return self.finish(self.start(*argv, **how) if argv else self.generate(**how))

    def finish(self, victim: Victim) -> Shown:
        shown = victim.wait()
        self.told.append(shown.text)
        if shown.code is None:
            self.kills += 1
        return shown

    def kill(self, victim: Victim) -> bool:
        """Kill it and wait until it is gone; False if it had ended by itself."""
        victim.kill()
        return self.finish(victim).code is None

    def kill_newest(self) -> None:
        for victim in self.started[-1:]:
            victim.kill()

    def accepted(self) -> list[dict[str, Any]]:
        """The requests for this job that the provider took on, oldest first."""
        found = self.sandbox.state()["accepted"]
        return [job for job in found if job["body"].get("prompt") == self.prompt]


@contextmanager
def trial(ground: Ground, name: str) -> Iterator[Trial]:
    """A trial with a sandbox that has forgotten all before; whatever it started is dead at the end."""
    sandbox = ground.sandboxes.get()
    sandbox.reset()
    made = Trial(ground, sandbox, name)
    try:
        yield made
    finally:
        for victim in made.started:
            victim.kill()
        if made.gate is not None:
            ground.gates.close_gate(made.gate)
        ground.sandboxes.put(sandbox)

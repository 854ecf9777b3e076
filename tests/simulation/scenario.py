"""What one schedule has in store, drawn from its seed: each schedule turns on a few kinds of trouble, not all."""

import random
from dataclasses import dataclass, field
from decimal import Decimal

from tests.simulation.provider import Script

#: How a paid request may end, beside being accepted and answered.
SUBMIT_FAULTS = (
    "not_sent", "slow_connect", "throttled", "balance", "invalid", "lost", "lost_unsent", "gateway", "gateway_unsent",
    "page", "nested_id", "cut", "silence",
)  # fmt: skip
CALL_FAULTS = ("reset", "silence", "page", "broken", "throttled", "nonsense")
SHAPES = ("list", "wrapped", "bare", "videos", "output")
STRAYS = (
    "open/README.txt", "open/%s.json", "open-jobs/note.txt", "hints/note.txt", "journal/note.txt", "jobs/note.txt",
    "budget/note.txt", "journal/%s/000001.json",
)  # fmt: skip
SLEEPS = (5.0, 60.0, 150.0, 400.0, 1500.0, 8000.0)


@dataclass
class Scenario:
    """One schedule's troubles. Times in seconds."""

    random: random.Random
    seed: int
    jobs: int = 1
    segments: int = 1
    limit: Decimal | None = None
    hour: float = 9.0  #: of the day at which it begins
    span: float = 2400.0  #: when troubles end
    waits: tuple[float, ...] = (0.0,)  #: for a turn at the account
    machines: int = 2
    runs: list[tuple[float, str]] = field(default_factory=list)  #: when begun, and how: `command` or `batch`
    restarts: int = 0  #: times that a run that died or failed is begun again
    reconciles: list[float] = field(default_factory=list)
    webhooks: bool = False
    history: str = "off"
    store_rate: float = 0.0
    store_faults: tuple[str, ...] = ()
    away: list[tuple[float, float]] = field(default_factory=list)
    call_rate: float = 0.0
    submit_rate: float = 0.0
    submit_faults: tuple[str, ...] = ()
    odd_rate: float = 0.0  #: of scripts that do not just render
    deaths: list[int] = field(default_factory=list)  #: steps at which a process dies
    naps: list[tuple[int, float, bool]] = field(
        default_factory=list
    )  #: step, seconds, whether its clock stops
    skews: tuple[float, ...] = (0.0,)
    full: tuple[int, float, float] | None = None  #: the machine whose disk is full, and between when
    strays: tuple[str, ...] = ()  #: keys of objects that do not belong there
    other_store: bool = False  #: whether the last run is on a machine with a store of its own
    salted: bool = False  #: whether every machine's media library writes other bytes
    person: str = (
        "away"  #: or `careful` (settles by what the dashboard shows), `wrong` (says not charged at once)
    )

    @classmethod
    def draw(cls, seed: int) -> "Scenario":
        dice = random.Random(seed)
        s = cls(dice, seed)
        chance = dice.random
        s.jobs = dice.choice((1, 1, 1, 1, 2, 3))
        s.segments = 1 if chance() < 0.8 else 2
        s.hour = dice.choice((9.0, 9.0, 23.8, 18.0))
        s.machines = dice.choice((1, 2, 2, 3))
        if chance() < 0.4:
            wanted = s.jobs * s.segments
            s.limit = Decimal("0.92") * dice.randint(1, wanted)
        if chance() < 0.2:  # hours instead of minutes
            s.span, s.waits = 36_000.0, (0.0, 0.0, 100.0, 4000.0, 9000.0, 25_000.0)
        later = dice.choice((10.0, 120.0, s.span / 2))
        begun = [0.0] + [dice.uniform(0, later) for _ in range(dice.choice((0, 0, 1, 1, 2)))]
        s.runs = [(at, "batch" if chance() < 0.4 else "command") for at in begun]
        s.restarts = dice.choice((0, 0, 1, 3))
        first, period = dice.uniform(10, 300), s.span / 20
        s.reconciles = [first + period * n for n in range(dice.choice((0, 4, 10, 18)))]
        s.webhooks = chance() < 0.35
        s.history = dice.choice(("off", "forbidden", "bare", "full", "full"))
        _draw_store(s)
        s.call_rate = dice.choice((0.0, 0.0, 0.05, 0.2))
        s.submit_rate = dice.choice((0.0, 0.3, 0.8))
        s.submit_faults = tuple(dice.sample(SUBMIT_FAULTS, dice.randint(1, 4)))
        s.odd_rate = dice.choice((0.0, 0.3, 0.9))
        s.deaths = sorted(dice.randint(1, 160) for _ in range(dice.choice((0, 0, 1, 1, 2, 4))))
        s.naps = sorted(
            (dice.randint(1, 120), dice.choice(SLEEPS), chance() < 0.5)
            for _ in range(dice.choice((0, 0, 1, 2)))
        )
        s.skews = tuple(dice.choice((0.0, 0.0, 0.0, -600.0, 600.0)) for _ in range(3))
        if chance() < 0.1:
            begins = dice.uniform(0, 300)
            s.full = dice.randrange(s.machines), begins, begins + dice.choice((30.0, 300.0, 1e9))
        if chance() < 0.15:
            s.strays = tuple(dice.sample(STRAYS, dice.randint(1, 3)))
        s.other_store = len(s.runs) > 1 and chance() < 0.1
        s.salted = chance() < 0.3
        s.person = dice.choice(("away", "careful", "careful", "careful", "wrong"))
        if seed % 8 == 0:
            _draw_sleeper(s)
        return s

    def script(self) -> Script:
        """What becomes of the next accepted request."""
        dice = self.random
        script = Script(takes=dice.choice((3.0, 20.0, 60.0, 200.0)))
        if dice.random() >= self.odd_rate:
            return script
        kind = dice.choice(("fate", "shape", "word", "result", "quota", "link", "link", "kept"))
        if kind == "fate":
            script.fate = dice.choice(("refused", "broke", "lost", "stuck"))
            script.charged = dice.random() < 0.5
        elif kind == "shape":
            script.shape = dice.choice(SHAPES)
        elif kind == "word":
            script.word = dice.choice(("FINISHED", "READY", "OK"))
        elif kind == "result":
            script.result_fails = dice.choice(("page", "typed", "listed", "plain", "empty", "forbidden"))
            script.result_back = script.takes + dice.choice((5.0, 100.0, 900.0))
        elif kind == "quota":
            script.quota_from = dice.choice((0.0, script.takes))
            script.quota_until = script.quota_from + dice.choice((30.0, 900.0))
        elif kind == "link":
            script.link = dice.choice(("late", "forbidden", "expires", "junk", "junk_once"))
            script.link_back = script.takes + dice.choice((3.0, 60.0, 600.0))
        else:
            script.result_kept = 3600.0
        return script


def _draw_sleeper(s: Scenario) -> None:
    """One machine sleeps while its paid request is on its way; others, and a person, take over in the meantime."""
    dice = s.random
    s.jobs, s.segments, s.machines, s.deaths, s.restarts = 1, 1, 2, [], 3
    s.runs = [(0.0, "command"), (dice.uniform(150, 400), "command"), (dice.uniform(300, 900), "command")]
    s.reconciles = [60.0 * n for n in range(2, 20)]
    s.naps = [(dice.randint(8, 22), dice.choice((300.0, 700.0, 1500.0)), dice.random() < 0.5)]
    s.submit_rate, s.submit_faults = 0.7, ("asleep_connecting", "asleep_connecting", "not_sent", "lost")
    s.person, s.history, s.webhooks = dice.choice(("careful", "wrong")), "off", False


def _draw_store(s: Scenario) -> None:
    dice = s.random
    s.store_rate = dice.choice((0.0, 0.0, 0.01, 0.05))
    s.store_faults = tuple(dice.sample(("refused", "lost", "slow", "late"), dice.randint(1, 3)))
    if dice.random() < 0.2:
        begins = dice.uniform(0, 200)
        s.away = [(begins, begins + dice.choice((20.0, 90.0, 400.0)))]

"""What one schedule has in store, drawn from its seed.

Most schedules are short, and of a flavour: one kind of trouble around one job, from which seed to seed the moment and the
order differ. Every so often one is of no flavour: several jobs, runs and kinds of trouble, for hours.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal

from tests.simulation.provider import Script

PRICE = Decimal("0.92")
#: How a paid request may end, beside being accepted and answered.
SUBMIT_FAULTS = (
    "not_sent", "slow_connect", "throttled", "balance", "invalid", "lost", "lost_unsent", "gateway", "gateway_unsent",
    "page", "nested_id", "cut", "silence",
)  # fmt: skip
SHAPES = ("list", "wrapped", "bare", "videos", "output", "none")
STRAYS = (
    "open/README.txt", "open/%s.json", "open/jobs/note.txt", "hints/note.txt", "journal/note.txt", "jobs/note.txt",
    "budget/note.txt", "journal/%s/000001.json", "open/jobs/%s.json",
)  # fmt: skip
SLEEPS = (5.0, 60.0, 150.0, 400.0, 1500.0, 8000.0)
#: How a render may go on that does not just get done; the first six kinds end with its video, without a hand.
ODD = ("shape", "word", "result", "quota", "late", "link", "fate", "junk", "kept", "none", "empty")
CURABLE = ODD[:6]
#: What stands in the key or in the text of an object after whose writing a worker may die, or sleep.
WRITINGS = (
    *(f'"state":"{state}"' for state in ("intent", "not_sent", "unknown", "submitted", "rendered", "collected")),
    "open/jobs/", ".open.", ".settled.", "renders/", "video.mp4", "poster.jpg", "index/videos", "index/requests", "manifest.json",
)  # fmt: skip


@dataclass
class Scenario:
    """One schedule's troubles. Times in seconds."""

    random: random.Random
    seed: int
    jobs: int = 1
    segments: int = 1
    limit: Decimal | None = None
    hour: float = 9.0  #: of the day at which it begins
    span: float = 900.0  #: when troubles end
    waits: tuple[float, ...] = (0.0,)  #: for a turn at the account
    machines: int = 2
    runs: list[tuple[float, str]] = field(default_factory=list)  #: when begun, and how: `command` or `batch`
    restarts: int = 0  #: times that a run that died or failed is begun again
    reconciles: list[float] = field(default_factory=list)
    webhooks: bool = False
    history: str = "off"
    store_rate: float = 0.0
    store_faults: tuple[str, ...] = ("refused",)
    away: list[tuple[float, float]] = field(default_factory=list)
    away_after_submit: float = 0.0  #: for how long the store is away once a paid request has ended
    call_rate: float = 0.0
    submit_rate: float = 0.0
    submit_faults: tuple[str, ...] = ()
    odd_rate: float = 0.0  #: of scripts that do not just render
    odd: tuple[str, ...] = ODD
    odd_left: int = 1000  #: so many are odd at the most
    takes: tuple[float, ...] = (3.0, 20.0, 60.0)  #: that a render takes
    deaths: list[int] = field(default_factory=list)  #: steps at which a process dies
    dies_after: tuple[str, int] | None = None  #: what a process writes, and how many steps later it dies
    naps: list[tuple[int, float, bool]] = field(
        default_factory=list
    )  #: step, seconds, whether its clock stops
    naps_after: tuple[str, int] | None = None  #: what a process writes, and how many steps later it sleeps
    naps_skipped: int = 0  #: times that it is written before
    nap: tuple[float, bool] = (0.0, False)  #: seconds of that sleep, and whether its clock stops
    skews: tuple[float, ...] = (0.0, 0.0, 0.0)
    full: tuple[int, float, float] | None = None  #: the machine whose disk is full, and between when
    strays: tuple[str, ...] = ()  #: keys of objects that do not belong there
    other_store: bool = False  #: whether the last run is on a machine with a store of its own
    salted: bool = False  #: whether every machine's media library writes other bytes
    proxy: bool = False  #: whether nothing is reached but through a proxy
    person: str = (
        "away"  #: or `careful` (settles by what the dashboard shows), `wrong` (says not charged at once)
    )
    looks: tuple[float, ...] = ()  #: when the person looks, as long as troubles last
    turns: int = 0  #: of a batch that is spread over two runs, and over nothing else
    forces: bool = False  #: whether the person asks for another take where there is no video
    ends_well: bool = False  #: whether every job must be published at last
    at_once: bool = False  #: whether every run must end well by itself

    @classmethod
    def draw(cls, seed: int) -> "Scenario":
        s = cls(random.Random(seed), seed)
        s.hour = s.random.choice((9.0, 9.0, 23.99))
        s.runs = [(0.0, s.random.choice(("command", "command", "batch")))]
        flavour_of(seed)(s)
        s.looks = () if s.person == "away" else s.looks or (s.span * 0.5, s.span * 0.95)
        return s

    @property
    def sleeps(self) -> bool:
        """Whether a machine sleeps, or did."""
        return bool(self.naps or self.nap[0])

    def script(self) -> Script:
        """What becomes of the next accepted request."""
        dice = self.random
        script = Script(takes=dice.choice(self.takes))
        if self.odd_left and dice.random() < self.odd_rate:
            self.odd_left -= 1
            _ODDLY[dice.choice(self.odd)](script, dice)
        return script


def _shape(script: Script, dice: random.Random) -> None:
    script.shape = dice.choice(SHAPES[:-1])


def _word(script: Script, dice: random.Random) -> None:
    script.word = dice.choice(("FINISHED", "READY", "OK"))


def _result(script: Script, dice: random.Random) -> None:
    script.result_fails = dice.choice(("page", "typed", "listed", "plain", "forbidden"))
    script.result_back = script.takes + dice.choice((5.0, 100.0, 900.0))


def _empty(script: Script, dice: random.Random) -> None:
    script.result_fails, script.result_back = "empty", script.takes + dice.choice((5.0, 100.0, 900.0))


def _quota(script: Script, dice: random.Random) -> None:
    script.quota_from = dice.choice((0.0, script.takes))
    script.quota_until = script.quota_from + dice.choice((30.0, 600.0))


def _late(script: Script, dice: random.Random) -> None:
    script.link = dice.choice(("late", "forbidden"))
    script.link_back = script.takes + dice.choice((3.0, 60.0, 600.0))


def _link(script: Script, dice: random.Random) -> None:
    script.link = dice.choice(("expires", "junk_once"))


def _fate(script: Script, dice: random.Random) -> None:
    script.fate, script.charged = dice.choice(("refused", "broke", "lost", "stuck")), dice.random() < 0.5


def _junk(script: Script, _: random.Random) -> None:
    script.link = "junk"


def _kept(script: Script, _: random.Random) -> None:
    script.result_kept = 3600.0


def _none(script: Script, _: random.Random) -> None:
    script.shape = "none"


def _unreachable(script: Script, _: random.Random) -> None:
    script.fate, script.charged = "unreachable", False


_ODDLY: dict[str, Callable[[Script, random.Random], None]] = {
    "shape": _shape, "word": _word, "result": _result, "quota": _quota, "late": _late, "link": _link, "fate": _fate,
    "junk": _junk, "kept": _kept, "none": _none, "empty": _empty,
    "unreachable": _unreachable,
}  # fmt: skip


# --- flavours


def nobody_again(s: Scenario) -> None:
    """A run dies around something that it wrote, and nobody runs the job again: `reconcile` alone goes on."""
    s.dies_after = s.random.choice(WRITINGS), s.random.choice((0, 0, 1, 2, 4))


def relay(s: Scenario) -> None:
    """A run dies anywhere, and is begun again on another machine."""
    dice = s.random
    s.deaths = sorted(dice.randint(1, 60) for _ in range(dice.choice((1, 1, 2))))
    s.runs.append((dice.choice((1.0, 30.0, 200.0)), "command"))
    s.restarts, s.history = dice.choice((0, 1)), dice.choice(("off", "full"))
    s.person = dice.choice(("away", "careful"))


def twins(s: Scenario) -> None:
    """Two runs of the same job at the same time; one may sleep."""
    dice = s.random
    s.runs.append((dice.choice((0.0, 0.2, 1.0)), dice.choice(("command", "batch"))))
    s.limit = dice.choice((None, PRICE))
    if dice.random() < 0.4:
        s.naps = [(dice.randint(10, 60), dice.choice(SLEEPS), dice.random() < 0.5)]


def sleeper(s: Scenario) -> None:
    """One machine sleeps while its paid request is on its way; others, and a person, take over in the meantime."""
    dice = s.random
    s.runs = [(0.0, "command"), (dice.uniform(150, 400), "command"), (dice.uniform(300, 900), "command")]
    s.restarts, s.span, s.person = 3, 1600.0, dice.choice(("careful", "wrong"))
    s.reconciles, s.looks = [dice.uniform(150, 400)], (dice.uniform(200, 500), 900.0)
    s.naps = [(dice.randint(8, 22), dice.choice((300.0, 700.0, 1500.0)), dice.random() < 0.5)]
    s.submit_rate, s.submit_faults = 0.7, ("asleep_connecting", "asleep_connecting", "not_sent", "lost")


def asleep(s: Scenario) -> None:
    """A machine sleeps for minutes or hours around something that it wrote, and others go on in the meantime."""
    dice = s.random
    written = dice.choice((".open.", dice.choice(WRITINGS), dice.choice(WRITINGS)))
    s.naps_after, s.naps_skipped = (written, dice.choice((0, 0, 1, 2, 4))), dice.choice((0, 1, 1))
    s.nap = dice.choice((400.0, 8000.0, 8000.0, 8000.0)), dice.random() < 0.5
    s.submit_rate, s.submit_faults = 0.6, ("throttled", "throttled", "not_sent", "lost")
    s.span, s.limit, s.jobs, s.takes = 12_000.0, PRICE, dice.choice((1, 1, 2)), (3.0, 20.0)
    if dice.random() < 0.5:
        s.runs.append((dice.choice((1.0, 300.0, 7500.0)), dice.choice(("command", "batch"))))
    s.reconciles = [dice.uniform(60, 400) + 900 * n for n in range(12)]


def answers(s: Scenario) -> None:
    """The paid request meets with trouble on the way there, or its answer on the way back."""
    dice = s.random
    s.submit_rate, s.submit_faults = 0.8, tuple(dice.sample(SUBMIT_FAULTS, dice.randint(1, 3)))
    s.history = dice.choice(("off", "forbidden", "bare", "full", "full"))
    s.restarts, s.person = dice.choice((0, 1)), dice.choice(("away", "careful", "careful", "wrong"))
    s.skews = dice.choice(((0.0,) * 3, (0.0, 600.0, -600.0)))


def oddly(s: Scenario) -> None:
    """The render does not just get done."""
    s.odd_rate, s.call_rate = 1.0, s.random.choice((0.0, 0.0, 0.1))
    s.restarts, s.person = s.random.choice((0, 0, 1)), s.random.choice(("away", "careful"))


def never(s: Scenario) -> None:
    """There never is a video that plays."""
    s.odd_rate, s.odd = 1.0, ("junk", "none", "fate")


def cured(s: Scenario) -> None:
    """The render is odd in a way that a run gets over by itself."""
    s.odd_rate, s.odd, s.at_once, s.ends_well = 1.0, CURABLE, True, True


def refusing_store(s: Scenario) -> None:
    """The store refuses, is slow, or loses its answers."""
    dice = s.random
    s.store_rate = dice.choice((0.01, 0.05, 0.1))
    s.store_faults = tuple(dice.sample(("refused", "lost", "slow", "late"), dice.randint(1, 3)))
    s.restarts, s.person = dice.choice((0, 1)), dice.choice(("away", "careful"))
    if dice.random() < 0.3:
        s.runs.append((dice.choice((0.0, 5.0)), "command"))


def outage(s: Scenario) -> None:
    """The store is away for a while, right from the beginning or later."""
    begins = s.random.choice((0.0, 0.2, 0.6, 2.0, 15.0))
    s.away = [(begins, begins + s.random.choice((8.0, 20.0, 90.0, 120.0)))]
    s.at_once = s.ends_well = True


def refusals(s: Scenario) -> None:
    """The store goes away just when something must be written down about the paid request."""
    dice = s.random
    s.submit_rate, s.submit_faults = 1.0, tuple(dice.sample(("not_sent", "throttled", "balance"), 2))
    s.away_after_submit = dice.choice((3.0, 40.0, 200.0))


def purse(s: Scenario) -> None:
    """Two machines at once, and not enough money for all of their jobs."""
    dice = s.random
    s.jobs = dice.choice((2, 2, 3))
    s.limit = PRICE * dice.randint(1, s.jobs - 1)
    s.runs.append((dice.choice((0.0, 0.0, 0.05, 1.0)), dice.choice(("command", "batch"))))
    s.takes = (3.0,)
    if dice.random() < 0.3:
        s.deaths = [dice.randint(5, 60)]


def hours(s: Scenario) -> None:
    """Turns at the account come after hours, so that claims grow old."""
    dice = s.random
    s.jobs, s.span, s.waits = dice.choice((1, 2)), 36_000.0, (100.0, 3000.0, 4000.0, 9000.0, 25_000.0)
    s.limit, s.takes = PRICE * dice.choice((1, 2)), (3.0,)
    s.runs.append((dice.uniform(0, 9000), "command"))
    s.reconciles = [dice.uniform(0, end) for end in (100, 3000, 9000, 30_000)]


def webhooks(s: Scenario) -> None:
    """The provider calls back, once, twice or late."""
    dice = s.random
    s.webhooks, s.takes = True, (3.0, 8.0)
    s.submit_rate, s.submit_faults = 0.6, ("lost", "gateway", "page", "cut", "not_sent")
    s.restarts, s.person = dice.choice((0, 1)), dice.choice(("away", "careful", "wrong"))
    s.deaths = [dice.randint(10, 50) for _ in range(dice.choice((0, 0, 1)))]


def beside(s: Scenario) -> None:
    """Something is wrong with one of several things that are open: a stray object, a full disk, an odd render."""
    dice = s.random
    s.jobs, s.machines, s.deaths = 2, 1, [dice.randint(30, 110)]
    s.reconciles = [400.0]
    if dice.random() < 0.5:
        s.strays = tuple(dice.sample(STRAYS, dice.randint(1, 3)))
    else:
        s.full = 0, dice.choice((0.0, 300.0)), dice.choice((500.0, 1e9))
    s.odd_rate, s.takes = 0.3, (3.0, 20.0)


def again_elsewhere(s: Scenario) -> None:
    """A run dies while it publishes; another machine, with another media library, publishes again."""
    s.salted, s.dies_after = True, (s.random.choice(WRITINGS[-5:]), s.random.choice((0, 1, 2)))
    s.runs.append((s.random.choice((1.0, 100.0)), "command"))
    s.at_once = s.ends_well = True


def elsewhere(s: Scenario) -> None:
    """Another run is on a machine with a store of its own."""
    s.runs.append((s.random.choice((0.0, 2.0, 60.0)), s.random.choice(("command", "batch"))))
    s.other_store = True


def another_take(s: Scenario) -> None:
    """A person who got no video asks for another take."""
    s.forces, s.person, s.odd_rate, s.odd = True, "careful", 0.7, ("fate", "fate", "none", "junk")


def proxied(s: Scenario) -> None:
    """Nothing is reached but through a proxy."""
    s.proxy = s.at_once = s.ends_well = True


def shards(s: Scenario) -> None:
    """A large batch is spread over two runs, which share its turns."""
    s.runs, s.jobs, s.turns, s.takes = [], 4, s.random.choice((2, 3, 3)), (60.0,)
    s.at_once = s.ends_well = True


def unread(s: Scenario) -> None:
    """The provider cannot fetch the inputs at first."""
    s.odd_rate, s.odd, s.odd_left = 1.0, ("unreachable",), s.random.choice((1, 2))
    s.restarts, s.ends_well = 3, True


def anything(s: Scenario) -> None:
    dice = s.random
    chance = dice.random
    s.jobs = dice.choice((1, 1, 1, 1, 2, 3))
    s.segments = 1 if chance() < 0.8 else 2
    s.hour = dice.choice((9.0, 9.0, 23.8, 18.0))
    s.machines = dice.choice((1, 2, 2, 3))
    if chance() < 0.4:
        s.limit = PRICE * dice.randint(1, s.jobs * s.segments)
    s.span, s.takes = 2400.0, (3.0, 20.0, 60.0, 200.0)
    if chance() < 0.2:  # hours instead of minutes
        s.span, s.waits = 36_000.0, (0.0, 0.0, 100.0, 4000.0, 9000.0, 25_000.0)
    later = dice.choice((10.0, 120.0, s.span / 2))
    begun = [0.0] + [dice.uniform(0, later) for _ in range(dice.choice((0, 0, 1, 1, 2)))]
    s.runs = [(at, "batch" if chance() < 0.4 else "command") for at in begun]
    s.restarts = dice.choice((0, 0, 1, 3))
    first, period = dice.uniform(10, 300), s.span / 20
    s.reconciles = [first + period * n for n in range(dice.choice((0, 4, 10, 18)))]
    s.webhooks = chance() < 0.2
    s.history = dice.choice(("off", "forbidden", "bare", "full", "full"))
    s.store_rate = dice.choice((0.0, 0.0, 0.01, 0.05))
    s.store_faults = tuple(dice.sample(("refused", "lost", "slow", "late"), dice.randint(1, 3)))
    if dice.random() < 0.2:
        begins = dice.uniform(0, 200)
        s.away = [(begins, begins + dice.choice((20.0, 90.0, 400.0)))]
    s.call_rate = dice.choice((0.0, 0.0, 0.05, 0.2))
    s.submit_rate = dice.choice((0.0, 0.3, 0.8))
    s.submit_faults = tuple(dice.sample(SUBMIT_FAULTS, dice.randint(1, 4)))
    s.odd_rate = dice.choice((0.0, 0.3, 0.9))
    s.deaths = sorted(dice.randint(1, 160) for _ in range(dice.choice((0, 0, 1, 1, 2, 4))))
    s.naps = sorted(
        (dice.randint(1, 120), dice.choice(SLEEPS), chance() < 0.5) for _ in range(dice.choice((0, 0, 1, 2)))
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


#: Those that come more often are short, or have many moments at which something may happen.
FLAVOURS = (
    anything, twins, sleeper, asleep, never, cured, refusing_store, purse, hours, webhooks, beside, another_take, proxied, unread,
    *(oddly, outage, refusals, relay, elsewhere) * 2, *(nobody_again, answers, again_elsewhere) * 3,
    nobody_again, answers, shards,
)  # fmt: skip


def flavour_of(seed: int) -> Callable[[Scenario], None]:
    return FLAVOURS[seed % len(FLAVOURS)]

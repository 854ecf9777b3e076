"""(f) A worker whose clock is ten minutes off. Leases go by the store's clock, so nobody is declared dead by it."""

from collections.abc import Iterator
from functools import partial

from tests.chaos.case import Case
from tests.chaos.kills import die_before_the_answer
from tests.chaos.person import recover
from tests.chaos.trial import Trial
from tests.chaos.victims import Shown
from tests.chaos.witness import Witness

ROW = "clocks differ"
#: Seconds. S3 refuses signatures that are more than fifteen minutes off.
SKEWS = (600.0, -600.0)


def cases() -> Iterator[Case]:
    for skew in SKEWS:
        off = f"{skew / 60:+.0f} min"
        yield Case(ROW, f"one worker, {off}", partial(alone, skew=skew))
        yield Case(ROW, f"rival {off}", partial(rival, holder=0.0, skew=skew))
        yield Case(ROW, f"holder {off}", partial(rival, holder=skew, skew=0.0))
        yield Case(ROW, f"both, {off} and back", partial(rival, holder=skew, skew=-skew))
        yield Case(ROW, f"dies, found {off}", partial(dies, skew=skew))


def alone(trial: Trial, *, skew: float) -> Shown:
    """The gate sees that the clock is off by what it should be."""
    gate = trial.gated()
    shown = recover(trial, skew=skew)
    assert all(abs(seen.skew - skew) < 60 for seen in gate.seen if seen.skew is not None), "not skewed"
    return shown


def rival(trial: Trial, *, holder: float, skew: float) -> Shown:
    """A second worker looks while the first waits for the provider's answer, and must leave it alone."""
    trial.settings["AVATAR_JOURNAL__LEASE_SECONDS"] = "6"
    trial.sandbox.behave("submit", "delay", seconds=3.5)
    first = trial.generate(machine="a", skew=holder)
    trial.sandbox.wait_for("accepts")
    second = trial.generate(machine="b", skew=skew)
    shown = [trial.finish(each) for each in (first, second)]
    states = [
        entry["state"]
        for render_id in Witness(trial).render_ids()
        for entry in Witness(trial).journal(render_id)
    ]
    assert "unknown" not in states, f"a living holder was declared dead: {states}"
    assert all(each.published for each in shown), "both should have published"
    return shown[-1]


def dies(trial: Trial, *, skew: float) -> Shown:
    """A dead holder is found out by a worker whose clock is off, and settled by another."""
    die_before_the_answer(trial)
    trial.run(machine="b", skew=skew)
    return recover(trial)

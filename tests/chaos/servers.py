"""(d) The Prefect server: restarted, or gone for minutes. It knows nothing about money, so nothing may depend on it."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from avatar.local.processes import stop
from avatar.local.state_directory import StateDirectory
from tests.chaos.case import Case
from tests.chaos.gate import Rule
from tests.chaos.person import recover
from tests.chaos.trial import Trial
from tests.chaos.victims import Shown

ROW = "Prefect server dies"
MOMENTS = ("PUT result", "PUT journal-intent", "PUT journal-submitted", "PUT render", "PUT manifest")


def cases() -> Iterator[Case]:
    for on in MOMENTS:
        yield Case(ROW, f"restarted at {on}", partial(restarted, on=on), alone=True)
    yield Case(ROW, "and the run with it", both_die, alone=True)
    yield Case(
        ROW, "gone for two minutes while it renders", partial(restarted, seconds=120.0, pace=20.0), alone=True
    )
    yield Case(ROW, "gone before the start", gone_before, alone=True)


@contextmanager
def no_prefect(trial: Trial, seconds: float) -> Iterator[None]:
    """Without the server for the block, and `seconds` longer."""
    trial.ground.kill_prefect()
    try:
        yield
        time.sleep(seconds)
    finally:
        trial.ground.restart_prefect()


def restarted(
    trial: Trial, *, on: str = "PUT journal-submitted", seconds: float = 3.0, pace: float = 0.0
) -> Shown:
    """The server is killed as the run reaches a write, and is back after a while."""
    if pace:
        trial.sandbox.behave("submit", "pace", render_seconds=pace)
    rule = Rule(on, "call")
    trial.gated(rule).kill = lambda: None
    victim = trial.generate()
    rule.wait()
    with no_prefect(trial, seconds):
        pass
    trial.finish(victim)
    return recover(trial)


def both_die(trial: Trial) -> Shown:
    """Run and server die in the same moment."""
    rule = Rule("PUT journal-submitted", "kill_done")
    trial.gated(rule)
    victim = trial.generate()
    rule.wait()
    with no_prefect(trial, 1.0):
        trial.finish(victim)
    return recover(trial)


def gone_before(trial: Trial) -> Shown:
    """The configured server does not answer: the command uses one of its own, and takes it down again."""
    with no_prefect(trial, 0.0):
        shown = trial.run()
    left = StateDirectory(trial.folder / "a").read().api
    if left is not None:
        stop(left.process, grace=10)
        raise AssertionError("the run left its own Prefect server behind")
    return shown if shown.published else recover(trial)

"""(c) The store: down, slow, full, forbidden, lying about what it did; and killed itself."""

import os
import signal
import time
from collections.abc import Iterator
from functools import partial

from avatar.local import embedded_store
from tests.chaos.case import Case
from tests.chaos.gate import Rule
from tests.chaos.kills import WRITES
from tests.chaos.person import recover
from tests.chaos.trial import Trial
from tests.chaos.victims import Shown

ROW, OWN_ROW = "store misbehaves", "store dies"
#: What may happen from a write on, and for how many seconds.
TROUBLES = {
    "down": {"do": "cut", "seconds": 4.0},
    "full": {"do": "507", "seconds": 3.0},
    "forbidden": {"do": "403", "seconds": 2.0},
    "slow": {"do": "slow", "seconds": 3.0},
    "done, answered 500": {"do": "500_done"},
    "done, never answered": {"do": "cut_done"},
}


def cases() -> Iterator[Case]:
    for on, skip in WRITES:
        for name, trouble in TROUBLES.items():
            yield Case(ROW, f"{name} at {on} {skip}", partial(troubled, on=on, skip=skip, **trouble))
    for state in ("intent", "submitted", "rendered", "collected"):
        every = partial(troubled, on=f"PUT journal-{state}", do="500_done", times=5)
        yield Case(ROW, f"done, answered 500 five times, at {state}", every)
        mute = partial(troubled, on=f"PUT journal-{state}", do="slow", seconds=12.0)
        yield Case(ROW, f"answers {state} after the client's time-out", mute)
        gone = partial(confirms_nothing, state=state)
        yield Case(ROW, f"done, answered 500, then gone, at {state}", gone)
    yield Case(ROW, "gone with the answer in hand, and the process killed", receipt_on_disk)
    yield Case(ROW, "down as the lost answer is noted", partial(lost_twice, seconds=20.0))
    yield Case(ROW, "overwrites in spite of If-None-Match", overwrites, published=False)
    for on, _ in WRITES:
        if on in {"PUT journal-intent", "PUT journal-submitted", "PUT render", "PUT manifest"}:
            yield Case(OWN_ROW, f"kill -9 of the store at {on}", partial(killed, on=on), alone=True)
    yield Case(OWN_ROW, "stopped for 15 s at the receipt", stopped, alone=True)


def troubled(trial: Trial, *, on: str, do: str, skip: int = 0, seconds: float = 0.0, times: int = 1) -> Shown:
    if on == "PUT asset":
        trial.own_portrait()
    trial.gated(Rule(on, do, skip=skip, seconds=seconds, times=times))
    return recover(trial)


def confirms_nothing(trial: Trial, *, state: str) -> Shown:
    """The entry is there, but neither its answer nor a look at it comes through."""
    trial.gated(Rule(f"PUT journal-{state}", "500_done"), Rule(f"PUT journal-{state}", "cut", seconds=12.0))
    return recover(trial)


def receipt_on_disk(trial: Trial) -> Shown:
    """The receipt cannot be written for seconds, then its process dies: this machine's disk still knows it."""
    rule = Rule("PUT journal-submitted", "cut", seconds=30.0)
    gate = trial.gated(rule)
    victim = trial.generate()
    rule.wait()
    time.sleep(1.0)
    trial.kill(victim)
    gate.calm()
    shown = recover(trial)
    assert not trial.resolved, "a person had to bring what the disk knew"
    return shown


def lost_twice(trial: Trial, *, seconds: float) -> Shown:
    """The provider's answer is lost, and so is our note of it."""
    trial.sandbox.behave("submit", "drop")
    trial.gated(Rule("PUT journal-unknown", "cut", seconds=seconds))
    return recover(trial)


def overwrites(trial: Trial) -> Shown:
    """A store that ignores `If-None-Match` gets no paid request at all."""
    trial.gated(Rule("PUT .*", "strip", times=10_000))
    shown = recover(trial, final={"StoreUnfit"})
    assert shown.error.get("type") == "StoreUnfit", shown
    assert not trial.accepted()
    return shown


def killed(trial: Trial, *, on: str) -> Shown:
    """The store's process dies as it has done a write, and is started again after two seconds."""
    directory, rule = trial.ground.state.store, Rule(on, "call_done")
    running = embedded_store.find_running(directory)
    assert running is not None
    trial.gated(rule).kill = lambda: os.kill(running.process.pid, signal.SIGKILL)
    trial.sandbox.behave("submit", "pace", queue_seconds=8)  # fetches the inputs when the store is back
    victim = trial.generate()
    rule.wait()
    time.sleep(2.0)
    embedded_store.start(directory)
    trial.finish(victim)
    return recover(trial)


def stopped(trial: Trial) -> Shown:
    """The store hangs, sockets open, longer than any of our time-outs for a short call."""
    running, rule = (
        embedded_store.find_running(trial.ground.state.store),
        Rule("PUT journal-submitted", "call"),
    )
    assert running is not None
    trial.gated(rule).kill = lambda: os.kill(running.process.pid, signal.SIGSTOP)
    victim = trial.generate()
    rule.wait()
    time.sleep(15.0)
    os.kill(running.process.pid, signal.SIGCONT)
    trial.finish(victim)
    return recover(trial)

"""(e) Many workers for one job, on one machine and on several, some of them dying."""

import signal
from collections.abc import Iterator
from functools import partial

from tests.chaos.case import Case
from tests.chaos.gate import Rule
from tests.chaos.kills import die_before_the_answer
from tests.chaos.person import on_the_dashboard, recover, why_a_person
from tests.chaos.trial import Trial
from tests.chaos.victims import Shown

ROW = "workers race"
#: Rounds of the plainest race: it must be lost often if the create is not conditional.
ROUNDS = 5


def cases() -> Iterator[Case]:
    for number in range(ROUNDS):
        for machines in ("aa", "ab"):
            yield Case(ROW, f"{machines}, round {number}", partial(race, machines=machines))
    for machines in ("aaaaaaaa", "abcdefgh"):
        yield Case(ROW, machines, partial(race, machines=machines))
        yield Case(ROW, f"{machines}, a slow provider", partial(race, machines=machines, answer=1.0))
        yield Case(ROW, f"{machines}, the answer lost", partial(race, machines=machines, lost=True))
    yield Case(ROW, "in step at the intent", in_step)
    yield Case(ROW, "the first dies", partial(race, machines="abcd", answer=0.8, dies=True))
    yield Case(ROW, "all find a dead one", all_find_a_dead_one)
    yield Case(ROW, "asleep between intent and request", asleep)
    yield Case(ROW, "two people settle it at once", both_settle)


def race(
    trial: Trial, *, machines: str, answer: float = 0.0, lost: bool = False, dies: bool = False
) -> Shown:
    """All start at once; when all have ended, a person goes on."""
    if answer:
        trial.sandbox.behave("submit", "delay", seconds=answer)
    if lost:
        trial.sandbox.behave("submit", "drop")
    victims = [trial.generate(machine=machine) for machine in machines]
    if dies:
        trial.sandbox.wait_for("posts")
        trial.kill(victims[trial.rng.randrange(len(victims))])
    for victim in victims:
        trial.finish(victim)
    return recover(trial)


def in_step(trial: Trial) -> Shown:
    """Two runs that have both found an empty journal: their intents reach the store in the same moment."""
    trial.settings["AVATAR_JOURNAL__LEASE_SECONDS"] = (
        "60"  # the first waits for the second, and is not too late to send
    )
    rule = Rule("PUT journal-intent", "meet", times=2, seconds=30.0)
    trial.gated(rule)
    victims = [trial.generate(machine=machine) for machine in "ab"]
    for victim in victims:
        trial.finish(victim)
    return recover(trial)


def all_find_a_dead_one(trial: Trial) -> Shown:
    """A run died in its request; four find it at once, one of them on the machine that may hold a receipt."""
    die_before_the_answer(trial)
    victims = [trial.generate(machine=machine) for machine in "abcd"]
    for victim in victims:
        trial.finish(victim)
    return recover(trial)


def asleep(trial: Trial) -> Shown:
    """A machine sleeps between its intent and its request, is given up, and wakes when another has paid."""
    rule = Rule("PUT journal-intent", "call_done")
    trial.gated(rule)
    sleeper = trial.start(*trial.order(), machine="a")
    trial.gated().kill = lambda: sleeper.send(signal.SIGSTOP)
    rule.wait()
    recover(trial, machine="b")
    sleeper.send(signal.SIGCONT)
    trial.finish(sleeper)
    return recover(trial)


def both_settle(trial: Trial) -> Shown:
    """Of what no list of requests tells."""
    trial.sandbox.reset(payloads=False)
    trial.sandbox.behave("submit", "drop")
    render_id = trial.run().error["render_id"]
    found = on_the_dashboard(trial, render_id)
    assert found
    people = [
        trial.start("resolve", render_id, "--request-id", found, "--json", machine=machine)
        for machine in "ab"
    ]
    for person in people:
        trial.finish(person)
    trial.resolved.append(why_a_person(trial, found))
    return recover(trial)

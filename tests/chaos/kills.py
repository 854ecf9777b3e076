"""(a) SIGKILL at every journal transition, around every other write, and at random moments."""

import time
from collections.abc import Iterator
from functools import partial

from tests.chaos.case import Case
from tests.chaos.gate import Rule
from tests.chaos.person import on_the_dashboard, recover, settle
from tests.chaos.trial import Trial
from tests.chaos.victims import Shown

AT_A_WRITE, RANDOM, RANDOM_LONG = "kill -9 at a write", "kill -9 at random", "kill -9 at random, long voice"
#: Every write of a calm run, in order, and how many of its kind come before it.
WRITES = (
    ("PUT asset", 0), ("PUT result", 0), ("PUT plan", 0), ("PUT budget-open", 0), ("PUT probe", 0),
    ("PUT probe", 1), ("DELETE probe", 0), ("PUT open", 0), ("PUT journal-intent", 0),
    ("PUT journal-submitted", 0), ("PUT open", 1), ("PUT journal-rendered", 0),
    ("PUT render", 0), ("PUT journal-collected", 0), ("PUT budget-settled", 0), ("DELETE budget-open", 0),
    ("DELETE open", 0), ("PUT video", 0), ("PUT poster", 0), ("PUT manifest", 0),
)  # fmt: skip
#: How long a run takes, in seconds: random moments lie within.
RUN_SECONDS, LONG_RUN_SECONDS = 1.6, 2.4
#: Every so many random trials have a voice that is cut.
EVERY = 4
MOMENTS = ("kill", "kill_done")


def cases() -> Iterator[Case]:
    for on, skip in WRITES:
        for do in MOMENTS:
            yield Case(AT_A_WRITE, f"{do} {on} {skip}", partial(at_a_write, on=on, skip=skip, do=do))
    for do in MOMENTS:
        yield Case(AT_A_WRITE, f"{do} unknown", partial(at_unknown, do=do))
        yield Case(AT_A_WRITE, f"{do} not_sent", partial(at_not_sent, do=do))
        yield Case(AT_A_WRITE, f"{do} refused", partial(at_refused, do=do))
        yield Case(AT_A_WRITE, f"{do} failed", partial(at_failed, do=do), published=False)
    # Of these only a person can know, so each is tried at one of its two moments.
    yield Case(AT_A_WRITE, "kill_done unknown, by the next run", partial(at_silence, do="kill_done"))
    yield Case(AT_A_WRITE, "kill resolved", partial(at_resolved, do="kill"))
    yield Case(AT_A_WRITE, "kill_done submitted by a person", partial(at_attached, do="kill_done"))
    for machine in "ab":
        yield Case(
            AT_A_WRITE, f"accepted, unanswered, then on {machine}", partial(before_the_answer, then=machine)
        )
    yield Case(AT_A_WRITE, "an old receipt and a new request", stale_receipt)


def random_cases(kills: int) -> Iterator[Case]:
    """As many trials as give `kills` kills, whoever counts them."""
    for number in range(kills):
        if number % EVERY:
            yield Case(RANDOM, f"trial {number}", at_random)
        else:
            yield Case(RANDOM_LONG, f"trial {number}", at_random_in_a_long_one)


def at_a_write(trial: Trial, *, on: str, skip: int, do: str) -> Shown:
    """Die around one write; go on at the same machine or at another."""
    if on == "PUT asset":
        trial.own_portrait()
    trial.gated(Rule(on, do, skip=skip))
    trial.run()
    return recover(trial, machine=trial.rng.choice("ab"))


def at_unknown(trial: Trial, *, do: str) -> Shown:
    """Die around noting that the answer was lost."""
    trial.sandbox.behave("submit", "drop")
    return at_a_write(trial, on="PUT journal-unknown", skip=0, do=do)


def at_silence(trial: Trial, *, do: str) -> Shown:
    """A run dies in its request, and no list tells of it; the next dies around noting that it is gone."""
    trial.sandbox.reset(payloads=False)
    die_before_the_answer(trial)
    trial.gated(Rule("PUT journal-unknown", do))
    trial.run()
    return recover(trial)


def at_resolved(trial: Trial, *, do: str) -> Shown:
    """Die around a person's word that nothing was charged."""
    trial.sandbox.behave("submit", "drop", accept=False)
    shown = trial.run()
    trial.gated(Rule("PUT journal-resolved", do))
    settle(trial, shown)
    return recover(trial)


def at_attached(trial: Trial, *, do: str) -> Shown:
    """Die around a person's request id: no list of requests brought it."""
    trial.sandbox.reset(payloads=False)
    trial.sandbox.behave("submit", "drop")
    shown = trial.run()
    trial.gated(Rule("PUT journal-submitted", do))
    settle(trial, shown)
    return recover(trial)


def at_not_sent(trial: Trial, *, do: str) -> Shown:
    """Die around noting that nothing was sent."""
    trial.gated(Rule("PUT journal-not_sent", do))
    trial.run(more={"AVATAR_FAL__QUEUE_URL": "http://127.0.0.1:9"})
    return recover(trial)


def at_refused(trial: Trial, *, do: str) -> Shown:
    trial.sandbox.behave("submit", "rate_limited")
    return at_a_write(trial, on="PUT journal-refused", skip=0, do=do)


def at_failed(trial: Trial, *, do: str) -> Shown:
    trial.sandbox.behave("submit", "fail", kind="content_policy_violation")
    trial.gated(Rule("PUT journal-failed", do))
    trial.run()
    return recover(trial, final={"RenderFailed"})


def before_the_answer(trial: Trial, *, then: str) -> Shown:
    """The one window in which only the provider knows: its dashboard finds the render by its tag."""
    die_before_the_answer(trial)
    return recover(trial, machine=then)


def die_before_the_answer(trial: Trial) -> None:
    before = len(trial.accepted())
    trial.sandbox.behave("submit", "delay", seconds=3)
    victim = trial.generate()
    trial.sandbox.wait_for("accepts", before + 1)
    trial.kill(victim)


def stale_receipt(trial: Trial) -> Shown:
    """A receipt left on disk by a death right after it was journaled must not stand for a later request.

    The first request fails, uncharged; the second is accepted as its run dies. What lies on the disk is the first's.
    """
    trial.sandbox.behave("submit", "fail", kind="runner_disconnected", status=503, flat=True)
    trial.gated(Rule("PUT journal-submitted", "kill_done"))
    trial.run()
    trial.run()
    die_before_the_answer(trial)
    assert on_the_dashboard(trial, str(trial.accepted()[-1]["tag"]).removeprefix("render="))
    return recover(trial)


def at_random_in_a_long_one(trial: Trial) -> Shown:
    """The same with a voice of several segments: as many renders, each paid for by itself."""
    trial.voice = trial.ground.long_voice
    trial.settings["AVATAR_LIMITS__MAX_SECONDS"] = "4.5"
    return at_random(trial, run_seconds=LONG_RUN_SECONDS)


def at_random(trial: Trial, *, run_seconds: float = RUN_SECONDS) -> Shown:
    """Die up to three times at moments drawn from the seed, the provider now and then slow to answer."""
    for _ in range(trial.rng.randint(1, 3)):
        if trial.rng.random() < 0.5:
            trial.sandbox.behave("submit", "delay", seconds=trial.rng.uniform(0.2, 0.8))
        moment = trial.rng.uniform(0, run_seconds)
        victim = trial.generate(machine=trial.rng.choice("aab"))
        time.sleep(moment)
        if not trial.kill(victim) and victim.shown().published:
            break
    return recover(trial, machine=trial.rng.choice("aab"))

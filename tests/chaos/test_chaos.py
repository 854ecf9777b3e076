"""The short, fixed part of the chaos suite, and the suite's own conscience: a defect that it must notice."""

from collections.abc import Callable, Iterator

import pytest

from tests.chaos import alone, clocks, kills, peer, providers, races, stores, webhooks
from tests.chaos.case import Case, carry_out_all
from tests.chaos.ground import Ground, staged
from tests.chaos.witness import Verdict

pytestmark = [pytest.mark.server, pytest.mark.timeout(300)]

SEED = 20261121
#: One of each kind, those that cost something when they went wrong.
CHOSEN = {
    kills: (
        "kill PUT journal-intent 0",
        "kill_done PUT journal-intent 0",
        "kill PUT journal-submitted 0",
        "kill_done PUT render 0",
        "kill PUT manifest 0",
        "accepted, unanswered, then on b",
        "an old receipt and a new request",
    ),
    providers: (
        "answer lost after accept",
        "502 in HTML after accept",
        "404 on the first polls",
        "video URL expired",
    ),
    stores: (
        "down at PUT journal-submitted 0",
        "done, answered 500 five times, at intent",
        "overwrites in spite of If-None-Match",
    ),
    races: ("ab, round 0", "in step at the intent", "asleep between intent and request"),
    clocks: ("rival -10 min",),
    webhooks: (
        "1, in the request, then reconciled",
        "2, at the receipt, then run elsewhere",
        "4, Pixazo: in the request, then reconciled",
    ),
    alone: ("on, killed in the request, 0", "gateway_timeout, the run killed"),
}
CASES = [case for module, names in CHOSEN.items() for case in module.cases() if case.name in names]
RANDOM = [Case(kills.RANDOM, f"fixed trial {number}", kills.at_random) for number in range(3)]


@pytest.fixture(scope="module")
def ground() -> Iterator[Ground]:
    with staged(seed=SEED) as made:
        yield made


@pytest.fixture(scope="module")
def verdict_on(ground: Ground) -> Callable[[Case], Verdict]:
    """The verdict on a case; all of them are carried out, some at a time, when the first is asked for."""
    verdicts = dict(carry_out_all(ground, [*CASES, *RANDOM]))
    return verdicts.__getitem__


@pytest.mark.parametrize("case", [*CASES, *RANDOM], ids=lambda case: case.name)
def test_nothing_is_paid_twice_or_lost(verdict_on: Callable[[Case], Verdict], case: Case) -> None:
    """However it goes wrong: one payment at most, its video in the store or named, and the budget equals the sum."""
    verdict = verdict_on(case)
    assert (verdict.doubles, verdict.losses, verdict.faults) == (0, 0, [])


def test_every_chosen_case_exists() -> None:
    """A case that was renamed is not silently left out."""
    assert {case.name for case in CASES} == {name for names in CHOSEN.values() for name in names}


def test_fal_client_in_our_place_pays_ten_times(ground: Ground) -> None:
    """The sandbox counts what a careless client does to it."""
    assert peer.carry_out(ground).payments == peer.POSTS


def test_a_journal_that_overwrites_is_noticed(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a plain put in place of the conditional create, two workers in step pay twice, and the suite says so."""
    monkeypatch.setattr(ground, "mutate", "plain-put")
    (case,) = (case for case in races.cases() if case.name == "in step at the intent")
    ((_, verdict),) = carry_out_all(ground, [case])
    assert (verdict.payments, verdict.doubles) == (2, 1)
    assert not verdict.clean

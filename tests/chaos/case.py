"""A case: what is done to one job, and whether a video must come of it."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from time import monotonic

from tests.chaos.ground import Ground
from tests.chaos.trial import Trial, trial
from tests.chaos.victims import Shown
from tests.chaos.witness import Verdict, Witness

Play = Callable[[Trial], Shown]


@dataclass(frozen=True)
class Case:
    """One trial to be made.

    Attributes:
        row: the line of the table it counts in.
        name: what is tried.
        play: does it, recovers, and returns what the user was shown last.
        published: whether a video must be there in the end.
        alone: whether it disturbs what all trials share.
    """

    row: str
    name: str
    play: Play
    published: bool = True
    alone: bool = False


def carry_out(ground: Ground, case: Case) -> Verdict:
    """Play one case and judge it. A defect of the suite itself is a fault as well."""
    began = monotonic()
    with trial(ground, f"{case.row}: {case.name}") as made:
        try:
            last = case.play(made)
            verdict = Witness(made).judge(last, published=case.published)
        except Exception as error:  # noqa: BLE001 - the other cases go on
            verdict = Verdict(made.name, made.kills, faults=[f"{type(error).__name__}: {error}"])
        idle = [rule.on for rule in (made.gate.rules if made.gate else ()) if not rule.hits]
        verdict.faults += [f"nothing came by for {on}" for on in idle]
    verdict.seconds = monotonic() - began
    return verdict


def carry_out_all(
    ground: Ground, cases: Iterable[Case], *, until: int | None = None
) -> Iterator[tuple[Case, Verdict]]:
    """Those that share nothing several at a time, then the others one by one; `until` so many were killed."""
    waiting, alone, killed = iter(cases), [], 0
    with ThreadPoolExecutor(ground.abreast) as threads:
        running: dict[Future[Verdict], Case] = {}
        while True:
            while len(running) < ground.abreast and (until is None or killed < until):
                case = next(waiting, None)
                if case is None:
                    break
                if case.alone:
                    alone.append(case)
                else:
                    running[threads.submit(carry_out, ground, case)] = case
            if not running:
                break
            for done in wait(running, return_when=FIRST_COMPLETED).done:
                killed += done.result().kills
                yield running.pop(done), done.result()
    yield from ((case, carry_out(ground, case)) for case in alone)

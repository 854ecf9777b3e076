"""Schedules, one after another, and what came of them."""

import asyncio
import gc
import logging
import os
import sys
import tempfile
import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.simulation import disguise, product, wires
from tests.simulation.scenario import Scenario
from tests.simulation.world import World

#: Schedules between two collections of garbage.
COLLECT_EVERY = 20


@dataclass(frozen=True)
class Outcome:
    """What came of one schedule."""

    seed: int
    steps: int
    violations: tuple[str, ...]


def prepare() -> None:
    """Turn this program into a stage: from now on the product in it knows no real time, socket or thread."""
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    sys.unraisablehook = lambda _: None  # coroutines of the dead, when they are thrown away
    asyncio.tasks._all_tasks.add = lambda _: None  # type: ignore[attr-defined]  # nobody asks for all tasks
    product.stub_media()
    product.take_stores()
    wires.connect()
    disguise.disguise_clocks()
    deque(carry_out(range(40)), maxlen=0)  # what is made once is made now
    gc.collect()
    gc.freeze()
    gc.disable()  # between schedules only: it throws away the coroutines of the dead, which run a last time then


def carry_out(seeds: Iterable[int]) -> Iterator[Outcome]:
    """Carry out one schedule for each seed."""
    with tempfile.TemporaryDirectory(dir=_memory()) as folder:
        for seed in seeds:
            world = World(Scenario.draw(seed), Path(folder))
            world.carry_out()
            outcome = Outcome(seed, world.loop.steps, tuple(world.judge.violations))
            if seed % COLLECT_EVERY == 0:
                del world
                gc.collect()
            yield outcome


def tell(seed: int) -> str:
    """The story of one schedule, for whoever reads a violation."""
    with tempfile.TemporaryDirectory(dir=_memory()) as folder:
        world = World(Scenario.draw(seed), Path(folder))
        told = str(world.scenario)
        world.carry_out()
    entries = [
        f"{each['render_id'][:6]} {each['seq']} {each['at']} {each['state']}, attempt {each['attempt']}, {each['holder']}"
        for history in world.judge.journal.values()
        for each in history
    ]
    accepted = [
        f"{job.request_id} of {job.render_id[:6]} at {job.at:.1f} s, attempt {job.attempt}: {job.script}"
        for job in world.fal.accepted.values()
    ]
    return "\n  ".join([told, *world.ended, *entries, *accepted, *world.judge.violations])


def _memory() -> Path | None:
    """Where small files cost least, if there is such a place."""
    shared = Path("/dev/shm")
    return shared if shared.is_dir() and os.access(shared, os.W_OK) else None

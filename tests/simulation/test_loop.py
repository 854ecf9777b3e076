"""The loop that schedules run on: virtual time, processes that die and sleep, and one seed for one story."""

import asyncio
import subprocess
import sys

import pytest

from tests.simulation.loop import Process, VirtualLoop

HOUR = 3600.0


@pytest.fixture
def loop():
    made = VirtualLoop(1)
    yield made
    made.close()


def run(loop: VirtualLoop, *processes: Process) -> None:
    loop.run(lambda: all(process.ended for process in processes))


def test_hours_pass_at_once(loop):
    """A day's sleep, a time-out and tasks of its own: all of asyncio works, and nothing waits."""

    async def work() -> list[float]:
        await asyncio.sleep(24 * HOUR)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await asyncio.sleep(HOUR)
        await asyncio.gather(asyncio.sleep(1), asyncio.sleep(2))
        return await asyncio.to_thread(lambda: [loop.time()])

    process = loop.spawn(Process("one"), work())
    run(loop, process)
    assert process.task.result() == [24 * HOUR + 7]


def test_the_dead_run_no_further(loop):
    """Killed in the middle of a request: no except, no finally, no later line of it runs."""
    seen = []

    async def work() -> None:
        try:
            await asyncio.get_running_loop().request(lambda: seen.append("arrived"))
            seen.append("went on")
        except BaseException:
            seen.append("was told")
            raise
        finally:
            seen.append("cleaned up")

    process = Process("one")
    loop.after_step = lambda: loop.kill(process)
    loop.spawn(process, work())
    run(loop, process)
    assert seen == ["arrived"]


@pytest.mark.parametrize("stopped_clock", [False, True])
def test_a_sleeper_finds_its_clocks_as_the_system_keeps_them(loop, stopped_clock):
    """SIGSTOP leaves the monotonic clock running, a suspended machine stops it; timers go by it."""

    async def work() -> float:
        begun = asyncio.get_running_loop().time()
        await asyncio.sleep(10)
        return asyncio.get_running_loop().time() - begun

    process = loop.spawn(Process("one"), work())
    loop.at(1.0, lambda: loop.sleep(process, HOUR, stopped_clock=stopped_clock))
    run(loop, process)
    slept = process.task.result()
    assert slept == pytest.approx(10 if stopped_clock else HOUR + 1)
    assert loop.now == pytest.approx(HOUR + (10 if stopped_clock else 1))


def test_the_seed_decides_who_is_first():
    """Two processes ask at the same moment: over the seeds, either arrives first; for one seed, always the same."""

    def first(seed: int) -> str:
        loop, seen = VirtualLoop(seed), []

        async def work(name: str) -> None:
            await asyncio.get_running_loop().request(lambda: seen.append(name))

        processes = [loop.spawn(Process(name), work(name)) for name in "ab"]
        run(loop, *processes)
        loop.close()
        return seen[0]

    assert {first(seed) for seed in range(20)} == {"a", "b"}
    assert [first(seed) for seed in range(20)] == [first(seed) for seed in range(20)]


def test_a_seed_tells_the_same_story_again():
    """Two programs carry out the same schedules in the same number of steps, with the same violations."""
    command = [sys.executable, "-m", "tests.simulation", "--seed", "1000", "--schedules", "12"]
    told = [subprocess.run(command, capture_output=True, text=True, check=False).stdout for _ in range(2)]
    stories = [text.rpartition(" violations, ")[0] for text in told]
    assert stories[0] == stories[1]
    assert "12 schedules, " in stories[0]

"""Waiting for long renders: how many requests the provider gets, and how soon the end is noticed."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from benchmarks import driven
from benchmarks.driven import OURS, PEER, Order
from benchmarks.rows import Row, quantile
from benchmarks.stage import Stage, peer_environment
from tests.sandbox.running import Sandbox

BENCH = "waiting"
RENDERS = 10
#: Seconds a render takes: as the goal has it, and so that a run of all benchmarks ends in minutes.
LONG, SHORT = 300.0, 60.0
#: Seconds between two starts. A job takes CPU when it ends: ends that met would queue for the processor.
GAP = 2.0
#: Seconds after which everybody polls at the pace they keep.
SETTLED = 20.0
#: Requests to the provider's API; fetching the video is none.
CALLS = ("submit", "status", "stream", "result", "cancel")


@dataclass(frozen=True)
class Side:
    name: str
    runs: str
    provider: str = "fal"
    streams: bool = True


SIDES = (
    Side("fal, by its stream", OURS),
    Side("fal, stream refused", OURS, streams=False),
    # The stand-in's forecast is exact; the gateway's will not be.
    Side("pixazo, exact forecast", OURS, provider="pixazo"),
    Side("fal-client", PEER),
)


@dataclass(frozen=True)
class Waited:
    """Requests for each render; what they come to for one of 5 minutes; seconds to notice each end."""

    calls: float
    projected: float
    delays: tuple[float, ...]


def measure(stage: Stage) -> list[Row]:
    seconds = LONG if stage.full else SHORT
    how: dict[str, Any] = {"at_a_time": RENDERS, "gap": GAP, "warm": False}
    orders = {OURS: stage.order(RENDERS, **how), PEER: stage.peer_order(RENDERS, **how)}
    with ThreadPoolExecutor(len(SIDES)) as together:
        waits = [together.submit(_wait, stage, side, orders[side.runs], seconds) for side in SIDES]
        *ours, peer = [wait.result() for wait in waits]
    return [
        row
        for side, waited in zip(SIDES, ours, strict=False)
        for row in _rows(side.name, waited, peer, seconds)
    ]


def _wait(stage: Stage, side: Side, order: Order, seconds: float) -> Waited:
    sandbox = stage.sandbox(render_seconds=seconds)
    if not side.streams:
        sandbox.behave("stream", "answer", times=1_000_000, status=404)
    process = driven.start(side.runs, order, _environment(stage, side, sandbox))
    try:
        rate = _settled_rate(sandbox, seconds)
        report = driven.finish(process)
    finally:
        process.kill()
    calls = _calls(sandbox) / RENDERS
    return Waited(calls, calls + rate * (LONG - seconds), driven.delays(report, sandbox))


def _environment(stage: Stage, side: Side, sandbox: Sandbox) -> dict[str, str]:
    if side.runs == PEER:
        return peer_environment(sandbox)
    return stage.connected(sandbox.pixazo_env() if side.provider == "pixazo" else sandbox.fal_env())


def _settled_rate(sandbox: Sandbox, seconds: float) -> float:
    """Requests a second for one render, while all are under way and polled at the pace they keep."""
    sandbox.wait_for("accepts", RENDERS, seconds=120)
    time.sleep(SETTLED)
    began, before = time.monotonic(), _calls(sandbox)
    first = min(job["accepted"] for job in sandbox.state()["accepted"])
    time.sleep(max(1.0, first + seconds - 1 - time.time()))
    return (_calls(sandbox) - before) / (time.monotonic() - began) / RENDERS


def _calls(sandbox: Sandbox) -> int:
    counts = sandbox.state(brief=True)["counts"]
    return sum(counts[name] for name in CALLS)


def _rows(name: str, ours: Waited, peer: Waited, seconds: float) -> list[Row]:
    calls = Row(BENCH, f"calls for a render of {seconds:.0f} s: {name}", "", ours.calls, peer.calls)
    projected = Row(
        BENCH,
        f"calls for a render of 5 minutes, projected: {name}",
        "",
        ours.projected,
        peer.projected,
        "≤ 40",
    )
    late = [
        Row(
            BENCH,
            f"delay in noticing the end, {word}: {name}",
            "s",
            quantile(ours.delays, share),
            quantile(peer.delays, share),
            goal,
            samples=ours.delays,
        )
        for word, share, goal in (("p50", 0.5, ""), ("p95", 0.95, "≤ 2 s"))
    ]
    return [calls, *([projected] if seconds < LONG else []), *late]

"""CPU for each job, over 50 single jobs whose renders take no work here."""

import time

from benchmarks import driven
from benchmarks.driven import OURS, PEER
from benchmarks.rows import Row
from benchmarks.stage import Stage, peer_environment

BENCH = "cpu"
JOBS, AT_A_TIME = 50, 4
RENDER_SECONDS = 1.0
#: Seconds in which the Prefect server writes down what it was told.
AFTERMATH = 3.0


def measure(stage: Stage) -> list[Row]:
    sandbox = stage.sandbox(render_seconds=RENDER_SECONDS)
    order, environment = stage.order(JOBS, at_a_time=AT_A_TIME), stage.connected(sandbox.fal_env())
    before = stage.cpu()
    ours = driven.run(OURS, order, environment)
    time.sleep(AFTERMATH)
    # The job that only warms up is among those the services worked for.
    services = {name: (used - before[name]) / (JOBS + 1) for name, used in stage.cpu().items()}
    peer = driven.run(PEER, stage.peer_order(JOBS, at_a_time=AT_A_TIME), peer_environment(sandbox))
    client, script = ours.cpu / JOBS, peer.cpu / JOBS
    what = f"CPU per job, {JOBS} jobs, {AT_A_TIME} at a time: "
    return [
        Row(BENCH, what + "client + Prefect server", "s", client + services["server"], script, "≤ 0.3 s"),
        Row(BENCH, what + "client alone", "s", client, script),
        Row(BENCH, what + "Prefect server alone", "s", services["server"]),
        Row(BENCH, what + "embedded store", "s", services["store"]),
    ]

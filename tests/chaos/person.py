"""What a person does after a crash: run it again, and settle what the command says only a person can."""

import time
from collections.abc import Collection

from tests.chaos.trial import Trial
from tests.chaos.victims import Shown

#: Runs after which even a patient person gives up.
MOST_RUNS = 20
UNKNOWN = 5
#: Seconds between two runs of which the first failed.
PAUSE = 1.0


def recover(trial: Trial, *, final: Collection[str] = (), machine: str = "a", **how: float) -> Shown:
    """Run the job until it is published, or ends in one of the errors `final`; returns the last thing shown."""
    for _ in range(MOST_RUNS):
        shown = trial.run(machine=machine, **how)
        if shown.published or shown.error.get("type") in final:
            return shown
        if shown.code == UNKNOWN:
            settle(trial, shown, machine=machine)
        elif shown.code is not None:
            time.sleep(PAUSE)
    return shown


def settle(trial: Trial, shown: Shown, *, machine: str = "a") -> Shown:
    """Look on the provider's dashboard for the request that the error describes, and tell what was found."""
    render_id = shown.error["render_id"]
    found = on_the_dashboard(trial, render_id)
    word = ("--request-id", found) if found else ("--not-charged",)
    trial.resolved.append(why_a_person(trial, found))
    return trial.run("resolve", render_id, *word, "--json", machine=machine)


def why_a_person(trial: Trial, found: str | None) -> str:
    """Why no machine could settle it. `AssertionError` if the provider's list of requests tells of it."""
    if found is None:
        return f"{trial.provider} never got it, which no list can prove"
    if trial.provider == "pixazo":
        return "Pixazo took it on, and has no list of requests"
    assert not trial.sandbox.options.get("payloads", True), (
        f"a person was asked, and fal's list tells of {found}"
    )
    return "fal took it on, and this account's list of requests shows no inputs"


def on_the_dashboard(trial: Trial, render_id: str) -> str | None:
    """The request tagged with the render id that has not failed; Pixazo's are told by their prompt alone."""
    for job in reversed(trial.accepted()):
        if not job["failed"] and job["tag"] in {f"render={render_id}", None}:
            return str(job["request_id"])
    return None

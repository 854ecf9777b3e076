"""`avatar up`: everything on one machine, kept running until it is told to stop."""

import os
import sys
import time

from avatar.errors import AvatarError
from avatar.local import record as locks
from avatar.local.deploy import deploy
from avatar.local.environment import Services, environment
from avatar.local.processes import identify
from avatar.local.record import StateDirectory
from avatar.local.services import Say, find, revive, services
from avatar.local.worker import POOL
from avatar.settings import AvatarSettings

#: Seconds a revived service must live for its death not to count with the one before.
STABLE = 60.0
#: Deaths in a row before `up` gives up.
MOST_DEATHS = 5


def aloud(text: str) -> None:
    """Say it on stdout at once, also when that is a pipe."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def run_up(settings: AvatarSettings, *, say: Say = aloud) -> int:
    """Run store, Prefect server, deployments and workers until SIGINT or SIGTERM; returns the exit code.

    A service that dies is started again. A second `up` on the same state directory says where the first one
    is, and ends.

    Raises:
        AvatarError: something did not start, or keeps dying; what was started has been stopped again.
    """
    state = StateDirectory(settings.state_dir)
    state.prepare()
    with locks.exclusive_now(state.up) as ours:
        if not ours:
            where = find(settings).ui_url or "still starting"
            say(f"avatar up is already running: {where}")
            return 0
        try:
            with services(settings, worker=True, gallery=True, bridge=True, say=say) as running:
                _run(settings, state, running, say)
        except KeyboardInterrupt:
            say("Stopped.")
        return 0


def _run(settings: AvatarSettings, state: StateDirectory, running: Services, say: Say) -> None:
    with locks.exclusive(state.starting):
        state.change(up=identify(os.getpid()))
    try:
        names = deploy(environment(settings, running))
        _announce(settings, running, names, say)
        _supervise(settings, state, running, say)
    except KeyboardInterrupt:
        say("Stopping.")
        raise
    finally:
        with locks.exclusive(state.starting):
            state.change(up=None)


def _announce(settings: AvatarSettings, running: Services, names: list[str], say: Say) -> None:
    store = running.applied_to(settings).store
    say(f"Prefect UI   {running.ui_url or running.api_url}")
    say(f"Gallery      {running.gallery_url}")
    say(f"Bridge       {running.bridge_url}")
    say(f"Store        {store.endpoint}, bucket {store.bucket}")
    say(f"Workers      online in pool {POOL}, one of them for upkeep alone")
    say(f"Deployments  {', '.join(names)}")
    say("Everything runs. Ctrl-C stops it.")


def _supervise(settings: AvatarSettings, state: StateDirectory, running: Services, say: Say) -> None:
    deaths, revived = 0, time.monotonic()
    while True:
        time.sleep(1)
        dead = state.read().dead()
        if not dead:
            continue
        deaths = 1 if time.monotonic() - revived > STABLE else deaths + 1
        if deaths > MOST_DEATHS:
            raise AvatarError(
                f"{dead} keeps dying; gave up after {MOST_DEATHS} attempts. Renders under way are safe: they are in "
                f"the journal. See the logs in {state.path / 'logs'}."
            )
        say(f"{dead} died; starting it again.")
        time.sleep(2 ** (deaths - 1))
        running = revive(settings, running, say)
        revived = time.monotonic()

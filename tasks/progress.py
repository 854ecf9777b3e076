"""Where a job stands, for whoever wants to show it: the command's bars, a test, the Prefect artifact."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tasks.models import Snapshot

#: The stages of a job, in order.
STAGES = ("upload", "validate", "submit", "render", "collect", "publish")


@dataclass(frozen=True)
class Step:
    """A stage was entered, or moved on."""

    stage: str
    text: str
    render_id: str | None = None
    snapshot: Snapshot | None = None
    age: float | None = None  # seconds since the render was submitted


Listener = Callable[[Step], None]
_listeners: list[Listener] = []


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Send every step announced in this process to `listener` while the block runs."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def announce(step: Step) -> None:
    for listener in tuple(_listeners):
        listener(step)

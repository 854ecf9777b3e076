"""A look at a render, in one line for people."""

from tasks.models import Snapshot


def describe_snapshot(snapshot: Snapshot, age: float) -> str:
    """State, place in the queue, per cent, age in seconds, time left: as far as the provider tells."""
    parts = [str(snapshot.state), f"{age:.0f} s since submit"]
    if snapshot.position is not None:
        parts.insert(1, f"position {snapshot.position} in the queue")
    if snapshot.progress is not None:
        parts.insert(1, f"{snapshot.progress:.0%}")
    if snapshot.eta_seconds is not None:
        parts.append(f"about {snapshot.eta_seconds:.0f} s to go")
    return ", ".join(parts)

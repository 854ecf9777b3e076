"""What Prefect runs, in what order: `generate_avatar` for one job, `generate_batch` for many."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flows.batch import generate_batch
    from flows.generate import generate_avatar

__all__ = ["generate_avatar", "generate_batch"]

_HOME = {"generate_avatar": "flows.generate", "generate_batch": "flows.batch"}


def __getattr__(name: str) -> Any:
    """Imported when it is first used: a run loads the one flow that it runs."""
    if name not in _HOME:
        raise AttributeError(f"module 'flows' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)

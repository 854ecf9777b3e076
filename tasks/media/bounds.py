"""What a process that decodes may take: processor time, memory, disk, files; no network and no other program.

Enforced by the system. Linux keeps all of it; elsewhere memory and network are not limited (macOS knows
`RLIMIT_DATA` but does not mind it, and has no seccomp): the time limits and the separate process remain.
"""

import math
import os
import resource
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import tasks
from tasks.media.system_calls import forbid_network

__all__ = ["MEMORY_BYTES", "Bounds", "bounds_for", "confine", "environment"]

#: Private memory, so that with the libraries' own pages a decoder stays within 1 GiB.
MEMORY_BYTES = 896 * 2**20
#: All address space: a second line where the first is not kept (kernels before 4.7).
ADDRESS_BYTES = 3 * 2**30
OPEN_FILES = 256
#: Processor seconds for any file, and for each of its megabytes. A minute of 1080p takes a third of that.
CPU_SECONDS, CPU_SECONDS_PER_MB, MOST_CPU_SECONDS = 8, 6.0, 1800
#: A busy machine lets a process wait; one that waits this much longer than it works hangs.
PATIENCE_SECONDS, PATIENCE = 30, 3
#: What may be written: re-encoding a picture well takes several times the room it had.
FILE_BYTES, FILE_BYTES_PER_BYTE = 64 * 2**20, 4
#: The only variables a decoding process is given; none holds a secret.
KEPT_VARIABLES = (
    "PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH",
    "PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX", "PYTHONUTF8",
)  # fmt: skip


@dataclass(frozen=True)
class Bounds:
    """Of one piece of work: processor seconds, seconds by the clock, bytes of any file written."""

    cpu_seconds: int
    wall_seconds: float
    file_bytes: int

    def apply(self) -> None:
        """Let this process have so much from now on."""
        used = math.ceil(time.process_time())
        _lower(resource.RLIMIT_CPU, used + self.cpu_seconds)
        _lower(resource.RLIMIT_FSIZE, self.file_bytes)


def bounds_for(files: Iterable[Path]) -> Bounds:
    """What work on these files may take. Files that are not there count nothing."""
    size = sum(file.stat().st_size for file in files if file.is_file())
    cpu = min(MOST_CPU_SECONDS, math.ceil(CPU_SECONDS + size / 1e6 * CPU_SECONDS_PER_MB))
    return Bounds(cpu, PATIENCE_SECONDS + PATIENCE * cpu, FILE_BYTES + FILE_BYTES_PER_BYTE * size)


def confine() -> None:
    """Give up, for good, what decoding does not need. `Bounds.apply` limits the rest, work by work."""
    for kind, most in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_DATA, MEMORY_BYTES),
        (resource.RLIMIT_AS, ADDRESS_BYTES),
        (resource.RLIMIT_NOFILE, OPEN_FILES),
    ):
        _lower(kind, most, for_good=True)
    forbid_network()


def _lower(kind: int, most: int, *, for_good: bool = False) -> None:
    _, hard = resource.getrlimit(kind)
    if hard != resource.RLIM_INFINITY:
        most = min(most, hard)
    resource.setrlimit(kind, (most, most if for_good else hard))


def environment() -> dict[str, str]:
    """The variables for a decoding process: enough to find its code, and nothing else of ours."""
    kept = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
    return kept | {
        "PYTHONPATH": str(Path(tasks.__file__).parent.parent),
        # Memory that is reserved and never used would count against the limit.
        "MALLOC_ARENA_MAX": "2",
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
    }

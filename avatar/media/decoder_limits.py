"""What a process that decodes may take: processor time, memory, disk, files; no network and no other program."""

import ctypes
import errno
import math
import os
import platform
import resource
import struct
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

# Taking the network, and the starting of programs, from this process for good (Linux: seccomp).
#: linux/prctl.h, linux/seccomp.h, linux/filter.h, linux/audit.h.
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
LOAD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
ALLOW, REFUSE = 0x7FFF_0000, 0x0005_0000 | errno.EACCES
NUMBER_OFFSET, ARCHITECTURE_OFFSET = 0, 4
#: By machine: the architecture's name in seccomp, and the numbers of socket, connect, execve, execveat, ptrace,
#: process_vm_readv, process_vm_writev and io_uring_setup (which would open sockets around the others).
MACHINES = {
    "x86_64": (0xC000_003E, (41, 42, 59, 322, 101, 310, 311, 425)),
    "aarch64": (0xC000_00B7, (198, 203, 221, 281, 117, 270, 271, 425)),
}


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def forbid_network() -> bool:
    """Let no socket be opened and no program be started by this process. False where that cannot be had."""
    known = MACHINES.get(platform.machine())
    if sys.platform != "linux" or known is None:
        return False
    code = b"".join(_instructions(*known))
    kept = ctypes.create_string_buffer(code, len(code))
    program = _Program(len(code) // 8, ctypes.cast(kept, ctypes.c_void_p))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        return False
    return not libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0)


def _instructions(architecture: int, refused: tuple[int, ...]) -> list[bytes]:
    """A filter: calls of another architecture and those named are refused, all others allowed."""
    last = len(refused)
    return [
        _instruction(LOAD, ARCHITECTURE_OFFSET),
        _instruction(JUMP_IF_EQUAL, architecture, if_not=last + 2),
        _instruction(LOAD, NUMBER_OFFSET),
        *(_instruction(JUMP_IF_EQUAL, number, if_so=last - place) for place, number in enumerate(refused)),
        _instruction(RETURN, ALLOW),
        _instruction(RETURN, REFUSE),
    ]


def _instruction(code: int, value: int, *, if_so: int = 0, if_not: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_so, if_not, value)


# What a process that decodes may take: processor time, memory, disk, files; no network and no other program.
#
# Enforced by the system. Linux keeps all of it; elsewhere memory and network are not limited (macOS knows
# `RLIMIT_DATA` but does not mind it, and has no seccomp): the time limits and the separate process remain.

#: Private memory, so that with the libraries' own pages a decoder stays within 1 GiB.
MEMORY_BYTES = 896 * 2**20
#: All address space: a second line where the first is not kept (kernels before 4.7).
ADDRESS_BYTES = 3 * 2**30
OPEN_FILES = 256
#: Processor seconds for any file, and for each of its megabytes. A minute of 1080p takes a third of that.
CPU_SECONDS, CPU_SECONDS_PER_MB, MOST_CPU_SECONDS = 8, 6.0, 1800
#: A busy machine lets a process wait; one that waits this much longer than it works hangs.
WALL_SECONDS, WALL_SECONDS_PER_CPU = 30, 3
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


def bounds_for(files: Iterable[Path], work: float = 1.0) -> Bounds:
    """What work on these files may take: of processor time, `work` times what decoding them does.

    Files that are not there count nothing.
    """
    size = sum(file.stat().st_size for file in files if file.is_file())
    cpu = min(MOST_CPU_SECONDS, math.ceil(work * (CPU_SECONDS + size / 1e6 * CPU_SECONDS_PER_MB)))
    return Bounds(cpu, WALL_SECONDS + WALL_SECONDS_PER_CPU * cpu, FILE_BYTES + FILE_BYTES_PER_BYTE * size)


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
        "PYTHONPATH": str(Path(__file__).parents[2]),
        # Memory that is reserved and never used would count against the limit.
        "MALLOC_ARENA_MAX": "2",
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
    }

"""The process that decodes: `python -m avatar.media.decoder DESCRIPTOR`, started and asked by `avatar.media.confined`.

What it may take (processor time, memory, disk, files; no network and no other program), and its work: it answers one
call after another, and ends when whoever started it does, even in the middle of one. With `--fork` it decodes nothing
itself, and forks a child for each connection that it is sent.
"""

import ctypes
import errno
import gc
import importlib
import math
import os
import platform
import resource
import selectors
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from typing import Any

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


#: Troubles of the machine, which say nothing about the file.
OURS = {
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EMFILE, errno.ENFILE,
}  # fmt: skip
#: Of a library's own words, no more than this is repeated.
WORDS = 200


def trouble_of(error: Exception) -> dict[str, Any]:
    """How an error of a decoder is told to who asked: the machine's trouble by its number, else its own words."""
    number = getattr(error, "errno", None)
    if isinstance(error, OSError) and number in OURS:
        return {"machine": [number, str(error.strerror)]}
    if number == errno.EFBIG:
        return {"fault": "it would be too large on disk"}
    # FFmpeg's own words come with numbers and paths of this machine around them.
    text = str(getattr(error, "strerror", None) or error)
    words = "".join(letter if letter.isprintable() else " " for letter in text)
    return {"fault": f"{type(error).__name__}: {words[:WORDS]}"}


#: A child's first message, and the last one, by whoever forked it: its pid, and its exit status as `subprocess` has it.
READY, ENDED = b"ready ", b"ended "
#: What decoding imports, before it is asked. Nothing of it may start a thread: a fork has only the one it is made in.
MODULES = (
    "avatar.media.portrait",
    "avatar.media.voice",
    "avatar.media.inspect_video",
    "avatar.media.marking",
)


def main(arguments: list[str]) -> None:
    """Serve the connection whose descriptor is given, to its end."""
    from avatar.media import confined  # which imports this module, to start it

    for module in MODULES:
        importlib.import_module(module)
    connection: Connection[bytes, bytes] | None
    if arguments[0] == "--fork":
        connection = fork_children(socket.socket(fileno=int(arguments[1])))
        if connection is None:
            return
    else:
        connection = Connection(int(arguments[0]))
    confine()
    confined.decode_here()
    waiting: SimpleQueue[bytes] = SimpleQueue()
    threading.Thread(target=_receive, args=(connection, waiting), daemon=True).start()
    connection.send_bytes(READY + str(os.getpid()).encode())
    fit = True
    while fit:
        answered, fit = confined.answer(waiting.get())
        connection.send_bytes(answered)


def _receive(connection: "Connection[bytes, bytes]", waiting: "SimpleQueue[bytes]") -> None:
    while True:
        try:
            waiting.put(connection.recv_bytes())
        except (EOFError, OSError):
            # The other side is gone, perhaps killed: nobody waits for what is being decoded.
            os._exit(0)


def fork_children(line: socket.socket) -> "Connection[bytes, bytes] | None":
    """Fork for each connection that comes over `line`, until nobody holds its other end.

    Returns:
        In each fork its connection, and in the end None.
    """
    forbid_network()
    gc.collect()
    gc.freeze()  # so that forks share it
    with selectors.DefaultSelector() as selector:
        selector.register(line, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.data:
                    _tell_end(*key.data)
                    selector.unregister(key.fd)
                    os.close(key.fd)
                    continue
                _, descriptors, _, _ = socket.recv_fds(line, 1, 1)
                if not descriptors:
                    return None
                pid = os.fork()
                if not pid:
                    _close_all(selector)
                    line.detach()
                    os.setsid()
                    return Connection(descriptors[0])
                selector.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, descriptors[0]))


def _close_all(selector: selectors.BaseSelector) -> None:
    """In a fork: the line that its parent listens on, and what is known of other forks."""
    for key in tuple(selector.get_map().values()):
        os.close(key.fd)
        if key.data:
            os.close(key.data[1])


def _tell_end(pid: int, descriptor: int) -> None:
    """Tell whoever asks a fork, over its own connection, how it ended."""
    _, status = os.waitpid(pid, 0)
    os.set_blocking(descriptor, False)  # nobody may read it
    with suppress(OSError), Connection(descriptor) as connection:
        connection.send_bytes(ENDED + str(os.waitstatus_to_exitcode(status)).encode())


if __name__ == "__main__":
    main(sys.argv[1:])

"""Taking the network, and the starting of programs, from this process for good (Linux: seccomp)."""

import ctypes
import errno
import platform
import struct
import sys

__all__ = ["forbid_network"]

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
